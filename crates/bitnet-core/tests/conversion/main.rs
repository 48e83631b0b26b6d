//! Conversion of tensors: every pair of types against plain definitions, every way against the plainest one, strategies
//! against their mathematics, modes by what they promise.
// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

mod inputs;
mod modes;
mod pairs;
mod refusals;
mod strategies;
mod ways;
