//! Shapes of published models, without their weights.

use bitnet_core::backend::Activation;

/// The sizes of a BitNet b1.58 decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Name on the command line.
    pub name: &'static str,
    /// Rows of embedding and head.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// The gate's function.
    pub activation: Activation,
}

/// Every shape: microsoft/bitnet-b1.58-2B-4T, 1bitLLM/bitnet_b1_58-large and -3B, and a small one on which
/// overheads show rather than bandwidth.
pub const SHAPES: [Shape; 4] = [
    Shape {
        name: "2b-4t",
        vocab: 128_256,
        hidden: 2560,
        intermediate: 6912,
        layers: 30,
        heads: 20,
        kv_heads: 5,
        rope_theta: 500_000.0,
        activation: Activation::SquaredRelu,
    },
    Shape {
        name: "large",
        vocab: 32_002,
        hidden: 1536,
        intermediate: 4096,
        layers: 24,
        heads: 16,
        kv_heads: 16,
        rope_theta: 10_000.0,
        activation: Activation::Silu,
    },
    Shape {
        name: "3b",
        vocab: 32_002,
        hidden: 3200,
        intermediate: 8640,
        layers: 26,
        heads: 32,
        kv_heads: 32,
        rope_theta: 10_000.0,
        activation: Activation::Silu,
    },
    Shape {
        name: "tiny",
        vocab: 32_000,
        hidden: 768,
        intermediate: 2048,
        layers: 12,
        heads: 12,
        kv_heads: 12,
        rope_theta: 500_000.0,
        activation: Activation::SquaredRelu,
    },
];

impl Shape {
    /// Returns the shape of this name.
    pub fn by_name(name: &str) -> Option<Shape> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// Returns output and input features of the greatest ternary matrices of a layer.
    pub fn products(&self) -> [(usize, usize); 3] {
        let Shape { hidden, intermediate, .. } = *self;
        [(hidden, hidden), (intermediate, hidden), (hidden, intermediate)]
    }

    /// Returns the elements of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}
