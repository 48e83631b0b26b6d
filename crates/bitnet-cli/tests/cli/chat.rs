//! `bitnet chat`, driven through a pipe.

use bitnet_testing::temp::TempDir;

use crate::program::{Outcome, output_with_input, text};

// One line an answer, so that they can be told apart.
const CHAT: [&str; 7] = ["chat", "--seed", "4", "--max-tokens", "20", "--stop", "\n"];

fn talk(input: &str) -> Outcome {
    output_with_input(&CHAT, input)
}

#[test]
fn answers_follow_the_conversation_which_reset_forgets() {
    let told =
        talk("Tell me of the king.\nAnd then?\n/reset\nTell me of the king.\n/quit\nnever read\n").ok();
    let lines: Vec<_> = told.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{told:?}");
    assert!(!lines[0].trim().is_empty());
    assert_eq!(lines[2], lines[0]);
    assert_ne!(lines[1], lines[0]);
    assert!(told.stderr.contains("bundled model") && told.stderr.contains("no chat template"), "{told:?}");
}

#[test]
fn a_saved_conversation_goes_on_where_it_was() {
    let folder = TempDir::new("chat");
    let file = folder.path().join("talk.json");
    let file = text(&file);
    let told = talk(&format!(
        "/system Be kind.\nTell me of the king.\n/save {file}\nAnd then?\n/reset\n/system\n/load {file}\nAnd then?\n"
    ))
    .ok();
    let lines: Vec<_> = told.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{told:?}");
    assert_eq!(lines[2], lines[1]);
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!((&saved["schema"], saved["messages"].as_array().unwrap().len()), (&1.into(), 3));
    assert_eq!(saved["messages"][0]["content"], "Be kind.");
    assert_eq!(saved["messages"][2]["content"], lines[0].trim());
    // In another process too.
    let again = talk(&format!("/load {file}\nAnd then?\n")).ok();
    assert_eq!(again.stdout.lines().next(), Some(lines[1]));
}

#[test]
fn commands_that_fail_leave_the_conversation() {
    let told =
        talk("Hello.\n/load /absent/file\n/save /absent/folder/file\n/save\n/nonsense\n/help\n\nGo on.\n")
            .ok();
    assert_eq!(told.stdout.lines().count(), 2, "{told:?}");
    for needle in ["/absent/file: cannot read", "/absent/folder/file: cannot write", "/nonsense", "/reset"] {
        assert!(told.stderr.contains(needle), "{needle}: {told:?}");
    }
    assert_eq!(told.stdout, talk("Hello.\nGo on.\n").ok().stdout);
}

#[test]
fn a_message_too_long_for_the_context_is_dropped_with_advice() {
    let told = talk(&format!("{}\nHello.\n", "king ".repeat(1000))).ok();
    assert!(told.stderr.contains("/reset starts a new conversation"), "{told:?}");
    assert_eq!(told.stdout, talk("Hello.\n").ok().stdout);
}
