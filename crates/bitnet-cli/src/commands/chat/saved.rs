//! Conversations as JSON files.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use bitnet_inference::chat::Message;
use serde::{Deserialize, Serialize};

use crate::atomic::AtomicFile;
use crate::input;
use crate::output::SCHEMA;

#[derive(Serialize, Deserialize)]
struct Conversation {
    schema: u32,
    #[serde(default)]
    model: String,
    messages: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    role: Role,
    content: String,
}

/// Who speaks. Templates turn roles into control tokens, so a file may not bring others.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }

    fn of(name: &str) -> Option<Self> {
        [Role::System, Role::User, Role::Assistant].into_iter().find(|role| role.name() == name)
    }
}

/// Writes a conversation; the file appears whole or not at all.
pub fn write(file: &Path, model: &str, messages: &[Message]) -> Result<()> {
    let entries = messages.iter().map(|message| {
        let role =
            Role::of(&message.role).with_context(|| format!("role {:?} cannot be saved", message.role))?;
        Ok(Entry { role, content: message.content.clone() })
    });
    let messages = entries.collect::<Result<_>>()?;
    let conversation = Conversation { schema: SCHEMA, model: model.to_owned(), messages };
    let mut json = serde_json::to_string_pretty(&conversation)?;
    json.push('\n');
    let mut out = AtomicFile::create(file)?;
    out.write(json.as_bytes())?;
    out.commit()
}

/// Reads a conversation.
pub fn read(file: &Path) -> Result<Vec<Message>> {
    let text = input::read_text(file)?;
    let conversation: Conversation = serde_json::from_str(&text)
        .with_context(|| format!("{}: expected a saved conversation", file.display()))?;
    if conversation.schema != SCHEMA {
        let found = conversation.schema;
        return Err(anyhow!("{}: field schema: expected {SCHEMA}, found {found}", file.display()));
    }
    Ok(conversation
        .messages
        .into_iter()
        .map(|entry| Message::new(entry.role.name(), entry.content))
        .collect())
}

#[cfg(test)]
mod tests {
    use bitnet_testing::temp::TempDir;

    use super::*;

    #[test]
    fn a_conversation_comes_back_as_it_was() {
        let folder = TempDir::new("saved");
        let file = folder.path().join("talk.json");
        let messages = [
            Message::new("system", ""),
            Message::new("user", "\"a\"\n\u{1f451}"),
            Message::new("assistant", "b"),
        ];
        write(&file, "m", &messages).unwrap();
        assert_eq!(read(&file).unwrap(), messages);
    }

    #[test]
    fn files_that_are_no_conversations_are_refused_by_name() {
        let folder = TempDir::new("saved-refused");
        let file = folder.path().join("talk.json");
        for text in [
            "",
            "[]",
            r#"{"schema":2,"messages":[]}"#,
            r#"{"schema":1,"messages":[{"role":"tool","content":""}]}"#,
            r#"{"schema":1,"messages":[{"role":"user"}]}"#,
        ] {
            std::fs::write(&file, text).unwrap();
            let error = read(&file).unwrap_err();
            assert!(format!("{error:#}").contains("talk.json"), "{error:#}");
        }
        assert!(write(&file, "m", &[Message::new("<|eot|>", "x")]).is_err());
    }
}
