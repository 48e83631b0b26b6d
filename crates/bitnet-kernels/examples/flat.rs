//! Packs, unpacks or quantises values once, with one tier: what `cargo xtask instructions` counts.
//!
//! ```sh
//! cargo run --release -p bitnet-kernels --example flat -- avx2 unpack-base-3 15360
//! ```

use std::process::ExitCode;

use bitnet_kernels::{FlatKernels, Isa, Kernels};

/// Values that are made, whatever part of them a pass takes: making them is not in the difference of two counts.
const VALUES: usize = 15360;
/// Values of a part: a multiple of every block.
const PART: usize = 640;

const USAGE: &str = "expected TIER unpack-two-bit|unpack-base-3|unpack-bitmap|pack-two-bit|pack-base-3|pack-bitmap|magnitudes|absmean and a multiple of 640 up to 15360";

fn main() -> ExitCode {
    match flat(&std::env::args().skip(1).collect::<Vec<_>>()) {
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

/// Returns the sum of what was written, so that no part of the work can be left out.
fn flat(args: &[String]) -> Result<i64, String> {
    let [tier, pass, values] = args else { return Err(USAGE.into()) };
    let isa: Isa = tier.parse().map_err(|error| format!("{error}"))?;
    let kernels = Kernels::for_isa(isa).map_err(|error| error.to_string())?;
    match values.parse() {
        Ok(n) if n <= VALUES && n % PART == 0 => run(&kernels.flat, pass, n),
        _ => Err(USAGE.into()),
    }
}

fn run(kernels: &FlatKernels, pass: &str, n: usize) -> Result<i64, String> {
    let scalar = &Kernels::SCALAR.flat;
    let weights: Vec<i8> = (0..VALUES).map(|i| [0, 1, 0, -1, 1, 0, 0, -1][i * 7919 % 251 % 8]).collect();
    let floats: Vec<f32> = weights.iter().map(|&weight| f32::from(weight)).collect();
    let rows = |n: usize| [0, 1, 2, 3].map(|row| &floats[row * VALUES / 4..][..n / 4]);
    let (mut packed, mut signs, mut out) = (vec![0; VALUES], vec![0; VALUES / 8], vec![0i8; VALUES]);
    let mut sums = [[0.0; 8]; 4];
    match pass {
        "unpack-two-bit" => {
            (scalar.pack_two_bit)(&weights, &mut packed[..VALUES / 4]);
            (kernels.unpack_two_bit)(&packed[..n / 4], &mut out[..n]);
        }
        "unpack-base-3" => {
            (scalar.pack_base3)(&weights, &mut packed[..VALUES / 5]);
            (kernels.unpack_base3)(&packed[..n / 5], &mut out[..n]);
        }
        "unpack-bitmap" => {
            (scalar.pack_sparse)(&weights, &mut packed[..VALUES / 8], &mut signs);
            (kernels.unpack_sparse)(&packed[..n / 8], &signs, &mut out[..n]);
        }
        "pack-two-bit" => (kernels.pack_two_bit)(&weights[..n], &mut packed[..n / 4]),
        "pack-base-3" => (kernels.pack_base3)(&weights[..n], &mut packed[..n / 5]),
        "pack-bitmap" => {
            (kernels.pack_sparse)(&weights[..n], &mut packed[..n / 8], &mut signs[..n / 8]);
        }
        "magnitudes" => (kernels.add_magnitudes)(rows(n), &mut sums),
        "absmean" => (kernels.pack_quarters)(rows(n), 1.5, &mut packed[..n / 4]),
        _ => return Err(USAGE.into()),
    }
    let bytes = packed.iter().chain(&signs).map(|&byte| i64::from(byte)).sum::<i64>();
    let summed = sums.as_flattened().iter().sum::<f64>() as i64;
    Ok(bytes + summed + out.iter().map(|&value| i64::from(value)).sum::<i64>())
}
