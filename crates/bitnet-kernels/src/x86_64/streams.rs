//! Rows of one token in two streams.

/// Two rows and their two outputs.
type Pair<'a, T, O> = ([&'a [T]; 2], [&'a mut O; 2]);

/// The row that no other stands beside, and its output.
type Last<'a, T, O> = Option<(&'a [T], &'a mut O)>;

/// Pairs the rows of the first half with those of the second, and their outputs; the last row of an odd number stands
/// alone.
///
/// The prefetchers of the hardware stop at the end of a page: two places far apart keep two of them busy.
///
/// Shapes: `rows` holds `out.len()` rows of `cols` elements, at least one each.
#[inline(always)]
pub fn two_streams<'a, T, O>(
    rows: &'a [T],
    cols: usize,
    out: &'a mut [O],
) -> (impl Iterator<Item = Pair<'a, T, O>>, Last<'a, T, O>) {
    let half = out.len() / 2;
    let (first, second) = rows.split_at(half * cols);
    let (first_out, second_out) = out.split_at_mut(half);
    let (second, last) = second.split_at(half * cols);
    let (second_out, last_out) = second_out.split_at_mut(half);
    let rows = first.chunks_exact(cols).zip(second.chunks_exact(cols));
    let pairs = rows.zip(first_out.iter_mut().zip(second_out)).map(|((a, b), (x, y))| ([a, b], [x, y]));
    (pairs, last.chunks_exact(cols).next().zip(last_out.first_mut()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_meets_its_own_output_once() {
        for len in 0..6usize {
            let rows: Vec<usize> = (0..3 * len).map(|at| at / 3).collect();
            let mut out = vec![usize::MAX; len];
            let (pairs, last) = two_streams(&rows, 3, &mut out);
            for ([a, b], [x, y]) in pairs {
                (*x, *y) = (a[0], b[2]);
            }
            if let Some((row, out)) = last {
                *out = row[1];
            }
            assert_eq!(out, (0..len).collect::<Vec<_>>());
        }
    }
}
