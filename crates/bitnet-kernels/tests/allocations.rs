//! No kernel takes memory from the process's allocator: every entry of every table, in each of the ways that a count of
//! tokens chooses.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bitnet_kernels::scalar::attention::{BLOCK, ROWS, scratch_len, stride};
use bitnet_kernels::scalar::narrow::{RowFacts, TokenFacts};
use bitnet_kernels::{
    AffineKernels, AffineSteps, AttentionBlock, AttentionState, CastKernels, CodeRule, DenseRow, FlatKernels,
    Isa, Kernels, KvRows, Pieces, TernaryKernels,
};
use half::{bf16, f16};

/// The system allocator, which counts what a thread takes.
struct Counting;

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system allocator unchanged; counting touches a cell of the thread that needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no cell any more, and no kernel either.
        let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
        // SAFETY: the caller's obligations are those of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, that is from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns what `call` takes.
fn taken(call: impl FnOnce()) -> usize {
    let before = TAKEN.get();
    call();
    TAKEN.get() - before
}

/// Takes what a kernel returns and a test does not look at.
fn ignore<T>(_: T) {}

fn none(isa: Isa, entry: &str, call: impl FnOnce()) {
    assert_eq!(taken(call), 0, "{isa} {entry}");
}

fn tables() -> impl Iterator<Item = &'static Kernels> {
    Isa::available().filter_map(|isa| Kernels::for_isa(isa).ok())
}

/// Around registers, and more than any table on a stack holds.
const COLS: [usize; 3] = [33, 600, 6913];
/// One token, a few, whole tiles and one more, and as many as codes are spread for.
const TOKENS: [usize; 6] = [1, 3, 5, 16, 64, 81];
const LINES: usize = 3;

#[test]
fn what_is_taken_is_counted() {
    assert_eq!(taken(|| drop(std::hint::black_box(vec![1u8; 9]))), 1);
}

fn ternary<const N: usize>(isa: Isa, layout: &str, kernels: TernaryKernels<N>) {
    let TernaryKernels { i8, f32 } = kernels;
    for (cols, tokens) in COLS.into_iter().flat_map(|cols| TOKENS.map(|tokens| (cols, tokens))) {
        let (codes, x, sums) = (vec![0u8; LINES * cols], vec![1i8; tokens * cols], vec![cols as i32; tokens]);
        let mut out = vec![[0; N]; LINES * tokens];
        none(isa, &format!("{layout} i8 of {tokens} tokens"), || i8(&codes, &x, &sums, &mut out));
        let (x, mut out) = (vec![1f32; tokens * cols], vec![[0.0; N]; LINES * tokens]);
        none(isa, &format!("{layout} f32 of {tokens} tokens"), || f32(&codes, cols, &x, &mut out));
    }
}

struct Once<'a>(Option<&'a [i8]>);

impl Pieces for Once<'_> {
    fn next(&mut self) -> Option<&[i8]> {
        self.0.take()
    }
}

fn flat(isa: Isa, kernels: FlatKernels) {
    // Every entry by name, so that a new one does not compile before it stands here.
    let FlatKernels {
        unpack_two_bit,
        pack_two_bit,
        unpack_base3,
        pack_base3,
        stream_two_bit,
        stream_base3,
        unpack_sparse,
        stream_sparse,
        pack_sparse,
        bitmaps,
        find_odd,
        count,
        stream,
        streams: _,
        add_magnitudes,
        pack_quarters,
        ternary,
    } = kernels;
    const VALUES: usize = 5003;
    let mut values = vec![1i8; VALUES];
    values[VALUES / 2] = 0;
    let mut out = vec![0i8; VALUES + 64];
    let out = &mut out[..];
    let mut two_bit = vec![0; VALUES.div_ceil(4)];
    none(isa, "pack_two_bit", || pack_two_bit(&values, &mut two_bit));
    let mut base3 = vec![0; VALUES.div_ceil(5)];
    none(isa, "pack_base3", || pack_base3(&values, &mut base3));
    let (mut bitmap, mut signs) = (vec![0; VALUES.div_ceil(8)], vec![0; VALUES.div_ceil(8)]);
    none(isa, "pack_sparse", || ignore(pack_sparse(&values, &mut bitmap, &mut signs)));
    for start in [out.as_ptr().align_offset(64), out.as_ptr().align_offset(64) + 1] {
        let out = &mut out[start..][..VALUES - 1];
        let values = &values[1..];
        let (two_bit, base3) = (&two_bit[..out.len().div_ceil(4)], &base3[..out.len().div_ceil(5)]);
        let bitmap = &bitmap[..out.len().div_ceil(8)];
        none(isa, "unpack_two_bit", || unpack_two_bit(two_bit, out));
        none(isa, "unpack_base3", || unpack_base3(base3, out));
        none(isa, "unpack_sparse", || unpack_sparse(bitmap, &signs, out));
        none(isa, "stream", || ignore(stream(&mut Once(Some(values)), out)));
        none(isa, "stream_two_bit", || {
            stream_two_bit.iter().for_each(|stream| stream(two_bit, out));
        });
        none(isa, "stream_base3", || stream_base3.iter().for_each(|stream| stream(base3, out)));
        none(isa, "stream_sparse", || {
            stream_sparse.iter().for_each(|stream| stream(bitmap, &signs, out));
        });
    }
    let (mut there, mut negative) = (vec![0; VALUES.div_ceil(64)], vec![0; VALUES.div_ceil(64)]);
    none(isa, "bitmaps", || bitmaps(&values, &mut there, &mut negative));
    none(isa, "find_odd", || ignore(find_odd(&values)));
    none(isa, "count", || ignore(count(&values)));
    let (row, mut sums, mut line) = (vec![0.5f32; 1001], [[0.0; 8]; 4], vec![0; 1001]);
    none(isa, "add_magnitudes", || add_magnitudes([&row; 4], &mut sums));
    none(isa, "pack_quarters", || pack_quarters([&row; 4], 2.0, &mut line));
    none(isa, "ternary", || ternary(&row, 2.0, &mut out[..1001]));
}

fn affine(isa: Isa, kernels: AffineKernels) {
    let AffineKernels { range, codes, values, split } = kernels;
    let steps = AffineSteps { scale: 0.1, least: -7, greatest: 7, shift: 8 };
    let (mut floats, mut stored) = (vec![0.3f32; 1001], vec![0i8; 1001]);
    none(isa, "range", || ignore(range(&floats)));
    none(isa, "codes", || codes(&floats, steps, &mut stored));
    none(isa, "values", || values(&stored, steps, &mut floats));
    none(isa, "split", || split(&[0x21; 501], &mut stored));
}

fn casts(isa: Isa, kernels: CastKernels) {
    let CastKernels {
        f32_to_f16,
        f32_to_bf16,
        f16_to_f32,
        bf16_to_f32,
        f16_to_bf16,
        bf16_to_f16,
        f32_to_codes,
        codes_to_f32,
        pack_i4,
        unpack_i4,
        pack_ternary,
        unpack_ternary,
        extent,
        moments,
    } = kernels;
    let (mut wide, mut narrow, mut other) = ([[0u8; 4]; 1001], [[0u8; 2]; 1001], [[0u8; 2]; 1001]);
    let (rule, mut codes) = (CodeRule { inverse: 2.0, least: -7, greatest: 7 }, [0i8; 1001]);
    for past in [false, true] {
        none(isa, "f32_to_f16", || f32_to_f16(&wide, &mut narrow, past));
        none(isa, "f32_to_bf16", || f32_to_bf16(&wide, &mut narrow, past));
        none(isa, "f16_to_f32", || f16_to_f32(&narrow, &mut wide, past));
        none(isa, "bf16_to_f32", || bf16_to_f32(&narrow, &mut wide, past));
        none(isa, "f16_to_bf16", || f16_to_bf16(&narrow, &mut other, past));
        none(isa, "bf16_to_f16", || bf16_to_f16(&narrow, &mut other, past));
        none(isa, "f32_to_codes", || f32_to_codes(&wide, rule, &mut codes, past));
        none(isa, "codes_to_f32", || codes_to_f32(&codes, 0.5, &mut wide, past));
    }
    let (mut nibbles, mut quarters) = ([0u8; 501], [0u8; 251]);
    none(isa, "pack_i4", || pack_i4(&codes, &mut nibbles));
    none(isa, "unpack_i4", || unpack_i4(&nibbles, &mut codes));
    codes.fill(-1);
    none(isa, "pack_ternary", || pack_ternary(&codes, &mut quarters));
    none(isa, "unpack_ternary", || unpack_ternary(&quarters, &mut codes));
    none(isa, "extent", || ignore(extent(&wide)));
    none(isa, "moments", || ignore(moments(&wide, &codes)));
}

fn attention(kernels: &Kernels) {
    let isa = kernels.isa;
    for (head_dim, rows) in [64, 80, 512].into_iter().flat_map(|head_dim| [1, 4, ROWS].map(|r| (head_dim, r)))
    {
        let (wide, half) = (vec![0.5f32; BLOCK * head_dim], vec![f16::ONE; BLOCK * head_dim]);
        let (mut states, own) = (vec![AttentionState::EMPTY; rows], vec![AttentionState::EMPTY; rows]);
        let (mut out, counts) = (vec![0.0f32; rows * stride(head_dim)], vec![BLOCK - 1; rows]);
        let (queries, mut scratch) = (out.clone(), vec![0.0; scratch_len(rows, head_dim)]);
        for rows in [KvRows::F32(&wide), KvRows::F16(&half)] {
            let block = AttentionBlock { keys: rows, values: rows, head_dim, scale: 1.0 };
            none(isa, "attend", || {
                (kernels.attend)(block, &counts, &queries, &mut states, &mut out, &mut scratch);
            });
        }
        none(isa, "merge", || (kernels.merge)(&own, &queries, &mut states, &mut out));
        none(isa, "finish", || (kernels.finish)(&states, &mut out));
        let angles = vec![0.5; head_dim / 2];
        none(isa, "rotate", || (kernels.rotate)(&mut out[..head_dim], head_dim, &angles, &angles));
    }
}

fn head(kernels: &Kernels) {
    let isa = kernels.isa;
    for (cols, tokens) in COLS.into_iter().flat_map(|cols| TOKENS.map(|tokens| (cols, tokens))) {
        let wide = vec![0.5f32; LINES * cols];
        let (half, brain) = (vec![f16::ONE; LINES * cols], vec![bf16::ONE; LINES * cols]);
        let (x, mut out) = (vec![1f32; tokens * cols], vec![0f32; LINES * tokens]);
        for rows in [DenseRow::F32(&wide), DenseRow::F16(&half), DenseRow::BF16(&brain)] {
            none(isa, "dense_rows", || (kernels.dense_rows)(rows, cols, &x, &mut out));
        }
        for row in
            [DenseRow::F32(&wide[..cols]), DenseRow::F16(&half[..cols]), DenseRow::BF16(&brain[..cols])]
        {
            none(isa, "dense", || (kernels.dense)(row, &x, &mut out[..tokens]));
            let mut wide = vec![0.0; cols];
            none(isa, "widen", || (kernels.widen)(row, &mut wide));
        }
        let (rows, x) = (vec![1i8; LINES * cols], vec![1i16; tokens * cols]);
        let mut acc = vec![0i32; LINES * tokens];
        none(isa, "int8_i16", || (kernels.int8_i16)(&rows, cols, &x, &mut acc));
        let blocks = cols.div_ceil(256);
        let (rows, planes) = (vec![0u8; LINES * blocks * 192], vec![1i8; tokens * 2 * blocks * 256]);
        let sums = vec![0; tokens];
        none(isa, "int6_planes", || (kernels.int6_planes)(&rows, &planes, &sums, &mut acc));
    }
}

fn rows(kernels: &Kernels) {
    let (isa, cols) = (kernels.isa, 1001);
    let (x, y, mut out) = (vec![0.5f32; cols], vec![0.5f32; cols], vec![0f32; cols]);
    let acc = vec![1i32; cols];
    none(isa, "narrow_logits", || ignore((kernels.narrow_logits)(&acc, &y, 0.5, &mut out)));
    let facts = RowFacts { errors: &x, norms: &y };
    let token = TokenFacts { norm: 1.0, error: 0.5 };
    none(isa, "narrow_candidates", || ignore((kernels.narrow_candidates)(&out, facts, token, 0.0)));
    let (mut codes, mut fine) = (vec![0i8; cols], vec![0i16; cols]);
    none(isa, "quantize_row", || ignore((kernels.quantize_row)(&x, 31, &mut codes)));
    none(isa, "quantize_i16", || ignore((kernels.quantize_i16)(&x, 1000, &mut fine)));
    none(isa, "quantize", || ignore((kernels.quantize)(&x, &mut codes)));
    none(isa, "rms_norm", || (kernels.rms_norm)(&x, &y, 1e-5, &mut out));
    none(isa, "squared_relu", || (kernels.squared_relu)(&x, &y, &mut out));
    none(isa, "silu", || (kernels.silu)(&x, &y, &mut out));
    none(isa, "exponentiate", || ignore((kernels.exponentiate)(&mut out, 9.0, 0.8)));
    let (acc, mut parts) = ([[7; 4]; 3 * 35], [[0f32; 35]; 4]);
    let mut parts = parts.each_mut().map(|part| &mut part[..]);
    none(isa, "dequantize", || (kernels.dequantize)(&acc, 3, (2.0, 0.5), true, &mut parts));
}

#[test]
fn no_entry_of_any_table_takes_memory() {
    for kernels in tables() {
        let Kernels {
            isa,
            row_quarters,
            row_fifths,
            flat: flat_kernels,
            affine: affine_kernels,
            casts: cast_kernels,
            // Called by `head`, `rows` and `attention`.
            int8_i16: _,
            int6_planes: _,
            dense: _,
            dense_rows: _,
            widen: _,
            narrow_logits: _,
            narrow_candidates: _,
            quantize_row: _,
            quantize_i16: _,
            rms_norm: _,
            quantize: _,
            squared_relu: _,
            silu: _,
            exponentiate: _,
            dequantize: _,
            rotate: _,
            attend: _,
            merge: _,
            finish: _,
        } = kernels;
        ternary(*isa, "row quarters", *row_quarters);
        ternary(*isa, "row fifths", *row_fifths);
        flat(*isa, *flat_kernels);
        affine(*isa, *affine_kernels);
        casts(*isa, *cast_kernels);
        head(kernels);
        rows(kernels);
        attention(kernels);
    }
}
