//! What operations on tensors refuse, and how they say it: one line with the name of the operation that was called and
//! the shapes or types of all its operands.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bitnet_core::backend::{BitNetDType, Device, Result};
use bitnet_core::memory::{Element, HybridMemoryPool};
use bitnet_core::tensor::{Activation, BitNetTensor};

fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

fn zeros(shape: &[usize], dtype: BitNetDType) -> BitNetTensor {
    BitNetTensor::zeros(shape, dtype, &Device::Cpu, &pool()).unwrap()
}

fn of<T: Element>(values: &[T], shape: &[usize]) -> BitNetTensor {
    BitNetTensor::from_slice(values, shape, &Device::Cpu, &pool()).unwrap()
}

/// Operations of two tensors, by their names.
type Two = fn(&BitNetTensor, &BitNetTensor) -> Result<BitNetTensor>;

const TWO: [(&str, Two); 14] = [
    ("add", BitNetTensor::add),
    ("sub", BitNetTensor::sub),
    ("mul", BitNetTensor::mul),
    ("div", BitNetTensor::div),
    ("rem", BitNetTensor::rem),
    ("pow", BitNetTensor::pow),
    ("minimum", BitNetTensor::minimum),
    ("maximum", BitNetTensor::maximum),
    ("eq", BitNetTensor::eq),
    ("ne", BitNetTensor::ne),
    ("lt", BitNetTensor::lt),
    ("le", BitNetTensor::le),
    ("gt", BitNetTensor::gt),
    ("ge", BitNetTensor::ge),
];

/// Operations along a dimension, by their names.
type Along = fn(&BitNetTensor, isize) -> Result<BitNetTensor>;

const ALONG: [(&str, Along); 26] = [
    ("sum", |t, dim| t.sum(&[dim], false)),
    ("prod", |t, dim| t.prod(&[dim], false)),
    ("mean", |t, dim| t.mean(&[dim], false)),
    ("max", |t, dim| t.max(&[dim], false)),
    ("min", |t, dim| t.min(&[dim], false)),
    ("argmax", |t, dim| t.argmax(dim, false)),
    ("argmin", |t, dim| t.argmin(dim, false)),
    ("var", |t, dim| t.var(&[dim], 1.0, false)),
    ("std", |t, dim| t.std(&[dim], 1.0, false)),
    ("norm", |t, dim| t.norm(2.0, &[dim], false)),
    ("norm", |t, dim| t.norm(f64::INFINITY, &[dim], false)),
    ("logsumexp", |t, dim| t.logsumexp(&[dim], false)),
    ("any", |t, dim| t.any(&[dim], false)),
    ("all", |t, dim| t.all(&[dim], false)),
    ("softmax", BitNetTensor::softmax),
    ("log_softmax", BitNetTensor::log_softmax),
    ("cumsum", BitNetTensor::cumsum),
    ("sort", |t, dim| Ok(t.sort(dim, false)?.0)),
    ("argsort", |t, dim| t.argsort(dim, false)),
    ("topk", |t, dim| Ok(t.topk(1, dim, true)?.0)),
    ("gather", |t, dim| t.gather(dim, &of(&[0i64], &[1]))),
    ("index_select", |t, dim| t.index_select(dim, &of(&[0i64], &[1]))),
    ("concat", |t, dim| BitNetTensor::concat(&[t, t], dim)),
    ("split", |t, dim| Ok(t.split(1, dim)?.remove(0))),
    ("chunk", |t, dim| Ok(t.chunk(2, dim)?.remove(0))),
    ("flip", |t, dim| t.flip(&[dim])),
];

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T>, line: &str) {
    assert_eq!(result.unwrap_err().to_string(), line);
}

#[track_caller]
fn names<T: std::fmt::Debug>(result: Result<T>, words: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(words) && !error.contains('\n'), "{error}");
}

#[test]
fn shapes_that_do_not_fit_are_both_named() {
    let (a, b) = (zeros(&[2, 3], BitNetDType::F32), zeros(&[4], BitNetDType::F32));
    let repeat = "expected shapes that repeat to one another, found [2, 3] and";
    for (name, operation) in TWO {
        says(operation(&a, &b), &format!("shapes of {name}: {repeat} [4]"));
    }
    for activation in Activation::ALL {
        let line = format!("shapes of {} backward: {repeat} [4]", activation.name());
        says(a.activate_backward(activation, &b), &line);
    }
    says(a.where_cond(&a, &b), &format!("shapes of where: {repeat} [2, 3] and [4]"));
    says(a.where_cond(&b, &a), &format!("shapes of where: {repeat} [4] and [2, 3]"));
    says(a.matmul(&a), "shapes of matmul: expected [.., m, k] and [.., k, n], found [2, 3] and [2, 3]");
    says(b.matmul(&a), "shapes of matmul: expected [.., m, k] and [.., k, n], found [4] and [2, 3]");
    says(a.linear(&b), "shapes of linear: expected [.., k] and [n, k], found [2, 3] and [4]");
    let other = "expected the same but for dimension 1, found [2, 3] and [4]";
    says(BitNetTensor::concat(&[&a, &a, &b], 1), &format!("shapes of concat: {other}"));
    says(BitNetTensor::stack(&[&a, &a, &b], 1), "shapes of stack: expected the same, found [2, 3] and [4]");
    let index = zeros(&[4], BitNetDType::I64);
    let line = "shapes of gather: expected indices no longer than the elements, found [2, 3] and [4]";
    says(a.gather(0, &index), line);
    let index = zeros(&[2, 2], BitNetDType::I64);
    let line = "shapes of index_select: expected indices of one dimension, found [2, 3] and [2, 2]";
    says(a.index_select(0, &index), line);
    let repeats = "of a tensor of shape [2, 3]: expected a shape that repeats it, found [4, 2]";
    says(a.expand(&[4, 2]), &format!("expand {repeats}"));
    says(a.broadcast_to(&[4, 2]), &format!("broadcast_to {repeats}"));
    says(a.reshape(&[4]), "reshape of a tensor of shape [2, 3]: expected 6 elements, found shape [4]");
}

#[test]
fn types_without_a_common_one_are_both_named() {
    let (a, b) = (zeros(&[2, 2], BitNetDType::U64), zeros(&[2, 2], BitNetDType::I8));
    for (name, operation) in TWO {
        names(operation(&a, &b), &format!("{name} of u64 [2, 2] and i8 [2, 2]"));
    }
    names(a.where_cond(&a, &b), "where of u64 [2, 2] and i8 [2, 2]");
    names(a.matmul(&b), "matmul of u64 [2, 2] and i8 [2, 2]");
    names(BitNetTensor::concat(&[&a, &b], 0), "concat of u64 [2, 2] and i8 [2, 2]");
    names(BitNetTensor::stack(&[&a, &b], 0), "stack of u64 [2, 2] and i8 [2, 2]");
    // The weights are named as they were given, not as they are multiplied.
    let (x, weights) = (zeros(&[5, 3], BitNetDType::U64), zeros(&[4, 3], BitNetDType::I8));
    names(x.linear(&weights), "linear of u64 [5, 3] and i8 [4, 3]");
    let truth = zeros(&[4, 3], BitNetDType::Bool);
    names(truth.linear(&truth), "linear of bool [4, 3] and bool [4, 3]: truth values are no numbers");
    let floats = zeros(&[2], BitNetDType::F32);
    names(floats.gather(0, &floats), "gather of f32 [2] and f32 [2]: indices are integers");
    let gradient = a.activate_backward(Activation::Gelu, &a);
    names(gradient, "gelu backward of u64 [2, 2] and u64 [2, 2]: gradients are floats");
}

#[test]
fn dimensions_are_refused_in_the_name_of_the_operation() {
    let tensor = zeros(&[2, 3], BitNetDType::F32);
    for ((name, operation), dim) in ALONG.into_iter().flat_map(|named| [2, -3].map(|dim| (named, dim))) {
        let line = format!("dimension of {name} of a tensor of shape [2, 3]: expected -2 to 1, found {dim}");
        says(operation(&tensor, dim), &line);
    }
    for dim in [3, -4, -5, -6] {
        let line =
            |name| format!("dimension of {name} of a tensor of shape [2, 3]: expected -3 to 2, found {dim}");
        says(tensor.unsqueeze(dim), &line("unsqueeze"));
        says(BitNetTensor::stack(&[&tensor, &tensor], dim), &line("stack"));
    }
    for (dim, shape) in [(-3, [2, 2, 3]), (-2, [2, 2, 3]), (-1, [2, 3, 2]), (2, [2, 3, 2])] {
        assert_eq!(BitNetTensor::stack(&[&tensor, &tensor], dim).unwrap().shape(), shape, "{dim}");
    }
    says(BitNetTensor::stack(&[], 0), "operands of stack: expected at least one, found 0");
}

#[test]
fn a_scale_is_refused_in_the_name_of_the_operation() {
    let codes = of(&[1i8, 2], &[2]);
    let scaled = codes.metadata().clone().with_scale(Some(0.5)).unwrap();
    let scaled = BitNetTensor::from_memory(scaled, Arc::clone(codes.memory())).unwrap();
    let words = |name: &str| format!("{name} of a i8 tensor of shape [2] with the scale 5e-1");
    for (name, operation) in TWO {
        names(operation(&codes, &scaled), &words(name));
    }
    let views = ["split", "chunk", "flip"];
    for (name, operation) in ALONG.into_iter().filter(|(name, _)| !views.contains(name)) {
        names(operation(&scaled, 0), &words(name));
    }
    names(scaled.clamp(0.0, 1.0), &words("clamp"));
    names(scaled.logical_not(), &words("logical_not"));
    names(scaled.is_nan(), &words("is_nan"));
    names(scaled.where_cond(&codes, &codes), &words("where"));
    names(BitNetTensor::stack(&[&codes, &scaled], 0), &words("stack"));
    names(scaled.one_hot(3), &words("one_hot"));
}

#[test]
fn numbers_that_are_none_of_the_type_are_refused() {
    let codes = of(&[1i8, 2], &[2]);
    says(codes.clamp(0.0, 1.5), "clamp: element 0 of full: expected a value of type i8, found 1.5");
    names(codes.with(BitNetTensor::mul, 300.0), "expected a value of type i8, found 300");
}

#[test]
fn packed_tensors_are_cut_in_the_name_of_the_operation() {
    let ones = BitNetTensor::ones(&[3, 6], BitNetDType::BitNet158, &Device::Cpu, &pool()).unwrap();
    let words = |name: &str| format!("{name} of a bitnet158 tensor of shape [3, 6]: elements are packed");
    names(ones.split(1, 0), &words("split"));
    names(ones.chunk(3, 0), &words("chunk"));
    names(ones.expand(&[2, 3, 6]), &words("expand"));
    let parts = [&ones.reshape(&[18]).unwrap(), &ones.reshape(&[18]).unwrap()];
    names(BitNetTensor::stack(&parts, 0), "stack of bitnet158 [18] and bitnet158 [18]: the parts of packed");
    assert_eq!(BitNetTensor::stack(&parts[..1], 0).unwrap().shape(), [1, 18]);
}

#[test]
fn repeated_operands_whose_common_shape_no_memory_holds_are_both_named() {
    let one = of(&[0f32], &[1, 1, 1, 1]);
    let (tall, wide) = (one.expand(&[1 << 40, 1, 1, 1]).unwrap(), one.expand(&[1, 1 << 40, 1, 1]).unwrap());
    let found = "found [1099511627776, 1, 1, 1] and [1, 1099511627776, 1, 1]";
    says(
        tall.matmul(&wide),
        &format!("shapes of matmul: expected a product that fits the address space, {found}"),
    );
    for (name, operation) in TWO {
        let line = format!("shapes of {name}: expected a common shape that fits the address space, {found}");
        says(operation(&tall, &wide), &line);
    }
    let expected = "expected a common shape that fits the address space";
    let line = format!("shapes of where: {expected}, {found} and [1, 1, 1, 1]");
    says(tall.where_cond(&wide, &one), &line);
    let (tall, wide) = (one.expand(&[1, 1, 1 << 40, 1]).unwrap(), one.expand(&[1, 1, 1, 1 << 40]).unwrap());
    names(tall.matmul(&wide), "shapes of matmul: expected a product that fits");
    let weights = of(&[0f32], &[1, 1]).expand(&[1 << 40, 1]).unwrap();
    let line = "shapes of linear: expected a product that fits the address space, found \
                [1, 1, 1099511627776, 1] and [1099511627776, 1]";
    says(tall.linear(&weights), line);
}
