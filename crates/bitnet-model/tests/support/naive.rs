//! A backend that records what it is given, and runs a graph token by token in f64.
#![allow(dead_code, reason = "each test file uses a part")]

use bitnet_core::backend::{
    Activation, Backend, BackendInfo, BitNetDType, BitNetError, BufferId, Device, Graph, LinearId,
    LinearWeights, MemoryPart, Norm, Op, Result, Step, StepLimits, VectorId, WeightScale, WeightStorage,
};
use bitnet_quant::packing::row_quarters;
use half::{bf16, f16};

/// A matrix as values times a magnitude.
struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f64>,
    scale: Option<WeightScale>,
    bias: Option<Vec<f32>>,
}

/// Records matrices, vectors and names; refuses a name on demand.
#[derive(Default)]
pub struct Naive {
    matrices: Vec<Matrix>,
    vectors: Vec<Vec<f32>>,
    pub names: Vec<String>,
    pub refuse: Option<&'static str>,
}

impl Naive {
    pub fn shape(&self, id: LinearId) -> Option<(usize, usize)> {
        self.matrices.get(id.0 as usize).map(|m| (m.rows, m.cols))
    }

    pub fn length(&self, id: VectorId) -> Option<usize> {
        self.vectors.get(id.0 as usize).map(Vec::len)
    }

    fn note(&mut self, name: &str) -> Result<()> {
        self.names.push(name.to_owned());
        match self.refuse {
            Some(refused) if refused == name => Err(BitNetError::mismatch("memory", "some", "none")),
            _ => Ok(()),
        }
    }
}

impl Backend for Naive {
    fn info(&self) -> BackendInfo {
        BackendInfo { name: "naive", device: Device::Cpu, kernels: "f64".into(), threads: 1 }
    }

    fn prepare_linear(&mut self, weights: LinearWeights) -> Result<LinearId> {
        self.note(&weights.name)?;
        weights.validate()?;
        let (rows, cols) = (weights.rows, weights.cols);
        let (values, scale) = match &weights.storage {
            WeightStorage::Ternary { bytes, scale, .. } => {
                let mut codes = vec![0i8; rows * cols];
                row_quarters::unpack(bytes, rows, cols, &mut codes);
                (codes.into_iter().map(f64::from).collect(), Some(*scale))
            }
            WeightStorage::Dense { dtype, bytes } => (floats(*dtype, bytes), None),
            other => panic!("{other:?}"),
        };
        self.matrices.push(Matrix { rows, cols, values, scale, bias: weights.bias });
        Ok(LinearId(self.matrices.len() as u32 - 1))
    }

    fn prepare_vector(&mut self, name: &str, values: &[f32]) -> Result<VectorId> {
        self.note(name)?;
        self.vectors.push(values.to_vec());
        Ok(VectorId(self.vectors.len() as u32 - 1))
    }

    fn load_graph(&mut self, _: Graph, _: StepLimits) -> Result<()> {
        unreachable!("the tests run graphs through `Run`")
    }

    fn reserve_kv_blocks(&mut self, _: usize) -> Result<()> {
        unreachable!("the tests run graphs through `Run`")
    }

    fn release_kv_blocks(&mut self, _: usize) {
        unreachable!("the tests run graphs through `Run`")
    }

    fn execute(&mut self, _: &Op, _: &Step) -> Result<()> {
        unreachable!("the tests run graphs through `Run`")
    }

    fn forward(&mut self, _: &Step) -> Result<()> {
        unreachable!("the tests run graphs through `Run`")
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn vocab(&self) -> Result<usize> {
        unreachable!("the tests run graphs through `Run`")
    }

    fn logits(&mut self) -> Result<&[f32]> {
        unreachable!("the tests run graphs through `Run`")
    }

    fn read_buffer(&mut self, _: BufferId) -> Result<Vec<f32>> {
        unreachable!("the tests run graphs through `Run`")
    }

    fn memory(&self) -> Vec<MemoryPart> {
        Vec::new()
    }
}

fn floats(dtype: BitNetDType, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        BitNetDType::F16 => {
            bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f64()).collect()
        }
        BitNetDType::BF16 => {
            bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f64()).collect()
        }
        _ => bytes.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
    }
}

/// One sequence on its way through a graph.
pub struct Run<'a> {
    backend: &'a Naive,
    graph: &'a Graph,
    buffers: Vec<Vec<f64>>,
    /// `127 / absmax` of a quantised buffer's row; 1 for floats.
    scales: Vec<f64>,
    keys: Vec<Vec<Vec<f64>>>,
    values: Vec<Vec<Vec<f64>>>,
}

impl<'a> Run<'a> {
    pub fn new(backend: &'a Naive, graph: &'a Graph) -> Self {
        let buffers: Vec<_> = graph.buffers.iter().map(|spec| vec![f64::NAN; spec.width]).collect();
        let scales = vec![1.0; buffers.len()];
        let cache = vec![Vec::new(); graph.layers];
        Run { backend, graph, buffers, scales, keys: cache.clone(), values: cache }
    }

    /// Runs one token and returns its logits.
    pub fn token(&mut self, token: u32, position: usize) -> Vec<f64> {
        let mut logits = Vec::new();
        for op in &self.graph.ops {
            match *op {
                Op::Embed { table, out } => {
                    let table = &self.backend.matrices[table.0 as usize];
                    let row = &table.values[token as usize * table.cols..][..table.cols];
                    self.buffers[at(out)] = row.to_vec();
                }
                Op::Norm { x, norm, out } => self.buffers[at(out)] = self.norm(x, norm),
                Op::Quantize { x, norm, out } => {
                    let x = norm.map_or_else(|| self.buffers[at(x)].clone(), |norm| self.norm(x, norm));
                    let scale = 127.0 / x.iter().fold(1e-5f64, |max, v| max.max(v.abs()));
                    self.buffers[at(out)] =
                        x.iter().map(|v| (v * scale).round_ties_even().clamp(-128.0, 127.0)).collect();
                    self.scales[at(out)] = scale;
                }
                Op::Linear { x, weights, out, accumulate } => {
                    let product = self.linear(weights, &self.buffers[at(x)], self.scales[at(x)]);
                    let out = &mut self.buffers[at(out)];
                    let old = if accumulate { out.clone() } else { vec![0.0; out.len()] };
                    *out = product.iter().zip(old).map(|(new, old)| new + old).collect();
                }
                Op::RopeAppend { q, k, v, layer } => {
                    self.rotate(q, position);
                    self.rotate(k, position);
                    self.keys[layer as usize].push(self.buffers[at(k)].clone());
                    self.values[layer as usize].push(self.buffers[at(v)].clone());
                }
                Op::Attention { q, layer, out } => self.buffers[at(out)] = self.attend(q, layer as usize),
                Op::Gate { gate, up, activation, out } => {
                    let (gate, up) = (self.buffers[at(gate)].clone(), self.buffers[at(up)].clone());
                    let function = |g: f64| match activation {
                        Activation::SquaredRelu => g.max(0.0).powi(2),
                        Activation::Silu => g / (1.0 + (-g).exp()),
                    };
                    self.buffers[at(out)] = gate.iter().zip(up).map(|(&g, up)| function(g) * up).collect();
                }
                Op::Head { x, norm, weights } => logits = self.linear(weights, &self.norm(x, norm), 1.0),
                other => panic!("{other:?}"),
            }
        }
        logits
    }

    fn norm(&self, x: BufferId, norm: Norm) -> Vec<f64> {
        let (x, weight) = (&self.buffers[at(x)], &self.backend.vectors[norm.weight.0 as usize]);
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (mean + f64::from(norm.eps)).sqrt();
        x.iter().zip(weight).map(|(v, w)| v * factor * f64::from(*w)).collect()
    }

    fn linear(&self, id: LinearId, x: &[f64], x_scale: f64) -> Vec<f64> {
        let matrix = &self.backend.matrices[id.0 as usize];
        let weight = match matrix.scale {
            None => 1.0,
            Some(WeightScale::Multiply(scale)) => f64::from(scale),
            Some(WeightScale::Divide(scale)) => 1.0 / f64::from(scale),
        };
        let row = |row: usize| &matrix.values[row * matrix.cols..][..matrix.cols];
        let dot = |index: usize| row(index).iter().zip(x).map(|(w, x)| w * x).sum::<f64>() / x_scale * weight;
        let bias = |index: usize| matrix.bias.as_ref().map_or(0.0, |bias| f64::from(bias[index]));
        (0..matrix.rows).map(|index| dot(index) + bias(index)).collect()
    }

    fn rotate(&mut self, buffer: BufferId, position: usize) {
        let shape = self.graph.attention;
        let half = shape.head_dim / 2;
        for head in self.buffers[at(buffer)].chunks_exact_mut(shape.head_dim) {
            for i in 0..half {
                let frequency = f64::from(self.graph.rope_frequencies[i]);
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (a, b) = (head[i], head[i + half]);
                (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }

    fn attend(&self, q: BufferId, layer: usize) -> Vec<f64> {
        let shape = self.graph.attention;
        let (d, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let mut out = Vec::new();
        for (head, q) in self.buffers[at(q)].chunks_exact(d).enumerate() {
            let span = head / group * d..(head / group + 1) * d;
            let dot = |k: &Vec<f64>| k[span.clone()].iter().zip(q).map(|(k, q)| k * q).sum::<f64>();
            let scores: Vec<f64> = self.keys[layer].iter().map(|k| dot(k) / (d as f64).sqrt()).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mixed = |i: usize| {
                weights.iter().zip(&self.values[layer]).map(|(w, v)| w * v[span.start + i]).sum::<f64>()
                    / total
            };
            out.extend((0..d).map(mixed));
        }
        out
    }
}

fn at(buffer: BufferId) -> usize {
    buffer.0 as usize
}
