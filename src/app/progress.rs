//! Progress for whoever watches: bars on a terminal, log lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal, a line at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A bar that counts bytes or steps, and a quiet twin for logs.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    what: String,
}

impl Progress {
    pub(super) fn bytes(what: &str) -> Self {
        Self::new(what, "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
    }

    pub(super) fn steps(what: &str) -> Self {
        Self::new(what, "{msg} {bar:30} {pos}/{len} eta {eta}")
    }

    fn new(what: &str, template: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style).with_message(what.to_owned())
        });
        Self { bar, last_line: None, what: what.to_owned() }
    }

    /// `message` replaces the bar's text.
    pub(super) fn set(&mut self, message: &str, done: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
            bar.set_length(total.unwrap_or(done));
            bar.set_position(done);
            return;
        }
        let now = Instant::now();
        if self.last_line.is_none_or(|last| now.duration_since(last) >= LINE_EVERY) {
            self.last_line = Some(now);
            tracing::info!(done, total, "{}: {message}", self.what);
        }
    }

    /// A line above the bar.
    pub(super) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
