//! Multiplies ternary weights by int8 activations once, with one tier: what `cargo xtask instructions` counts.
//!
//! ```sh
//! cargo run --release -p bitnet-kernels --example product -- avx2 quarters 32 2560 1
//! ```

use std::process::ExitCode;

use bitnet_kernels::{Isa, Kernels, TernaryKernels};

const USAGE: &str = "expected TIER quarters|fifths LINES COLUMNS TOKENS";

fn main() -> ExitCode {
    match product(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(sum) => {
            println!("{sum}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// Returns the sum of all outputs, so that no part of the work can be left out.
fn product(args: &[String]) -> Result<i64, String> {
    let [tier, layout, sizes @ ..] = args else { return Err(USAGE.into()) };
    let sizes: Vec<usize> = sizes.iter().filter_map(|size| size.parse().ok()).collect();
    let &[lines, cols, tokens] = sizes.as_slice() else { return Err(USAGE.into()) };
    let isa: Isa = tier.parse().map_err(|error| format!("{error}"))?;
    let kernels = Kernels::for_isa(isa).map_err(|error| error.to_string())?;
    let x: Vec<i8> = (0..tokens * cols).map(|i| ((i * 7919 % 251) as i32 - 125) as i8).collect();
    let sums: Vec<i32> = x.chunks(cols.max(1)).map(|row| row.iter().map(|&x| i32::from(x)).sum()).collect();
    // Weights of 0: the count does not depend on them. As many are made for few lines as for some more, so that
    // making them is not in the difference of two counts.
    let codes = |byte: u8| vec![byte; lines.next_multiple_of(64) * cols];
    match layout.as_str() {
        "quarters" => Ok(run(&kernels.row_quarters, &codes(0x55)[..lines * cols], &x, &sums)),
        "fifths" => Ok(run(&kernels.row_fifths, &codes(121)[..lines * cols], &x, &sums)),
        other => Err(format!("layout: expected quarters or fifths, found {other:?}")),
    }
}

fn run<const N: usize>(kernels: &TernaryKernels<N>, codes: &[u8], x: &[i8], sums: &[i32]) -> i64 {
    let cols = x.len() / sums.len().max(1);
    let mut out = vec![[0; N]; codes.len() / cols.max(1) * sums.len()];
    (kernels.i8)(codes, x, sums, &mut out);
    out.as_flattened().iter().map(|&value| i64::from(value)).sum()
}
