use std::path::PathBuf;
use std::time::Duration;
