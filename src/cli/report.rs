//! What people read: one line for an error and its causes.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;

use crate::runtime::{exit, log};

/// Prints an error with its causes as one line, `crx: what: why`.
pub(super) fn error(error: &anyhow::Error) {
    log::error(&one_line(error));
}

/// Prints what was asked for on stdout, as a line.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().lock().write_all(format!("{text}\n").as_bytes()).context("cannot write to stdout")
}

/// Joins an error and its causes.
fn one_line(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(|cause| without_error_number(&cause.to_string())).collect();
    causes.join(": ")
}

/// Takes off the ` (os error N)` that std adds to the system's words.
fn without_error_number(text: &str) -> String {
    match text.rsplit_once(" (os error ") {
        Some((words, _)) if text.ends_with(')') => words.to_owned(),
        _ => text.to_owned(),
    }
}

/// Prints what clap found: help and version to stdout with code 0, mistakes as one line with code 1.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let is_page = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if is_page {
        // A closed terminal is no reason to fail differently.
        let _ = error.print();
    } else {
        log::error(&mistake(&error.to_string()));
    }
    ExitCode::from(if error.use_stderr() { exit::FAILURE } else { exit::SUCCESS })
}

/// The line of a mistake in clap's text: its first paragraph, and what clap thinks was meant.
fn mistake(text: &str) -> String {
    let mut paragraphs = text.split("\n\n");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut line = words(paragraphs.next().unwrap_or_default());
    if let Some(rest) = line.strip_prefix("error: ") {
        line = rest.to_owned();
    }
    for tip in paragraphs.filter_map(|paragraph| paragraph.trim_start().strip_prefix("tip: ")) {
        line = format!("{line}; {}", words(tip));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_on_the_same_line() {
        let error = anyhow::anyhow!("no such file").context("cannot open x");
        assert_eq!(one_line(&error), "cannot open x: no such file");
    }

    #[test]
    fn the_system_s_words_stand_without_their_number() {
        let error = anyhow::Error::from(std::io::Error::from_raw_os_error(2)).context("cannot open x");
        assert_eq!(one_line(&error), "cannot open x: No such file or directory");
    }

    #[test]
    fn a_mistake_is_one_line_with_its_cure() {
        let text = "error: unexpected argument '--bundel' found\n\n  tip: a similar argument exists: '--bundle'\n\n\
                    Usage: crx run <ID>\n\nFor more information, try '--help'.\n";
        let line = "unexpected argument '--bundel' found; a similar argument exists: '--bundle'";
        assert_eq!(mistake(text), line);
        let text =
            "error: the following required arguments were not provided:\n  <ID>\n\nUsage: crx run <ID>\n";
        assert_eq!(mistake(text), "the following required arguments were not provided: <ID>");
    }
}
