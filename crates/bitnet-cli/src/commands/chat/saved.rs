//! Conversations as files.

use std::path::Path;

use anyhow::Result;
use bitnet_core::files::AtomicFile;
use bitnet_inference::chat::{Message, saved};

use crate::input;

/// Writes a conversation; the file appears whole or not at all.
pub fn write(file: &Path, model: &str, messages: &[Message]) -> Result<()> {
    let json = saved::to_json(model, messages, &file.display().to_string())?;
    let mut out = AtomicFile::create(file)?;
    out.write(json.as_bytes())?;
    Ok(out.commit()?)
}

/// Reads a conversation.
pub fn read(file: &Path) -> Result<Vec<Message>> {
    Ok(saved::from_json(input::read_text(file)?.as_bytes(), &file.display().to_string())?)
}

#[cfg(test)]
mod tests {
    use bitnet_testing::temp::TempDir;

    use super::*;

    #[test]
    fn a_conversation_comes_back_and_a_bad_one_is_refused_by_file() {
        let folder = TempDir::new("saved");
        let file = folder.path().join("talk.json");
        let messages = [Message::new("system", ""), Message::new("user", "a\n")];
        write(&file, "m", &messages).unwrap();
        assert_eq!(read(&file).unwrap(), messages);
        assert!(write(&file, "m", &[Message::new("<|eot|>", "x")]).is_err());
        assert_eq!(read(&file).unwrap(), messages, "a conversation that cannot be saved replaces none");
        std::fs::write(&file, "[]").unwrap();
        assert!(format!("{:#}", read(&file).unwrap_err()).contains("talk.json"));
    }
}
