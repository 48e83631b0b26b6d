//! Where tensors live and operations run.

use std::fmt;
use std::str::FromStr;

use crate::{BitNetError, ErrorKind};

/// A compute device, named as the command line names it: `cpu`, `cuda:0`, `metal:0`, `mlx`.
///
/// Naming a device does not make it available: `bitnet_core::device` says which ones this machine
/// and this build can use, and why not the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Device {
    /// The host processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by CUDA ordinal.
    Cuda(usize),
    /// An Apple GPU through Metal, by ordinal.
    Metal(usize),
    /// Apple's MLX runtime.
    Mlx(MlxDeviceType),
}

/// The two devices that MLX distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MlxDeviceType {
    /// The GPU over unified memory, MLX's own default.
    #[default]
    Gpu,
    /// The CPU stream.
    Cpu,
}

impl Device {
    /// Reports whether this is the host processor.
    pub fn is_cpu(&self) -> bool {
        matches!(self, Device::Cpu)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(i) => write!(f, "cuda:{i}"),
            Device::Metal(i) => write!(f, "metal:{i}"),
            Device::Mlx(MlxDeviceType::Gpu) => f.write_str("mlx"),
            Device::Mlx(MlxDeviceType::Cpu) => f.write_str("mlx:cpu"),
        }
    }
}

impl FromStr for Device {
    type Err = BitNetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index)),
            None => (text, None),
        };
        let ordinal = || index.unwrap_or("0").parse::<usize>().ok();
        let device = match name {
            "cpu" if index.is_none() => Some(Device::Cpu),
            "cuda" => ordinal().map(Device::Cuda),
            "metal" => ordinal().map(Device::Metal),
            "mlx" => match index {
                None | Some("gpu") => Some(Device::Mlx(MlxDeviceType::Gpu)),
                Some("cpu") => Some(Device::Mlx(MlxDeviceType::Cpu)),
                Some(_) => None,
            },
            _ => None,
        };
        device.ok_or_else(|| {
            BitNetError::new(ErrorKind::Mismatch {
                what: "device name".into(),
                expected: "cpu, cuda:N, metal:N, mlx or mlx:cpu".into(),
                found: format!("{text:?}"),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_round_trip() {
        for name in ["cpu", "cuda:3", "metal:0", "mlx", "mlx:cpu"] {
            assert_eq!(name.parse::<Device>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
    }

    #[test]
    fn unknown_device_names_are_refused() {
        for name in ["", "gpu", "cpu:1", "cuda:x", "cuda:-1", "mlx:2"] {
            let message = name.parse::<Device>().unwrap_err().to_string();
            assert!(message.contains("expected cpu"), "{message}");
        }
    }
}
