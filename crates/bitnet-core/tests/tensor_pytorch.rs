//! Tensor operations against PyTorch's results, which `tools/make_tensor_reference.py` wrote.
//!
//! Floats have to agree within 1e-6 of the sum of the magnitudes of what was added up (`NAME.terms`), or one rounding
//! of the result's type where that is wider; integers, truth values, NaN and infinities exactly.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use bitnet_backend::{BitNetDType, Device};
use bitnet_core::backend as bitnet_backend;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::tensor::{Activation, BitNetTensor};
use bitnet_testing::safetensors::SafeTensors;

/// Bound of the relative error.
const BOUND: f64 = 1e-6;

struct Reference {
    file: SafeTensors,
    pool: HybridMemoryPool,
    checked: std::cell::RefCell<Vec<String>>,
}

impl Reference {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tensor/pytorch.safetensors");
        let file = SafeTensors::read(&path);
        Reference { file, pool: HybridMemoryPool::new().unwrap(), checked: Vec::new().into() }
    }

    fn tensor(&self, name: &str) -> BitNetTensor {
        self.checked.borrow_mut().push(name.to_owned());
        let stored = self.file.get(name);
        let dtype: BitNetDType = stored.dtype.parse().unwrap();
        let mut tensor = BitNetTensor::zeros(&stored.shape, dtype, &Device::Cpu, &self.pool).unwrap();
        tensor.as_mut_bytes().unwrap().copy_from_slice(&stored.bytes);
        tensor
    }

    fn values(tensor: &BitNetTensor) -> Vec<f64> {
        tensor.cast(BitNetDType::F64).unwrap().to_vec::<f64>().unwrap()
    }

    /// Compares a result with the stored one.
    fn check(&self, name: &str, found: bitnet_core::error::Result<BitNetTensor>) {
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = self.tensor(name);
        assert_eq!(found.shape(), expected.shape(), "{name}");
        let terms_name = format!("{name}.terms");
        let terms = if self.file.contains(&terms_name) {
            assert_eq!(found.dtype(), expected.dtype(), "{name}");
            Self::values(&self.tensor(&terms_name).broadcast_to(found.shape()).unwrap())
        } else {
            assert!(!found.dtype().is_float(), "{name}: {}", found.dtype());
            vec![0.0; found.element_count()]
        };
        let rounding = match expected.dtype() {
            BitNetDType::F16 => f64::exp2(-10.0),
            BitNetDType::BF16 => f64::exp2(-7.0),
            _ => 0.0,
        };
        for (index, ((found, expected), terms)) in
            Self::values(&found).iter().zip(Self::values(&expected)).zip(terms).enumerate()
        {
            let bound = (BOUND * terms).max(rounding * expected.abs());
            let is_close = match expected.is_finite() {
                true => (found - expected).abs() <= bound,
                false => *found == expected || (found.is_nan() && expected.is_nan()),
            };
            assert!(is_close, "{name}[{index}]: expected {expected}, found {found}");
        }
    }

    /// Compares halves, which differ by at most one rounding.
    fn check_half(&self, name: &str, found: bitnet_core::error::Result<BitNetTensor>) {
        let (found, expected) = (found.unwrap(), self.tensor(name));
        assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()), "{name}");
        let ulp = if found.dtype() == BitNetDType::F16 { f64::exp2(-10.0) } else { f64::exp2(-7.0) };
        for (found, expected) in Self::values(&found).iter().zip(Self::values(&expected)) {
            let is_close = (found - expected).abs() <= ulp * expected.abs();
            assert!(is_close || *found == expected, "{name}: expected {expected}, found {found}");
        }
    }
}

#[test]
fn operations_agree_with_pytorch() {
    let r = Reference::open();
    elementwise(&r);
    reductions(&r);
    products(&r);
    choices(&r);
    integers(&r);
    for (input, of) in [("wide", ""), ("far", "far.")] {
        let (input, gradient) = (r.tensor(input), r.tensor(&format!("{of}gradient")));
        for activation in Activation::ALL {
            r.check(&format!("{of}{}.forward", activation.name()), input.activate(activation));
            let backward = input.activate_backward(activation, &gradient);
            r.check(&format!("{of}{}.backward", activation.name()), backward);
        }
    }
    // Rows in memory, then columns.
    let (x, y) = (r.tensor("odd"), r.tensor("odd.other"));
    odd(&r, &x, &y);
    let turned = |tensor: &BitNetTensor| {
        tensor.transpose(0, 1).unwrap().contiguous().unwrap().transpose(0, 1).unwrap()
    };
    odd(&r, &turned(&x), &turned(&y));
    for name in ["f16", "bf16"] {
        let low = r.tensor(name);
        r.check_half(&format!("{name}.add"), low.add(&low.select(0, 0).unwrap()));
        r.check_half(&format!("{name}.mul"), low.mul(&low.select(0, 1).unwrap()));
        r.check_half(&format!("{name}.exp"), low.exp());
    }
    let checked = r.checked.borrow();
    let forgotten: Vec<&String> = r.file.tensors.keys().filter(|name| !checked.contains(name)).collect();
    assert!(forgotten.is_empty(), "not compared: {forgotten:?}");
}

fn elementwise(r: &Reference) {
    let (x, y, bias) = (r.tensor("x"), r.tensor("y"), r.tensor("bias"));
    r.check("add", x.add(&bias));
    r.check("sub", x.sub(&y));
    r.check("mul", x.mul(&y));
    r.check("div", x.div(&y));
    r.check("rem", x.rem(&y));
    r.check("pow", x.abs().unwrap().pow(&bias));
    r.check("maximum", x.maximum(&y));
    r.check("minimum", x.minimum(&bias));
    let (a, b) = (x.round().unwrap(), y.round().unwrap());
    r.check("lt", a.lt(&b));
    r.check("le", a.le(&b));
    r.check("gt", a.gt(&b));
    r.check("ge", a.ge(&b));
    r.check("eq", BitNetTensor::eq(&a, &b));
    r.check("ne", BitNetTensor::ne(&a, &b));
    r.check("where", x.with(BitNetTensor::gt, 0.0).unwrap().where_cond(&x, &bias));
    let positive = x.abs().unwrap().with(BitNetTensor::add, 0.01).unwrap();
    r.check("exp", x.exp());
    r.check("log", positive.log());
    r.check("log1p", positive.log1p());
    r.check("sqrt", positive.sqrt());
    r.check("rsqrt", positive.rsqrt());
    r.check("sin", x.sin());
    r.check("cos", x.cos());
    r.check("erf", x.erf());
    r.check("tanh", x.tanh());
    r.check("abs", x.abs());
    r.check("sign", x.sign());
    r.check("floor", x.floor());
    r.check("ceil", x.ceil());
    r.check("round", x.with(BitNetTensor::mul, 2.0).unwrap().round());
}

fn reductions(r: &Reference) {
    let x = r.tensor("x");
    r.check("sum", x.sum(&[0, 2], false));
    r.check("sum_first", x.sum(&[0], true));
    r.check("sum_all", x.sum(&[], false));
    r.check("mean", x.mean(&[1], false));
    r.check("prod", x.prod(&[-1], false));
    r.check("max", x.max(&[1, 2], false));
    r.check("min", x.min(&[0], false));
    r.check("argmax", x.argmax(1, false));
    r.check("argmin", x.argmin(2, true));
    r.check("var", x.var(&[1, 2], 1.0, false));
    r.check("var_population", x.var(&[0], 0.0, false));
    r.check("std", x.std(&[1], 1.0, false));
    for (name, order) in [
        ("norm_0.0", 0.0),
        ("norm_1.0", 1.0),
        ("norm_2.0", 2.0),
        ("norm_3.0", 3.0),
        ("norm_inf", f64::INFINITY),
    ] {
        r.check(name, x.norm(order, &[1], false));
    }
    r.check("logsumexp", x.logsumexp(&[2], false));
    r.check("softmax", x.softmax(1));
    r.check("log_softmax", x.log_softmax(-1));
    r.check("cumsum", x.cumsum(1));
    let (values, indices) = x.sort(1, false).unwrap();
    r.check("sort", Ok(values));
    r.check("argsort", Ok(indices));
    let (values, indices) = x.topk(3, 2, true).unwrap();
    r.check("topk", Ok(values));
    r.check("topk_indices", Ok(indices));
    r.check("any", x.with(BitNetTensor::gt, 2.0).unwrap().any(&[2], false));
    r.check("all", x.with(BitNetTensor::gt, -2.0).unwrap().all(&[2], false));
}

fn products(r: &Reference) {
    let (a, b) = (r.tensor("a"), r.tensor("b"));
    r.check("matmul", a.matmul(&b));
    r.check("matmul_transposed", a.transpose(-1, -2).unwrap().matmul(&a));
    let row = a.reshape(&[10, 33]).unwrap().select(0, 0).unwrap();
    r.check("matmul_row", row.matmul(&b.select(0, 1).unwrap()));
    let (left, right) = (a.reshape(&[2, 5, 33]).unwrap().select(0, 0).unwrap(), b.select(0, 0).unwrap());
    for (name, dtype) in [("f16", BitNetDType::F16), ("bf16", BitNetDType::BF16), ("f64", BitNetDType::F64)] {
        let product = left.cast(dtype).unwrap().matmul(&right.cast(dtype).unwrap());
        r.check(&format!("matmul_{name}"), product);
    }
    let (activations, weights) = (r.tensor("activations"), r.tensor("ternary"));
    let packed = weights.cast(BitNetDType::BitNet158).unwrap();
    r.check("linear_ternary", activations.linear(&packed));
    r.check("linear_ternary", activations.linear(&weights));
    let turned = packed.matmul(&activations.transpose(0, 1).unwrap()).unwrap();
    r.check("linear_ternary", turned.transpose(0, 1));
    let packed = weights.transpose(0, 1).unwrap().cast(BitNetDType::BitNet158).unwrap();
    r.check("linear_ternary", activations.matmul(&packed));
}

fn choices(r: &Reference) {
    let x = r.tensor("x");
    r.check("gather", x.gather(1, &r.tensor("gather_indices")));
    let places = BitNetTensor::from_slice(&[4i64, 0, 0, 2], &[4], &Device::Cpu, &r.pool).unwrap();
    r.check("index_select", x.index_select(1, &places));
    r.check("one_hot", places.one_hot(6));
    r.check("concat", BitNetTensor::concat(&[&x, &x.narrow(1, 1, 2).unwrap()], 1));
    let halves = x.split(1, 0).unwrap();
    let [first, second] = [0, 1].map(|i: usize| halves[i].squeeze(0).unwrap());
    r.check("stack", BitNetTensor::stack(&[&first, &second], 1));
    let views = x.flip(&[0]).unwrap().slice(1, Some(1), None, 2).unwrap().permute(&[2, 0, 1]).unwrap();
    r.check("views", Ok(views));
}

fn integers(r: &Reference) {
    let (left, right) = (r.tensor("integers"), r.tensor("divisors"));
    r.check("integer_rem", left.rem(&right.neg().unwrap()));
    r.check("integer_pow", left.pow(&right));
    r.check("integer_sum", left.sum(&[0], false));
    r.check("integer_matmul", left.matmul(&left.transpose(0, 1).unwrap()));
    r.check("integer_cumsum", left.cumsum(1));
}

/// NaN, infinities and zeros of both signs.
fn odd(r: &Reference, x: &BitNetTensor, y: &BitNetTensor) {
    let check = |name: &str, found| r.check(&format!("odd.{name}"), found);
    check("maximum", x.maximum(y));
    check("minimum", x.minimum(y));
    check("add", x.add(y));
    check("sub", x.sub(y));
    check("mul", x.mul(y));
    check("div", x.div(y));
    check("rem", x.rem(y));
    check("pow", x.pow(y));
    check("lt", x.lt(y));
    check("le", x.le(y));
    check("gt", x.gt(y));
    check("ge", x.ge(y));
    check("eq", BitNetTensor::eq(x, y));
    check("ne", BitNetTensor::ne(x, y));
    check("where", x.where_cond(y, &y.neg().unwrap()));
    check("clamp", x.clamp(-1.5, 2.0));
    check("exp", x.exp());
    check("log", x.log());
    check("log1p", x.log1p());
    check("sqrt", x.sqrt());
    check("rsqrt", x.rsqrt());
    check("reciprocal", x.recip());
    check("sin", x.sin());
    check("cos", x.cos());
    check("erf", x.erf());
    check("tanh", x.tanh());
    check("abs", x.abs());
    check("floor", x.floor());
    check("ceil", x.ceil());
    check("round", x.round());
    check("isnan", x.is_nan());
    check("sum", x.sum(&[1], false));
    check("mean", x.mean(&[1], false));
    check("prod", x.prod(&[1], false));
    check("amax", x.max(&[1], false));
    check("amin", x.min(&[1], false));
    check("argmax", x.argmax(1, false));
    check("argmin", x.argmin(1, false));
    check("logsumexp", x.logsumexp(&[1], false));
    check("var", x.var(&[1], 1.0, false));
    check("std", x.std(&[1], 1.0, false));
    for order in [0.0, 1.0, 2.0, 3.0, f64::INFINITY, f64::NEG_INFINITY] {
        let name = if order.is_finite() { format!("norm_{order:.1}") } else { format!("norm_{order}") };
        check(&name, x.norm(order, &[1], false));
    }
    check("any", x.any(&[1], false));
    check("all", x.all(&[1], false));
    check("softmax", x.softmax(1));
    check("log_softmax", x.log_softmax(1));
    check("cumsum", x.cumsum(1));
    for order in [false, true] {
        let (values, indices) = x.sort(1, order).unwrap();
        check(&format!("sort_{order}"), Ok(values));
        check(&format!("argsort_{order}"), Ok(indices));
        let (values, places) = x.topk(3, 1, order).unwrap();
        check(&format!("topk_{order}"), Ok(values));
        check(&format!("topk_{order}"), x.gather(1, &places));
    }
    check("matmul", x.matmul(&y.transpose(0, 1).unwrap()));
    let ones = BitNetTensor::ones(x.shape(), BitNetDType::F32, &Device::Cpu, &r.pool).unwrap();
    for activation in Activation::ALL {
        check(&format!("{}.forward", activation.name()), x.activate(activation));
        check(&format!("{}.backward", activation.name()), x.activate_backward(activation, &ones));
    }
}
