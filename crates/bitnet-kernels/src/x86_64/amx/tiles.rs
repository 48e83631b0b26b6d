//! The tile unit: `tdpbsud` of signed activations and unsigned codes, and all assembly of the tier.
//!
//! ```text
//! sums[token][n] += sum over k < 16, i < 4 of x[token][4 k + i] * codes[k][4 n + i]
//! ```
//!
//! A tile of activations is up to 16 token rows of 64 columns, loaded where they stand; one of codes is 16 rows
//! of 16 words of four columns ([`panel`](super::panel)). Two by two tiles share their loads: four of sums, two of
//! activations, two of codes are all eight.

use std::arch::asm;

/// Rows of a tile.
pub const ROWS: usize = 16;
/// Columns of a step.
pub const WIDTH: usize = 64;

/// The bytes of a tile of codes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Codes(pub [[u8; WIDTH]; ROWS]);

/// The elements of a tile of sums: a token a row.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Sums(pub [[i32; 16]; ROWS]);

impl Sums {
    pub const ZERO: Sums = Sums([[0; 16]; ROWS]);
}

/// Activations `[tokens, cols]` from a column on; `cols` is at least [`WIDTH`].
#[derive(Clone, Copy)]
pub struct Activations<'a> {
    pub x: &'a [i8],
    pub cols: usize,
    pub start: usize,
}

/// Multiplies tiles of a fixed number of tokens.
pub trait Multiply {
    /// Tokens of a tile.
    fn tokens(&self) -> usize;

    /// Writes the sums over all steps of `codes` for `T` tiles of tokens, which begin at tokens `first`.
    ///
    /// Step `s` meets the 64 columns from `start + 64 s`; where these would pass the end of a row, its last 64
    /// columns.
    ///
    /// # Panics
    /// When the tokens do not lie in `x`.
    fn multiply<const T: usize>(
        &self,
        x: Activations<'_>,
        first: [usize; T],
        codes: &[[Codes; 2]],
        out: &mut [[Sums; 2]; T],
    );
}

/// The thread's tile registers, set up; they are released when it is dropped.
pub struct TileUnit {
    tokens: usize,
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileUnit {
    /// Sets the tiles up for `tokens` rows of activations and sums, at most 16.
    ///
    /// # Safety
    /// [`missing`](super::missing) found nothing. No other unit lives on the thread.
    pub unsafe fn new(tokens: usize) -> Self {
        assert!((1..=ROWS).contains(&tokens));
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(WIDTH as u16);
        config.rows[..6].fill(tokens as u8);
        config.rows[6..8].fill(ROWS as u8);
        // SAFETY: AMX can be used, by the contract; 64 bytes of palette 1 are read. The compiler uses no tiles.
        unsafe {
            asm!("ldtilecfg [{0}]", in(reg) &raw const config, options(nostack, preserves_flags, readonly))
        };
        TileUnit { tokens }
    }
}

impl Drop for TileUnit {
    fn drop(&mut self) {
        // SAFETY: AMX can be used, by the contract of `new`.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

impl Multiply for TileUnit {
    fn tokens(&self) -> usize {
        self.tokens
    }

    #[inline]
    fn multiply<const T: usize>(
        &self,
        Activations { x, cols, start }: Activations<'_>,
        first: [usize; T],
        codes: &[[Codes; 2]],
        out: &mut [[Sums; 2]; T],
    ) {
        const { assert!(T == 1 || T == 2) };
        if codes.is_empty() {
            *out = [[Sums::ZERO; 2]; T];
            return;
        }
        let tokens = x.len() / cols.max(1);
        assert!(cols >= WIDTH && first.iter().all(|first| first + self.tokens <= tokens));
        let row = x[first[0] * cols..].as_ptr();
        let (last, from) = (cols - WIDTH, start.min(cols - WIDTH));
        // SAFETY: `new` set the tiles up. A step reads 64 columns of rows `first[t]..first[t] + tokens`, which exist,
        // from a column of at most `cols - 64`; it reads the two tiles of one element of `codes`. `out` takes
        // `2 T` tiles, whose rows of 64 bytes follow each other. Every tile register that is written is named.
        unsafe {
            if T == 2 {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{x} + {cols}*1]",
                    "tileloadd tmm6, [{codes} + {row}*1]",
                    "lea {second}, [{x} + {distance}]",
                    "tdpbsud tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{codes} + {row}*1 + 1024]",
                    "tdpbsud tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{second} + {cols}*1]",
                    "tdpbsud tmm2, tmm5, tmm6",
                    "tdpbsud tmm3, tmm5, tmm7",
                    "add {x}, 64",
                    "cmp {x}, {last}",
                    "cmova {x}, {last}",
                    "add {codes}, 2048",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{out} + {row}*1], tmm0",
                    "tilestored [{out} + {row}*1 + 1024], tmm1",
                    "tilestored [{out} + {row}*1 + 2048], tmm2",
                    "tilestored [{out} + {row}*1 + 3072], tmm3",
                    x = inout(reg) row.add(from) => _,
                    last = in(reg) row.add(last),
                    distance = in(reg) (first[T - 1] - first[0]) * cols,
                    second = out(reg) _,
                    cols = in(reg) cols,
                    codes = inout(reg) codes.as_ptr() => _,
                    row = in(reg) WIDTH,
                    steps = inout(reg) codes.len() => _,
                    out = in(reg) out.as_mut_ptr(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "2:",
                    "tileloadd tmm4, [{x} + {cols}*1]",
                    "tileloadd tmm6, [{codes} + {row}*1]",
                    "tdpbsud tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{codes} + {row}*1 + 1024]",
                    "tdpbsud tmm1, tmm4, tmm7",
                    "add {x}, 64",
                    "cmp {x}, {last}",
                    "cmova {x}, {last}",
                    "add {codes}, 2048",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{out} + {row}*1], tmm0",
                    "tilestored [{out} + {row}*1 + 1024], tmm1",
                    x = inout(reg) row.add(from) => _,
                    last = in(reg) row.add(last),
                    cols = in(reg) cols,
                    codes = inout(reg) codes.as_ptr() => _,
                    row = in(reg) WIDTH,
                    steps = inout(reg) codes.len() => _,
                    out = in(reg) out.as_mut_ptr(),
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }
}

/// Multiplies two tiles of activations, all `x[i]`, with two of codes, all `codes[i]`, `iterations` times in registers
/// alone, and returns the wrapping sum of all sums.
///
/// # Safety
/// As [`TileUnit::new`].
pub unsafe fn multiply_in_registers(x: [i8; 2], codes: [u8; 2], iterations: u32) -> i32 {
    let operands = [x[0] as u8, x[1] as u8, codes[0], codes[1]].map(|byte| Codes([[byte; WIDTH]; ROWS]));
    let mut sums = [Sums::ZERO; 4];
    if iterations > 0 {
        // SAFETY: by the contract.
        let _unit = unsafe { TileUnit::new(ROWS) };
        // SAFETY: the tiles are set up while `_unit` lives; four tiles are read and four written, whose rows of 64
        // bytes follow each other.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "tileloadd tmm4, [{operands} + {row}*1]",
                "tileloadd tmm5, [{operands} + {row}*1 + 1024]",
                "tileloadd tmm6, [{operands} + {row}*1 + 2048]",
                "tileloadd tmm7, [{operands} + {row}*1 + 3072]",
                "2:",
                "tdpbsud tmm0, tmm4, tmm6",
                "tdpbsud tmm1, tmm4, tmm7",
                "tdpbsud tmm2, tmm5, tmm6",
                "tdpbsud tmm3, tmm5, tmm7",
                "dec {iterations:e}",
                "jnz 2b",
                "tilestored [{sums} + {row}*1], tmm0",
                "tilestored [{sums} + {row}*1 + 1024], tmm1",
                "tilestored [{sums} + {row}*1 + 2048], tmm2",
                "tilestored [{sums} + {row}*1 + 3072], tmm3",
                operands = in(reg) operands.as_ptr(),
                row = in(reg) WIDTH,
                iterations = inout(reg) iterations => _,
                sums = in(reg) sums.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
    sums.iter().flat_map(|tile| tile.0.as_flattened()).fold(0, |all, &sum| all.wrapping_add(sum))
}
