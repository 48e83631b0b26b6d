//! The program as a user meets it: arguments and input in, output, exit status and files out.
// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]
#![cfg(all(feature = "fairytales", feature = "tokenizers"))]

mod chat;
mod convert;
mod failures;
mod gguf;
mod killed;
mod measure;
mod memory;
mod program;
mod reports;
mod run;
