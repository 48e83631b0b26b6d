// The sample names the runtime's own element types, which the backend re-exports.
use bitnet_core::mlx::mlx_rs;
