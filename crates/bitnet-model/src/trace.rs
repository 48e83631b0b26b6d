//! Events through the `tracing` crate, where the feature is on.

#[cfg(feature = "tracing")]
macro_rules! info {
    ($($arg:tt)*) => { tracing::info!($($arg)*) };
}
#[cfg(feature = "tracing")]
macro_rules! debug {
    ($($arg:tt)*) => { tracing::debug!($($arg)*) };
}
// Off, the arguments are still type-checked and count as used.
#[cfg(not(feature = "tracing"))]
macro_rules! info {
    ($($arg:tt)*) => { let _ = || ::std::format!($($arg)*); };
}
#[cfg(not(feature = "tracing"))]
macro_rules! debug {
    ($($arg:tt)*) => { let _ = || ::std::format!($($arg)*); };
}

pub(crate) use {debug, info};
