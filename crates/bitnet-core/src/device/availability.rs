//! Which devices this build can use on this machine.

use std::env::consts::{ARCH, OS};
use std::path::Path;

use bitnet_backend::{BitNetError, Device, ErrorKind, MlxDeviceType, Result};

/// Every kind of device, the fastest first.
const PREFERENCE: [Device; 4] =
    [Device::Cuda(0), Device::Metal(0), Device::Mlx(MlxDeviceType::Gpu), Device::Cpu];

/// Where the NVIDIA kernel driver shows itself.
const NVIDIA_DRIVER: &str = "/proc/driver/nvidia/version";

/// Returns the host processor.
pub fn get_cpu_device() -> Device {
    Device::Cpu
}

/// Returns the best available device: the first of [`candidates`] that can be used.
pub fn auto_select_device() -> Device {
    PREFERENCE.into_iter().find(|device| availability(device).is_ok()).unwrap_or_default()
}

/// Reports whether the CPU and whether Metal can be used, in this order.
pub fn get_device_info() -> (bool, bool) {
    (availability(&Device::Cpu).is_ok(), availability(&Device::Metal(0)).is_ok())
}

/// Lists every kind of device, the fastest first, each usable or with the reason why not.
pub fn candidates() -> Vec<(Device, Result<()>)> {
    PREFERENCE.into_iter().map(|device| (device, availability(&device))).collect()
}

/// Checks that this build can use `device` on this machine.
///
/// # Errors
/// `DeviceUnavailable`, naming everything that was looked at.
pub fn availability(device: &Device) -> Result<()> {
    let reason = match device {
        Device::Cpu => return Ok(()),
        Device::Cuda(_) => {
            let driver = if Path::new(NVIDIA_DRIVER).exists() { "found" } else { "not found" };
            format!("this build has no cuda backend (nvidia driver at {NVIDIA_DRIVER}: {driver})")
        }
        Device::Metal(_) => {
            apple_reason("metal", "macos", cfg!(feature = "metal"), cfg!(target_os = "macos"), OS)
        }
        Device::Mlx(_) => {
            let on_apple_silicon = cfg!(all(target_os = "macos", target_arch = "aarch64"));
            let found = format!("{OS} on {ARCH}");
            apple_reason("mlx", "macos on aarch64", cfg!(feature = "mlx"), on_apple_silicon, &found)
        }
        _ => "this build does not know its kind".to_string(),
    };
    Err(BitNetError::new(ErrorKind::DeviceUnavailable { device: *device, reason }))
}

/// States all that stands between an Apple device and its use, the target first.
fn apple_reason(feature: &str, target: &str, feature_on: bool, on_target: bool, found: &str) -> String {
    let mut reasons = Vec::new();
    if !on_target {
        reasons.push(format!("it needs {target}, this is {found}"));
    }
    if !feature_on {
        reasons.push(format!("feature {feature} is off"));
    }
    reasons.push(format!("this build has no {feature} backend"));
    reasons.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_selection_takes_the_first_usable_candidate() {
        let selected = auto_select_device();
        let first = candidates().into_iter().find(|(_, usable)| usable.is_ok()).unwrap();
        assert_eq!(selected, first.0);
        assert_eq!(get_device_info().0, availability(&get_cpu_device()).is_ok());
        assert!(availability(&selected).is_ok());
    }

    #[test]
    fn device_candidates_are_distinct_and_end_with_the_cpu() {
        let devices: Vec<_> = candidates().into_iter().map(|(device, _)| device).collect();
        for (index, device) in devices.iter().enumerate() {
            assert!(!devices[..index].contains(device));
        }
        assert_eq!(devices.last(), Some(&Device::Cpu));
    }

    #[test]
    fn device_refusals_name_device_and_reason() {
        for (device, needle) in [
            (Device::Cuda(2), "device cuda:2 is not available: this build has no cuda backend"),
            (Device::Mlx(MlxDeviceType::Cpu), "this build has no mlx backend"),
        ] {
            let message = availability(&device).unwrap_err().to_string();
            assert!(message.contains(needle), "{message}");
            assert!(!message.contains('\n'));
        }
    }
}
