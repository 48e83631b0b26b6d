//! In-memory layouts of ternary matrices, one a file.

pub mod row_quarters;
