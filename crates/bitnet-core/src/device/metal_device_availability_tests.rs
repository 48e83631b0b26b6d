//! Metal is refused with everything that was looked at, while no build has its backend.

use bitnet_backend::ErrorKind;

use super::{Device, auto_select_device, availability, candidates, get_device_info};

fn reason(ordinal: usize) -> String {
    match availability(&Device::Metal(ordinal)).unwrap_err().kind() {
        ErrorKind::DeviceUnavailable { device, reason } => {
            assert_eq!(*device, Device::Metal(ordinal));
            reason.clone()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn metal_is_reported_unavailable_everywhere() {
    assert!(!get_device_info().1);
    assert_ne!(auto_select_device(), Device::Metal(0));
    let listed = candidates().into_iter().find(|(device, _)| *device == Device::Metal(0)).unwrap();
    assert!(listed.1.unwrap_err().to_string().starts_with("device metal:0 is not available: "));
}

#[test]
fn metal_reason_names_the_missing_backend() {
    assert!(reason(1).ends_with("this build has no metal backend"), "{}", reason(1));
}

#[test]
fn metal_reason_names_the_operating_system_where_it_is_the_wrong_one() {
    let named = reason(0).contains(&format!("it needs macos, this is {}", std::env::consts::OS));
    assert_eq!(named, !cfg!(target_os = "macos"), "{}", reason(0));
}

#[test]
fn metal_reason_names_the_feature_where_it_is_off() {
    assert_eq!(reason(0).contains("feature metal is off"), !cfg!(feature = "metal"), "{}", reason(0));
}
