//! `bitnet chat`: a conversation.

mod lines;
mod saved;
mod session;

use std::path::Path;

use anyhow::Result;
use bitnet_inference::{EngineError, FinishReason};

use self::lines::{Line, Lines};
use self::session::{Answer, Session};
use crate::args::ChatArgs;
use crate::failure::{Interrupted, line, one_line};
use crate::model;
use crate::output::{Out, note};

const HELP: &str = "\
/reset      forget the conversation, keep the system message
/system S   set the system message; without S, remove it
/save F     write the conversation to a JSON file
/load F     continue a saved conversation
/help       show this
/quit       leave";

/// Replies that a conversation is taken to have before it begins.
const REPLIES: usize = 4;

/// Runs the command.
pub fn run(args: &ChatArgs) -> Result<()> {
    let options = args.sampling.options(false)?;
    let source = model::source_or_bundled(args.model.as_deref(), model::Need::All)?;
    let tokens = REPLIES.saturating_mul(args.sampling.max_tokens);
    let engine = model::load(&source, &args.engine, args.kv, tokens)?;
    engine.tokenizer()?;
    super::run::announce_template(&engine);
    let mut session = Session::new(engine, options)?;
    session.set_system(args.system.as_deref());
    let (mut lines, mut out) = (Lines::open()?, Out::new());
    if lines.is_interactive() {
        note("/help lists the commands, Ctrl-D leaves");
    }
    loop {
        let text = match lines.next()? {
            Line::Text(text) => text,
            Line::Abandoned => continue,
            Line::End => return Ok(()),
            Line::Interrupted => return Err(Interrupted.into()),
        };
        match text.trim() {
            "" => {}
            "/quit" => return Ok(()),
            command if command.starts_with('/') => {
                if let Err(error) = obey(command, &mut session) {
                    note(&format!("error: {}", line(&error)));
                }
            }
            message => answer(message, &mut session, &mut out)?,
        }
    }
}

/// Carries out a command line. Its failure leaves the conversation as it was.
fn obey(command: &str, session: &mut Session) -> Result<()> {
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    match name {
        "/reset" => {
            session.reset();
            note("the conversation is forgotten");
        }
        "/system" => {
            session.set_system((!rest.is_empty()).then_some(rest));
            note(if rest.is_empty() { "no system message" } else { "the system message is set" });
        }
        "/save" | "/load" if rest.is_empty() => note(&format!("{name}: expected a file name")),
        "/save" => {
            saved::write(Path::new(rest), session.model(), session.messages())?;
            note(&format!("saved {} messages to {}", session.messages().len(), one_line(rest)));
        }
        "/load" => {
            session.set_messages(saved::read(Path::new(rest))?);
            note(&format!("loaded {} messages from {}", session.messages().len(), one_line(rest)));
        }
        "/help" => note(HELP),
        _ => note(&format!("{}: no such command, /help lists them", one_line(name))),
    }
    Ok(())
}

/// Answers a message. Only what makes further answers impossible is an error.
fn answer(message: &str, session: &mut Session, out: &mut Out) -> Result<()> {
    let answer = session.answer(message, |text| {
        out.text(text)?;
        out.flush()
    });
    match answer {
        Ok(Answer { finish, .. }) => {
            out.text("\n")?;
            out.flush()?;
            match finish {
                Some(FinishReason::ContextFull) => {
                    note("the context is full: the answer is cut short; /reset starts a new conversation");
                }
                None => note("interrupted"),
                Some(_) => {}
            }
            Ok(())
        }
        Err(error) => match error.downcast_ref::<EngineError>() {
            Some(EngineError::ContextExceeded { limit, found }) => {
                note(&format!(
                    "the context is full: the conversation takes {found} tokens of at most {limit}, so the last \
                     message is dropped; /reset starts a new conversation"
                ));
                Ok(())
            }
            Some(EngineError::Chat(_) | EngineError::Tokenizer(_)) => {
                note(&format!("error: {} (the last message is dropped)", line(&error)));
                Ok(())
            }
            _ => Err(error),
        },
    }
}
