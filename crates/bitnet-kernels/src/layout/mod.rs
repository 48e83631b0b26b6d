//! In-memory layouts of weight matrices and of flat sequences, one a file.

pub mod flat_base3;
pub mod flat_sparse;
pub mod flat_two_bit;
pub mod int6_rows;
pub mod narrow_rows;
pub mod row_fifths;
pub mod row_quarters;
