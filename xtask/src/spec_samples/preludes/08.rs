// The sample names the Metal bindings, which the backend re-exports.
use bitnet_core::metal::metal;
