//! Progress bars on a terminal; nothing where standard error is none.

use indicatif::ProgressBar;
use indicatif::ProgressStyle;

/// Bytes of `len`, with speed and time left; a message may follow.
pub fn bar(len: u64, what: &'static str) -> ProgressBar {
    let style = "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
    let style = ProgressStyle::with_template(style).expect("a valid template");
    ProgressBar::new(len).with_style(style).with_prefix(what)
}
