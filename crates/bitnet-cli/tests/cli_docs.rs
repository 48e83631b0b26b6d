//! Compares docs/cli.md with the program's own `--help`. `UPDATE_DOCS=1` writes the file instead.
// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};

const COMMANDS: [&str; 10] =
    ["run", "chat", "eval", "logits", "tokenize", "convert", "quantize", "inspect", "bench", "doctor"];

const HEAD: &str = "\
# The command line

This page is the program's own `--help`, command by command. It is written by
`UPDATE_DOCS=1 cargo test -p bitnet-cli --test cli_docs` and compared with the program by the same test.
";

fn help(arguments: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    // The width of the text follows a terminal, so there is to be none.
    program.args(arguments).arg("--help").env_remove("COLUMNS").stdin(Stdio::null());
    let output = program.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    // Windows calls the program bitnet.exe.
    lines.join("\n").replace("bitnet.exe", "bitnet").trim_end().to_owned()
}

fn page() -> String {
    let mut page = format!("{HEAD}\n## bitnet\n\n```text\n{}\n```\n", help(&[]));
    for command in COMMANDS {
        page.push_str(&format!("\n## bitnet {command}\n\n```text\n{}\n```\n", help(&[command])));
    }
    page
}

#[test]
fn cli_docs() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&file).unwrap().replace("\r\n", "\n");
    for (number, (stored, wanted)) in stored.lines().zip(page.lines()).enumerate() {
        assert_eq!(stored, wanted, "docs/cli.md line {}: run with UPDATE_DOCS=1", number + 1);
    }
    assert_eq!(stored.lines().count(), page.lines().count(), "docs/cli.md: run with UPDATE_DOCS=1");
}

#[test]
fn every_command_of_the_help_is_documented() {
    let overview = help(&[]);
    let (_, list) = overview.split_once("Commands:\n").unwrap();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let named: Vec<_> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(named, COMMANDS);
}
