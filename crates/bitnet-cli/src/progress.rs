//! Progress bars: on standard error, on terminals only, and only for what takes over half a second.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use bitnet_inference::model::LoadProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const PATIENCE: Duration = Duration::from_millis(500);

/// A bar that shows itself once its work has taken half a second.
pub struct Progress {
    template: &'static str,
    started: Instant,
    shown: Option<ProgressBar>,
    wanted: bool,
}

impl Progress {
    /// Prepares a bar for bytes.
    pub fn bytes() -> Self {
        Progress::new("loading {bar:32} {bytes}/{total_bytes}")
    }

    /// Prepares a bar for the bytes of a model that is converted.
    pub fn converting() -> Self {
        Progress::new("converting {bar:32} {bytes}/{total_bytes} {eta}")
    }

    /// Prepares a bar for windows of text.
    pub fn windows() -> Self {
        Progress::new("windows {bar:32} {pos}/{len} {eta}")
    }

    fn new(template: &'static str) -> Self {
        let wanted = std::io::stderr().is_terminal();
        Progress { template, started: Instant::now(), shown: None, wanted }
    }

    /// States how far the work has come.
    pub fn update(&mut self, done: u64, total: u64) {
        if !self.wanted || (self.shown.is_none() && (self.started.elapsed() < PATIENCE || done >= total)) {
            return;
        }
        let bar = self.shown.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            // The template is a constant; were it wrong, the default would do.
            bar.set_style(
                ProgressStyle::with_template(self.template).unwrap_or(ProgressStyle::default_bar()),
            );
            bar
        });
        bar.set_position(done);
    }

    /// States how far loading has come.
    pub fn load(&mut self, progress: LoadProgress) {
        self.update(progress.bytes_done, progress.bytes_total);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for progress in [Progress::bytes(), Progress::converting(), Progress::windows()] {
            assert!(ProgressStyle::with_template(progress.template).is_ok(), "{}", progress.template);
        }
    }
}
