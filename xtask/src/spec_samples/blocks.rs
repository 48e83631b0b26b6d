//! The 17 samples in the order of the specification, and what became of each.

use std::fmt;

/// What can be done with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// A test executes it.
    Runs,
    /// It compiles; running it needs something that a test machine may lack.
    #[allow(dead_code, reason = "kept for samples that need a device")]
    TypeChecks,
    /// It needs this system, which does not exist yet.
    Waits(&'static str),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Runs => f.write_str("runs"),
            Status::TypeChecks => f.write_str("type-checks"),
            Status::Waits(system) => write!(f, "waits for {system}"),
        }
    }
}

/// One sample.
pub struct Block {
    /// Name of the example file, beginning with the sample's number.
    pub file: &'static str,
    /// Heading that it stands under, undecorated.
    pub heading: &'static str,
    /// What can be done with it.
    pub status: Status,
    /// Features of `bitnet-core` that it needs beyond the default ones.
    pub features: &'static [&'static str],
    /// What it takes for granted.
    pub prelude: &'static str,
}

impl Block {
    /// Returns the number of the sample, from 1.
    pub fn number(&self) -> usize {
        self.file.split('_').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Returns the name of the cargo example.
    pub fn example(&self) -> String {
        format!("spec_{}", self.file)
    }
}

macro_rules! prelude {
    ($number:literal) => {
        include_str!(concat!("preludes/", $number, ".rs"))
    };
}

const MLX: Status = Status::Waits("the MLX backend");
const METAL: Status = Status::Waits("the Metal backend");

/// The samples.
pub const BLOCKS: &[Block] = &[
    Block {
        file: "01_mlx_acceleration",
        heading: "MLX Acceleration (Apple Silicon)",
        status: MLX,
        features: &["mlx"],
        prelude: prelude!("01"),
    },
    Block {
        file: "02_mixed_precision",
        heading: "Mixed Precision System",
        status: Status::Waits("mixed precision"),
        features: &[],
        prelude: prelude!("02"),
    },
    Block {
        file: "03_execution_path",
        heading: "Execution Path Optimization",
        status: Status::Waits("execution selection"),
        features: &[],
        prelude: prelude!("03"),
    },
    Block {
        file: "04_memory_efficient_conversions",
        heading: "Memory-Efficient Conversions",
        status: Status::Runs,
        features: &[],
        prelude: prelude!("04"),
    },
    Block {
        file: "05_simd_unpacking",
        heading: "SIMD Weight Unpacking and Quantization",
        status: Status::Runs,
        features: &[],
        prelude: prelude!("05"),
    },
    Block {
        file: "06_tokenization",
        heading: "Tokenization System",
        status: Status::Runs,
        features: &["tokenizers"],
        prelude: prelude!("06"),
    },
    Block {
        file: "07_sequence_processing",
        heading: "Sequence Processing",
        status: Status::Waits("sequence processing"),
        features: &[],
        prelude: prelude!("07"),
    },
    Block {
        file: "08_metal_acceleration",
        heading: "Metal GPU Acceleration",
        status: METAL,
        features: &["metal"],
        prelude: prelude!("08"),
    },
    Block {
        file: "09_memory_pool",
        heading: "Basic Memory Pool Usage",
        status: Status::Runs,
        features: &[],
        prelude: prelude!("09"),
    },
    Block {
        file: "10_data_conversion",
        heading: "Memory-Efficient Data Conversion",
        status: Status::Runs,
        features: &[],
        prelude: prelude!("10"),
    },
    Block {
        file: "11_memory_tracking",
        heading: "Advanced Memory Tracking",
        status: Status::Runs,
        features: &[],
        prelude: prelude!("11"),
    },
    Block {
        file: "12_metal_operations",
        heading: "Advanced Metal Operations",
        status: METAL,
        features: &["metal"],
        prelude: prelude!("12"),
    },
    Block {
        file: "13_device",
        heading: "Device Abstraction",
        status: Status::Runs,
        features: &[],
        prelude: prelude!("13"),
    },
    Block {
        file: "14_tensor",
        heading: "Basic Tensor Operations",
        status: Status::Runs,
        features: &[],
        prelude: prelude!("14"),
    },
    Block {
        file: "15_metal_configuration",
        heading: "Metal GPU Configuration",
        status: METAL,
        features: &["metal"],
        prelude: prelude!("15"),
    },
    Block {
        file: "16_memory_pool_configuration",
        heading: "Memory Pool Configuration",
        status: Status::Runs,
        features: &[],
        prelude: prelude!("16"),
    },
    Block {
        file: "17_mlx_configuration",
        heading: "MLX Configuration",
        status: MLX,
        features: &["mlx"],
        prelude: prelude!("17"),
    },
];
