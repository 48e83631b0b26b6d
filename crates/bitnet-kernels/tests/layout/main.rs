//! The in-memory layouts: round trips, agreement with their definitions, validation.
// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

mod int6_rows;
mod narrow_rows;
mod row_fifths;
mod row_quarters;
