//! Writes the valid inputs of every target as the first corpus of the fuzzers: `seeds fuzz/corpus`.

use std::path::PathBuf;

use bitnet_fuzzing::TARGETS;

fn main() -> std::io::Result<()> {
    let root = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "fuzz/corpus".into()));
    for target in TARGETS {
        let folder = root.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, bytes) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), bytes)?;
        }
        println!("{}", folder.display());
    }
    Ok(())
}
