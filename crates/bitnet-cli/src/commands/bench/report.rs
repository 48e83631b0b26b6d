//! What `bitnet bench` found: as JSON, as lines of text, and against the least shares.

use anyhow::{Result, anyhow};
use bitnet_benchmarks::kernels::{self, Pages};
use bitnet_benchmarks::speed::Speed;
use bitnet_benchmarks::statistics::Summary;
use serde::Serialize;

use crate::output::{Out, bytes, rate};

/// Least shares that `--assert` demands.
const DECODE_SHARE: f64 = 0.5;
const KERNEL_SHARE: f64 = 0.7;
const BESIDE_SHARE: f64 = 0.4;

#[derive(Serialize)]
pub struct Report {
    pub schema: u32,
    pub model: String,
    pub isa: &'static str,
    /// What the share of prompts and of warm ternary products is one of.
    pub compute_probe: Option<&'static str>,
    pub kernels: Vec<KernelLine>,
    pub speed: Vec<SpeedLine>,
}

#[derive(Serialize)]
pub struct KernelLine {
    /// The kind of weights.
    product: &'static str,
    rows: usize,
    cols: usize,
    tokens: usize,
    threads: usize,
    cold: bool,
    /// Weights in the pool, which is on huge pages where the system has them.
    huge_pages: bool,
    gops: f64,
    gops_range: [f64; 2],
    gb_per_s: f64,
    /// Of the read bandwidth when cold, else of the compute probe.
    share: f64,
    #[serde(skip)]
    text: String,
}

impl From<kernels::Figure> for KernelLine {
    fn from(figure: kernels::Figure) -> Self {
        let text = figure.to_string();
        let kernels::Figure { product, pages, rows, cols, tokens, threads, cold, gops, gb_per_s, share } =
            figure;
        KernelLine {
            product: product.name(),
            rows,
            cols,
            tokens,
            threads,
            cold,
            huge_pages: pages == Pages::Huge,
            gops: gops.median,
            gops_range: range(gops),
            gb_per_s,
            share,
            text,
        }
    }
}

#[derive(Serialize)]
pub struct SpeedLine {
    threads: usize,
    kernels: String,
    prompt_tokens: usize,
    prompt_tok_per_s: f64,
    prompt_tok_per_s_range: [f64; 2],
    /// Of ternary products, as everywhere here.
    prompt_gops: f64,
    prompt_gb_per_s: f64,
    compute_ops_per_s: f64,
    prompt_share: f64,
    decode_tokens: usize,
    decode_tok_per_s: f64,
    decode_tok_per_s_range: [f64; 2],
    decode_gops: f64,
    decode_gb_per_s: f64,
    bytes_per_token: usize,
    weight_bytes_per_token: usize,
    kv_bytes_per_token: usize,
    bandwidth_bytes_per_s: f64,
    share: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    beside: Option<BesideLine>,
}

impl SpeedLine {
    /// Makes the line of some threads and counts of tokens.
    pub fn new(
        threads: usize,
        (prompt, decode): (usize, usize),
        speed: Speed,
        beside: Option<BesideLine>,
    ) -> Self {
        SpeedLine {
            threads,
            prompt_tokens: prompt,
            prompt_tok_per_s: speed.prompt.median,
            prompt_tok_per_s_range: range(speed.prompt),
            prompt_gops: speed.prompt_gops,
            prompt_gb_per_s: speed.prompt_gb_per_s,
            compute_ops_per_s: speed.compute,
            prompt_share: speed.prompt_share,
            decode_tokens: decode,
            decode_tok_per_s: speed.decode.median,
            decode_tok_per_s_range: range(speed.decode),
            decode_gops: speed.decode_gops,
            decode_gb_per_s: speed.decode_gb_per_s,
            bytes_per_token: speed.weight_bytes + speed.kv_bytes,
            weight_bytes_per_token: speed.weight_bytes,
            kv_bytes_per_token: speed.kv_bytes,
            bandwidth_bytes_per_s: speed.bandwidth,
            share: speed.share,
            kernels: speed.kernels,
            beside,
        }
    }

    fn print(&self, probe: Option<&str>, out: &mut Out) -> Result<()> {
        out.line(&format!(
            "threads {}: prompt {} tokens {}, decode {} tokens {}",
            self.threads,
            self.prompt_tokens,
            rate(self.prompt_tok_per_s),
            self.decode_tokens,
            rate(self.decode_tok_per_s),
        ))?;
        // One token stands for no prompt.
        if self.prompt_tokens > 1 && !self.prompt_gops.is_nan() {
            let share = match probe.filter(|_| !self.prompt_share.is_nan()) {
                Some(probe) => format!(", {:.2} of {probe}", self.prompt_share),
                None => String::new(),
            };
            out.line(&format!(
                "           prompt: {:.1} GOPS, {:.1} GB/s of weights{share}",
                self.prompt_gops, self.prompt_gb_per_s
            ))?;
        }
        if let Some(beside) = &self.beside {
            out.line(&format!(
                "           decode beside {} busy threads {}, alone {}: {:.2} of it",
                beside.busy_threads,
                rate(beside.busy_tok_per_s),
                rate(beside.idle_tok_per_s),
                beside.share,
            ))?;
        }
        if self.share.is_nan() {
            return Ok(());
        }
        out.line(&format!(
            "           decode: {:.1} GOPS, {:.1} of {:.1} GB/s read, {} a token: {:.2} of the roofline",
            self.decode_gops,
            self.decode_gb_per_s,
            self.bandwidth_bytes_per_s / 1e9,
            bytes(self.bytes_per_token as u64),
            self.share,
        ))
    }
}

/// Decoding beside busy threads.
#[derive(Serialize)]
pub struct BesideLine {
    pub busy_threads: usize,
    pub idle_tok_per_s: f64,
    pub idle_tok_per_s_range: [f64; 2],
    pub busy_tok_per_s: f64,
    pub busy_tok_per_s_range: [f64; 2],
    pub share: f64,
}

/// Returns the ends of a summary.
pub fn range(summary: Summary) -> [f64; 2] {
    [summary.min, summary.max]
}

impl Report {
    /// Prints the lines of text.
    pub fn print(&self, out: &mut Out) -> Result<()> {
        out.line(&format!("model   {}", self.model))?;
        out.line(&format!("tier    {}", self.isa))?;
        for KernelLine { cold, share, text, .. } in &self.kernels {
            let share = match (cold, self.compute_probe) {
                _ if share.is_nan() => String::new(),
                (true, _) => format!("  {share:.2} of the read bandwidth"),
                (false, Some(probe)) => format!("  {share:.2} of {probe}"),
                (false, None) => String::new(),
            };
            out.line(&format!("{text}{share}"))?;
        }
        self.speed.iter().try_for_each(|line| line.print(self.compute_probe, out))
    }

    /// Holds the figures against the least shares. A share that is not a number has not reached one.
    pub fn check(&self) -> Result<()> {
        let short = |share: f64, least: f64| share.is_nan() || share < least;
        if let Some(line) = self.kernels.iter().find(|line| line.cold && short(line.share, KERNEL_SHARE)) {
            let KernelLine { product, rows, cols, threads, share, .. } = line;
            return Err(anyhow!(
                "cold product {product} {rows} x {cols} with {threads} threads: expected {KERNEL_SHARE} of the read \
                 bandwidth, found {share:.2}"
            ));
        }
        for SpeedLine { threads, share, beside, .. } in &self.speed {
            if short(*share, DECODE_SHARE) {
                return Err(anyhow!(
                    "decoding with {threads} threads: expected {DECODE_SHARE} of the roofline, found {share:.2}"
                ));
            }
            if let Some(BesideLine { busy_threads, share, .. }) = beside
                && short(*share, BESIDE_SHARE)
            {
                return Err(anyhow!(
                    "decoding with {threads} threads beside {busy_threads} busy ones: expected {BESIDE_SHARE} of its \
                     speed alone, found {share:.2}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bitnet_benchmarks::kernels::Product;

    use super::*;
    use crate::output::SCHEMA;

    fn report(cold: f64, warm: f64, decode: Option<f64>, beside: Option<f64>) -> Report {
        let kernel = |cold, share| {
            KernelLine::from(kernels::Figure {
                product: Product::RowQuarters,
                pages: Pages::Small,
                rows: 4,
                cols: 8,
                tokens: 1,
                threads: 2,
                cold,
                gops: Summary { median: 8.0, min: 7.0, max: 9.0 },
                gb_per_s: 1.0,
                share,
            })
        };
        let one = Summary { median: 1.0, min: 1.0, max: 1.0 };
        let beside = beside.map(|share| BesideLine {
            busy_threads: 2,
            idle_tok_per_s: 1.0,
            idle_tok_per_s_range: [1.0; 2],
            busy_tok_per_s: share,
            busy_tok_per_s_range: [share; 2],
            share,
        });
        let speed = decode.map(|share| Speed {
            prompt: one,
            prompt_gops: 1.0,
            prompt_gb_per_s: 1.0,
            prompt_share: f64::NAN,
            compute: f64::NAN,
            decode: one,
            decode_gops: 1.0,
            decode_gb_per_s: 1.0,
            weight_bytes: 1,
            kv_bytes: 0,
            bandwidth: 1.0,
            share,
            kernels: String::new(),
        });
        let speed = speed.map(|speed| SpeedLine::new(1, (1, 1), speed, beside));
        let kernels = vec![kernel(true, cold), kernel(false, warm)];
        let (model, speed) = (String::new(), speed.into_iter().collect());
        Report { schema: SCHEMA, model, isa: "scalar", compute_probe: None, kernels, speed }
    }

    #[test]
    fn shares_below_the_floors_and_shares_that_are_none_fail() {
        assert!(report(KERNEL_SHARE, f64::NAN, None, None).check().is_ok());
        assert!(report(1.0, 0.0, Some(DECODE_SHARE), Some(BESIDE_SHARE)).check().is_ok());
        for (cold, decode, beside) in [
            (0.69, 1.0, None),
            (f64::NAN, 1.0, None),
            (1.0, 0.49, None),
            (1.0, f64::NAN, None),
            (1.0, 1.0, Some(0.39)),
            (1.0, 1.0, Some(f64::NAN)),
        ] {
            let message = report(cold, 1.0, Some(decode), beside).check().unwrap_err().to_string();
            assert!(message.contains("expected 0."), "{message}");
        }
    }
}
