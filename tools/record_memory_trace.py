"""Turns a memory snapshot of a run into the list of its large allocations that the tests replay.

    bitnet run --model M.gguf --memory-snapshot S.pickle --max-tokens 32 "Once upon a time"
    python3 tools/record_memory_trace.py S.pickle 1048576 > crates/bitnet-core/src/memory/tests/load.trace

A line is `SIZE` for an allocation or `-N` for the deallocation of allocation N, counted from 1. Blocks below the least
size, and deallocations of blocks from before the first kept event, are left out.
"""

import pickle
import sys


def main():
    path, least = sys.argv[1], int(sys.argv[2])
    with open(path, "rb") as file:
        (trace,) = pickle.load(file)["device_traces"]
    live, count = {}, 0
    for event in trace:
        if event["size"] < least:
            continue
        if event["action"] == "alloc":
            count += 1
            live[event["addr"]] = count
            print(event["size"])
        elif event["addr"] in live:
            print(-live.pop(event["addr"]))


main()
