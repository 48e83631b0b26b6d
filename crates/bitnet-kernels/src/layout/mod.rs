//! In-memory layouts of weight matrices, one a file.

pub mod int8_rows;
pub mod row_fifths;
pub mod row_quarters;
