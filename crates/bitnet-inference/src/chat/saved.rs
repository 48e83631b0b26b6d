//! Conversations as JSON: `{"schema": 1, "model": ..., "messages": [{"role": ..., "content": ...}]}`.

use bitnet_core::error::printable;
use serde::{Deserialize, Serialize};

use super::{ChatError, Message};

/// The version of the form.
const SCHEMA: u32 = 1;

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

/// Writes a conversation with a model as JSON, for the file that errors name.
///
/// Errors: [`ChatError::Malformed`] for a role that is none of system, user and assistant.
pub fn to_json(model: &str, messages: &[Message], file: &str) -> Result<String, ChatError> {
    let entries = messages.iter().map(|message| match Role::of(&message.role) {
        Some(role) => Ok(Entry { role, content: message.content.clone() }),
        None => Err(malformed(file, "role", "system, user or assistant", format!("{:?}", message.role))),
    });
    let messages = entries.collect::<Result<_, _>>()?;
    let conversation = Conversation { schema: SCHEMA, model: model.to_owned(), messages };
    let json = serde_json::to_string_pretty(&conversation);
    json.map(|json| json + "\n").map_err(|error| malformed(file, "messages", "text", error.to_string()))
}

/// Reads a conversation; `file` names its bytes in errors.
///
/// Errors: [`ChatError::Malformed`].
pub fn from_json(bytes: &[u8], file: &str) -> Result<Vec<Message>, ChatError> {
    let conversation: Conversation = serde_json::from_slice(bytes)
        .map_err(|error| malformed(file, "(whole file)", "a saved conversation", error.to_string()))?;
    if conversation.schema != SCHEMA {
        return Err(malformed(file, "schema", "1", conversation.schema.to_string()));
    }
    let messages = conversation.messages.into_iter();
    Ok(messages.map(|entry| Message::new(entry.role.name(), entry.content)).collect())
}

fn malformed(file: &str, field: &str, expected: &'static str, found: String) -> ChatError {
    let found = printable(&found, 200);
    ChatError::Malformed { file: file.to_owned(), field: field.to_owned(), expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_comes_back_as_it_was() {
        let messages = [
            Message::new("system", ""),
            Message::new("user", "\"a\"\n\u{1f451}"),
            Message::new("assistant", "b"),
        ];
        let json = to_json("m", &messages, "talk.json").unwrap();
        assert_eq!(from_json(json.as_bytes(), "talk.json").unwrap(), messages);
    }

    #[test]
    fn what_is_no_conversation_is_refused_by_name() {
        for text in [
            "",
            "[]",
            "\u{0}",
            r#"{"schema":2,"messages":[]}"#,
            r#"{"schema":1,"messages":[{"role":"tool\n","content":""}]}"#,
            r#"{"schema":1,"messages":[{"role":"user"}]}"#,
        ] {
            let line = from_json(text.as_bytes(), "talk.json").unwrap_err().to_string();
            assert!(line.starts_with("talk.json: ") && !line.contains('\n'), "{line}");
        }
        let error = to_json("m", &[Message::new("<|eot|>", "x")], "talk.json").unwrap_err().to_string();
        assert!(error.contains("talk.json: role: expected system, user or assistant"), "{error}");
    }
}
