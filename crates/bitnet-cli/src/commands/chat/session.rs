//! A conversation with the state of the model that has read it.
//!
//! One sequence lives as long as the session. Before each answer the conversation is encoded anew, what the
//! sequence holds is cut back to the common beginning, and only the rest is computed.

use anyhow::Result;
use bitnet_inference::chat::Message;
use bitnet_inference::runner::SequenceId;
use bitnet_inference::{Engine, FinishReason, GenerateOptions};

use crate::interrupt;

const SYSTEM: &str = "system";

/// A conversation in progress.
pub struct Session {
    engine: Engine,
    options: GenerateOptions,
    messages: Vec<Message>,
    sequence: SequenceId,
    /// The tokens that the sequence holds.
    held: Vec<u32>,
}

/// What an answer came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Why it ended; `None` for Ctrl-C.
    pub finish: Option<FinishReason>,
    /// Tokens of the conversation that had to be read, and those that were there from earlier turns.
    pub read: usize,
    /// See `read`.
    pub kept: usize,
}

impl Session {
    /// Starts an empty conversation.
    ///
    /// # Errors
    /// As [`Runner::admit`](bitnet_inference::runner::Runner::admit).
    pub fn new(mut engine: Engine, mut options: GenerateOptions) -> Result<Self> {
        options.stop.extend(engine.template().stop_strings().iter().map(ToString::to_string));
        let sequence = engine.runner().admit()?;
        Ok(Session { engine, options, messages: Vec::new(), sequence, held: Vec::new() })
    }

    /// Returns the model's name.
    pub fn model(&self) -> &str {
        self.engine.name()
    }

    /// Returns the conversation.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Replaces the conversation.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
    }

    /// Forgets everything but the system message.
    pub fn reset(&mut self) {
        self.messages.retain(|message| message.role == SYSTEM);
    }

    /// Sets or removes the system message, which stands first.
    pub fn set_system(&mut self, text: Option<&str>) {
        self.messages.retain(|message| message.role != SYSTEM);
        if let Some(text) = text {
            self.messages.insert(0, Message::new(SYSTEM, text));
        }
    }

    /// Answers a message, handing the text to `on_text` as it comes. After an error the conversation is
    /// what it was before.
    pub fn answer(&mut self, message: &str, on_text: impl FnMut(&str) -> Result<()>) -> Result<Answer> {
        self.messages.push(Message::new("user", message));
        match self.generate(on_text) {
            Ok((text, answer)) => {
                self.messages.push(Message::new("assistant", text.trim()));
                Ok(answer)
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    fn generate(&mut self, mut on_text: impl FnMut(&str) -> Result<()>) -> Result<(String, Answer)> {
        let mut tokens = self.engine.encode_chat(&self.messages)?;
        let common = tokens.iter().zip(&self.held).take_while(|(new, held)| new == held).count();
        // The last token is read again in any case: its logits choose the first token of the answer.
        let kept = common.min(tokens.len().saturating_sub(1));
        self.held.truncate(kept);
        self.engine.runner().truncate(self.sequence, kept)?;
        let answer = |finish| Answer { finish, read: tokens.len() - kept, kept };
        let _graceful = interrupt::graceful();
        let mut generation = self.engine.resume(Some(self.sequence), &tokens, &self.options)?;
        let (mut text, mut ids, mut failure, mut interrupted) = (String::new(), Vec::new(), None, false);
        for piece in &mut generation {
            let outcome = piece.map_err(anyhow::Error::from).and_then(|piece| {
                ids.extend(piece.id);
                text.push_str(&piece.text);
                on_text(&piece.text)
            });
            if let Err(error) = outcome {
                failure = Some(error);
                break;
            }
            if interrupt::pending() {
                interrupted = true;
                break;
            }
        }
        let finish = generation.finish_reason().filter(|_| !interrupted).cloned();
        drop(generation);
        let answer = answer(finish);
        tokens.extend(ids);
        // The last token of an answer has been chosen, but not read.
        tokens.truncate(self.engine.runner().len(self.sequence)?);
        self.held = tokens;
        failure.map_or(Ok((text, answer)), Err)
    }
}

#[cfg(all(test, feature = "fairytales", feature = "tokenizers"))]
// A test may panic anywhere, its helpers too.
#[allow(clippy::unwrap_used)]
mod tests {
    use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
    use bitnet_inference::SamplingParams;

    use super::*;
    use crate::model;

    fn session() -> Session {
        session_on(HybridMemoryPool::new().unwrap()).unwrap()
    }

    fn session_on(pool: HybridMemoryPool) -> Result<Session> {
        let engine = Engine::builder()
            .threads(Some(1))
            .pool(pool)
            .load_source(&model::source_or_bundled(None, model::Need::All).unwrap());
        let options = GenerateOptions {
            sampling: SamplingParams::greedy(),
            max_tokens: Some(12),
            ..Default::default()
        };
        Session::new(engine.unwrap(), options)
    }

    fn say(session: &mut Session, message: &str) -> (String, Answer) {
        let mut text = String::new();
        let answer = session.answer(message, |piece| {
            text.push_str(piece);
            Ok(())
        });
        (text, answer.unwrap())
    }

    #[test]
    fn no_conversation_begins_while_memory_is_all_but_gone() {
        let root = bitnet_testing::temp::TempDir::new("chat-pressure");
        std::fs::create_dir_all(root.path().join("proc")).unwrap();
        let machine = |free: u32| {
            let text = format!("MemTotal: 1024000 kB\nMemAvailable: {free} kB\n");
            std::fs::write(root.path().join("proc/meminfo"), text).unwrap();
        };
        let config = MemoryPoolConfig { enable_advanced_tracking: true, ..Default::default() };
        let builder = || HybridMemoryPool::builder().config(config.clone());
        let pool = || builder().pressure_root(root.path()).build().unwrap();
        machine(10_000);
        let error = session_on(pool()).err().unwrap().to_string();
        assert!(error.contains("memory"), "{error}");
        machine(900_000);
        assert!(session_on(pool()).is_ok());
    }

    #[test]
    fn earlier_turns_are_not_read_again_and_change_nothing() {
        let mut kept = session();
        let first = say(&mut kept, "Tell me of the old king.");
        let before = first.1.read;
        assert_eq!(first.1.kept, 0);
        let second = say(&mut kept, "And then?");
        assert!(second.1.kept > before / 2, "{second:?}");
        // A session that reads everything in one go answers the same.
        let mut fresh = session();
        fresh.set_messages(kept.messages()[..2].to_vec());
        let again = say(&mut fresh, "And then?");
        assert_eq!((again.0, again.1.kept), (second.0, 0));
        assert_eq!(again.1.read, second.1.read + second.1.kept);
    }

    #[test]
    fn a_reset_or_another_system_message_is_heard() {
        let mut session = session();
        session.set_system(Some("Be brief."));
        let first = say(&mut session, "Tell me of the old king.");
        session.reset();
        assert_eq!(session.messages().len(), 1);
        assert_eq!(say(&mut session, "Tell me of the old king.").0, first.0);
        session.reset();
        session.set_system(None);
        assert!(session.messages().is_empty());
        let other = say(&mut session, "Tell me of the old king.");
        assert_ne!(other.1.read + other.1.kept, first.1.read + first.1.kept);
    }

    #[test]
    fn a_message_that_does_not_fit_is_dropped() {
        let mut session = session();
        let long = "king ".repeat(2000);
        assert!(session.answer(&long, |_| Ok(())).unwrap_err().to_string().contains("context"));
        assert!(session.messages().is_empty());
        say(&mut session, "Tell me of the old king.");
        assert_eq!(session.messages().len(), 2);
    }
}
