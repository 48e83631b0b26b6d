//! Reports in the forms that people and tools read: text, JSON, memory_viz snapshots, Perfetto traces.

use std::fmt::Write;
use std::panic::Location;
use std::time::Duration;

use serde_json::{Value, json};

use super::pickle::pickle;
use super::traces::{Step, in_order};
use super::{TrackingLevel, Usage};
use crate::memory::small::Slot;
use crate::memory::{HybridMemoryPool, MemoryMetrics};

/// Returns bytes with a unit.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn place(site: Option<&Location<'_>>) -> String {
    site.map_or_else(|| "an unknown place".into(), |site| format!("{}:{}", site.file(), site.line()))
}

fn usage_json(usage: &[Usage]) -> Value {
    let row = |usage: &Usage| {
        json!({
            "name": usage.name, "current_bytes": usage.current_bytes, "peak_bytes": usage.peak_bytes,
            "allocated_bytes": usage.allocated_bytes, "freed_bytes": usage.freed_bytes,
            "allocations": usage.allocations, "deallocations": usage.deallocations,
        })
    };
    usage.iter().map(row).collect()
}

/// The frames of a block as memory_viz wants them: the call site, or the tag alone.
fn frames(tag: &str, site: Option<&Location<'_>>) -> Value {
    let (file, line) = site.map_or(("", 0), |site| (site.file(), site.line()));
    json!([{ "name": tag, "filename": file, "line": line }])
}

impl HybridMemoryPool {
    /// Returns what the pool knows as text, for people.
    pub fn report_text(&self) -> String {
        let MemoryMetrics { current_allocated, peak_allocated, allocation_count, .. } = self.get_metrics();
        let footprint = self.footprint();
        let mut out = format!(
            "{} in {} blocks, peak {}, {allocation_count} allocations; {} held, {} reserved, {} bookkeeping\n",
            size(current_allocated),
            self.get_metrics().active_allocations(),
            size(peak_allocated),
            size(footprint.held),
            size(footprint.reserved),
            size(footprint.metadata),
        );
        let Some(detailed) = self.get_detailed_metrics() else { return out };
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!(
            "tracking {:?}, pressure {:?}, fragmentation {:.1} %",
            detailed.level,
            detailed.pressure_level,
            detailed.fragmentation_ratio * 100.0
        ));
        let tables =
            [("device", &detailed.by_device), ("tag", &detailed.by_tag), ("class", &detailed.by_class)];
        for (title, table) in tables {
            for usage in table {
                line(format!(
                    "{title} {}: {} now, {} peak, {} allocated, {} freed",
                    usage.name,
                    size(usage.current_bytes),
                    size(usage.peak_bytes),
                    size(usage.allocated_bytes),
                    size(usage.freed_bytes),
                ));
            }
        }
        for leak in self.leaks(Duration::ZERO) {
            line(format!(
                "alive: {} blocks, {}, tag {}, from {}, oldest {:.1} s",
                leak.blocks,
                size(leak.bytes),
                leak.tag,
                place(leak.site),
                leak.oldest.as_secs_f64()
            ));
        }
        for pattern in self.patterns().patterns {
            let _ = writeln!(out, "pattern ({:.4}): {}", pattern.confidence, pattern.description);
        }
        out
    }

    /// Returns what the pool knows as a JSON object with `"schema": 1`.
    pub fn report_json(&self) -> Value {
        let (metrics, footprint) = (self.get_metrics(), self.footprint());
        let mut report = json!({
            "schema": 1,
            "metrics": {
                "current_bytes": metrics.current_allocated, "peak_bytes": metrics.peak_allocated,
                "allocated_bytes": metrics.total_allocated, "freed_bytes": metrics.total_deallocated,
                "allocations": metrics.allocation_count, "deallocations": metrics.deallocation_count,
                "small_bytes": metrics.small_allocated, "large_bytes": metrics.large_allocated,
            },
            "footprint": {
                "reserved": footprint.reserved, "held": footprint.held, "free": footprint.free,
                "purgeable": footprint.purgeable, "largest_free": footprint.largest_free,
                "metadata": footprint.metadata,
            },
        });
        let Some(detailed) = self.get_detailed_metrics() else { return report };
        let leaks = self.leaks(Duration::ZERO).into_iter().map(|leak| {
            json!({
                "tag": leak.tag, "site": leak.site.map(|site| place(Some(site))), "blocks": leak.blocks,
                "bytes": leak.bytes, "oldest_s": leak.oldest.as_secs_f64(),
            })
        });
        let patterns = self.patterns().patterns.into_iter().map(|pattern| {
            json!({
                "kind": format!("{:?}", pattern.kind).to_lowercase(), "confidence": pattern.confidence,
                "description": pattern.description,
            })
        });
        report["tracking"] = json!({
            "level": format!("{:?}", detailed.level).to_lowercase(),
            "pressure": format!("{:?}", detailed.pressure_level).to_lowercase(),
            "fragmentation": detailed.fragmentation_ratio,
            "by_class": usage_json(&detailed.by_class),
            "by_device": usage_json(&detailed.by_device),
            "by_tag": usage_json(&detailed.by_tag),
            "alive": leaks.collect::<Value>(),
            "patterns": patterns.collect::<Value>(),
        });
        report
    }

    /// Returns live blocks and events as the pickle that PyTorch's memory_viz opens.
    ///
    /// A segment is one block of its own or one span of small blocks; a device is numbered as in the pool.
    pub fn snapshot_pickle(&self) -> Vec<u8> {
        pickle(&json!({
            "segments": self.segments(), "device_traces": self.device_traces(), "allocator_settings": {},
            "external_annotations": [],
        }))
    }

    /// Returns the segments with their blocks, as memory_viz draws them.
    pub(in crate::memory) fn segments(&self) -> Value {
        let mut segments: Vec<(u32, Value, Vec<Value>)> = Vec::new();
        let mut blocks = self.live_blocks();
        blocks.sort_by_key(|block| block.address);
        for block in blocks {
            let entry = json!({
                "address": block.address, "size": block.size, "requested_size": block.size,
                "state": "active_allocated", "frames": frames(block.tag, block.site),
            });
            // Segments overlap nowhere, so blocks of one follow each other by address.
            let record = block.place.record;
            match segments.last_mut().filter(|(number, ..)| *number == record) {
                Some((_, _, entries)) => entries.push(entry),
                None => {
                    let kind = if self.is_large(block.place) { "large" } else { "small" };
                    let segment = json!({
                        "device": block.device, "address": block.address, "stream": 0, "segment_type": kind,
                        "segment_pool_id": [0, 0], "is_expandable": false, "frames": [],
                    });
                    segments.push((record, segment, vec![entry]));
                }
            }
        }
        let number = |value: &Value, field: &str| value[field].as_u64().unwrap_or(0);
        let finish = |(_, mut segment, entries): (u32, Value, Vec<Value>)| {
            let used: u64 = entries.iter().map(|entry| number(entry, "size")).sum();
            let end = entries.iter().map(|entry| number(entry, "address") + number(entry, "size")).max();
            let total = end.unwrap_or(0) - number(&segment, "address");
            segment["total_size"] = total.into();
            for field in ["allocated_size", "active_size", "requested_size"] {
                segment[field] = used.into();
            }
            segment["blocks"] = fill_gaps(entries).into();
            segment
        };
        segments.into_iter().map(finish).collect()
    }

    /// Returns the events of each device, as memory_viz draws them.
    pub(in crate::memory) fn device_traces(&self) -> Value {
        let Some(tracking) = self.shared.tracking() else { return json!([]) };
        let mut traces = vec![Vec::new(); self.shared.devices.len()];
        let device = |slot: Slot| self.shared.records.get(slot.record).map_or(0, |record| record.device);
        let events = tracking.events();
        let events: Vec<_> =
            events.iter().map(|(event, thread)| (std::sync::Arc::as_ptr(thread).addr(), *event)).collect();
        for Step { time, device, event } in in_order(&events, &tracking.moves(), device) {
            let Some(trace) = traces.get_mut(device as usize) else { continue };
            let action = if event.freed { "free_completed" } else { "alloc" };
            trace.push(json!({
                "action": action, "addr": event.address, "size": event.size, "stream": 0, "time_us": time / 1000,
                "frames": frames(super::scope::name(event.tag), super::site::site(event.site)),
            }));
        }
        traces.into()
    }

    /// Returns the events as a trace that Perfetto and chrome://tracing open: live bytes as a counter, and an
    /// instant for every event.
    pub fn trace_json(&self) -> Value {
        let events = self.timeline().events;
        let micros = |time: Duration| time.as_nanos() as f64 / 1000.0;
        let mut out: Vec<Value> = Vec::with_capacity(2 * events.len());
        for event in events {
            let time = micros(event.time);
            let name = if event.freed { "deallocate" } else { "allocate" };
            out.push(json!({
                "name": "live bytes", "ph": "C", "ts": time, "pid": 1, "args": { "bytes": event.live_bytes },
            }));
            out.push(json!({
                "name": name, "cat": event.tag, "ph": "i", "s": "t", "ts": time, "pid": 1, "tid": event.thread,
                "args": { "bytes": event.size, "site": event.site.map(|site| place(Some(site))) },
            }));
        }
        json!({ "traceEvents": out, "displayTimeUnit": "ns" })
    }

    /// Returns the level of tracking.
    pub fn tracking_level(&self) -> TrackingLevel {
        self.shared.tracking().map_or(TrackingLevel::None, super::Tracking::level)
    }
}

/// Puts inactive blocks between the live ones of a segment, which memory_viz draws without gaps.
fn fill_gaps(entries: Vec<Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    let mut end = None;
    for entry in entries {
        let (address, size) = (entry["address"].as_u64().unwrap_or(0), entry["size"].as_u64().unwrap_or(0));
        if let Some(end) = end.filter(|&end| end < address) {
            let gap = address - end;
            out.push(json!({
                "address": end, "size": gap, "requested_size": gap, "state": "inactive", "frames": [],
            }));
        }
        end = Some(address + size);
        out.push(entry);
    }
    out
}
