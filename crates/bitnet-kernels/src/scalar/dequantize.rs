//! From exact sums to floats.

/// Writes or adds `acc / divisor * factor` for the four rows of every line, of one token.
///
/// Lines stand `step` apart in `acc`; row `p` of line `l` goes to `out[p][l]`, where it is there: an output may
/// be shorter than there are lines.
///
/// # Panics
/// When an output is longer than there are lines.
#[inline(always)]
pub fn dequantize(
    acc: &[[i32; 4]],
    step: usize,
    (divisor, factor): (f32, f32),
    accumulate: bool,
    out: &mut [&mut [f32]; 4],
) {
    check(acc, step, out);
    for (part, out) in out.iter_mut().enumerate() {
        for (line, out) in out.iter_mut().enumerate() {
            let value = acc[line * step][part] as f32 / divisor * factor;
            *out = if accumulate { *out + value } else { value };
        }
    }
}

/// Checks that every output has its lines, `step` apart in `acc`.
///
/// # Panics
/// When an output is longer than there are lines.
#[inline(always)]
pub(crate) fn check(acc: &[[i32; 4]], step: usize, out: &[&mut [f32]; 4]) {
    let lines = out.iter().map(|out| out.len()).max().unwrap_or(0);
    let last = lines.saturating_sub(1).checked_mul(step);
    assert!(lines == 0 || last.is_some_and(|last| last < acc.len()), "{lines} lines {step} apart");
}
