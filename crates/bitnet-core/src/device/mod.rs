//! Devices: which there are, which this build can use, why not the others, and what the machine is.
//!
//! [`availability`] is the one place that decides; selection, listing and the pool ask it. A backend
//! that is added to the build gets its branch there and its place in `PREFERENCE`.

mod availability;
mod bandwidth;
mod caches;
pub(crate) mod cgroup;
pub(crate) mod machine;
pub(crate) mod memory;
#[cfg(test)]
mod metal_device_availability_tests;
mod resident;
mod together;

pub use availability::{auto_select_device, availability, candidates, get_cpu_device, get_device_info};
pub use bandwidth::{ReadBandwidth, read_bandwidth, read_pass};
pub use bitnet_backend::{Device, MlxDeviceType};
pub use bitnet_kernels::probe::ReadMethod;
pub use caches::{Cache, CacheKind};
pub use machine::MachineInfo;
pub use resident::peak_resident_bytes;
pub use together::{Pass, share_out, together};
