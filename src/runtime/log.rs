//! What crx has to say: lines on stderr for people and, with `--log FILE`, records in that file for the program that
//! called it. containerd, podman and CRI-O read the last error there; its forms are those of logrus, which runc uses.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use anyhow::Context;
use serde_json::{Value, json};

/// Form of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// `time="..." level=error msg="..."`
    Text,
    /// `{"level":"error","msg":"...","time":"..."}`
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    /// As logrus names it.
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Where records go.
struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

/// The process's one log: warnings come from everywhere.
static LOG: OnceLock<Log> = OnceLock::new();

/// Opens the log of this process, to be called once; without it everything goes to stderr alone.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn open(file: Option<&Path>, format: Format, debug: bool) -> anyhow::Result<()> {
    let open = |path: &Path| {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.with_context(|| format!("--log: cannot write {}", path.display()))
    };
    let file = file.map(open).transpose()?;
    // Nobody opens it twice; if somebody did, the first one would stay.
    let _ = LOG.set(Log { file, format, debug });
    Ok(())
}

/// Says why crx fails.
pub(crate) fn error(text: &str) {
    say(&format!("crx: {}", line(text)));
    record(Level::Error, text);
}

/// Says what a person should know.
pub(crate) fn warning(text: &str) {
    say(&format!("crx: warning: {}", line(text)));
    record(Level::Warning, text);
}

/// Shows what belongs to an error and does not fit into its line: the guest kernel's last words.
pub(crate) fn detail(text: &str) {
    say(&format!("  {}", line(text)));
    record(Level::Info, text);
}

/// With `--debug`, says what is done: in the log or, if there is none, on stderr.
pub(crate) fn debug(text: &str) {
    match LOG.get() {
        Some(Log { debug: true, file: None, .. }) => say(&format!("crx: debug: {}", line(text))),
        Some(Log { debug: true, .. }) => record(Level::Debug, text),
        _ => {}
    }
}

/// Writes a line to stderr. Whoever read it may have closed it: that is no reason to fail.
fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

fn record(level: Level, text: &str) {
    let Some(Log { file: Some(file), format, .. }) = LOG.get() else { return };
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let record = format_record(*format, level, text, &time);
    // A log that cannot be written is no reason to fail; stderr has the line as well.
    let _ = { file }.write_all(record.as_bytes());
}

/// A record of the log, with its line end.
fn format_record(format: Format, level: Level, text: &str, time: &str) -> String {
    let level = level.name();
    match format {
        Format::Json => format!("{}\n", json!({ "level": level, "msg": text, "time": time })),
        // JSON's quotes are a subset of Go's, with which logrus writes.
        Format::Text => format!("time=\"{time}\" level={level} msg={}\n", Value::from(text)),
    }
}

/// One line: line breaks and control characters cannot forge a second one.
fn line(text: &str) -> String {
    let escaped = |character: char| {
        if character.is_control() { character.escape_default().to_string() } else { character.to_string() }
    };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05Z";

    #[test]
    fn json_records_are_what_containerd_reads() {
        let record = format_record(Format::Json, Level::Error, "no \"x\"\nfile", TIME);
        assert_eq!(
            record,
            r#"{"level":"error","msg":"no \"x\"\nfile","time":"2026-01-02T03:04:05Z"}"#.to_owned() + "\n"
        );
    }

    #[test]
    fn text_records_are_logrus_s() {
        let record = format_record(Format::Text, Level::Warning, "no \"x\"\nfile", TIME);
        assert_eq!(record, "time=\"2026-01-02T03:04:05Z\" level=warning msg=\"no \\\"x\\\"\\nfile\"\n");
    }

    #[test]
    fn a_message_stays_on_its_line() {
        assert_eq!(line("a\nb\u{1b}[1mc\u{85}d é"), "a\\nb\\u{1b}[1mc\\u{85}d é");
    }
}
