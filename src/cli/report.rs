//! What people read: one line for an error and its causes.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::runtime::exit;

/// Prints an error with its causes as one line, `crx: what: why`.
pub(super) fn error(error: &anyhow::Error) {
    eprintln!("crx: {}", one_line(error));
}

/// Joins an error and its causes; line breaks and control characters cannot forge a second line.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let text = without_error_number(&cause.to_string());
        if depth > 0 {
            line.push_str(": ");
        }
        for character in text.chars() {
            if character.is_control() {
                let _ = write!(line, "{}", character.escape_default());
            } else {
                line.push(character);
            }
        }
    }
    line
}

/// Takes off the ` (os error N)` that std adds to the system's words.
fn without_error_number(text: &str) -> String {
    match text.rsplit_once(" (os error ") {
        Some((words, _)) if text.ends_with(')') => words.to_owned(),
        _ => text.to_owned(),
    }
}

/// Prints clap's own message: help and version to stdout with code 0, mistakes to stderr with code 1, as runc.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let asked_for = !error.use_stderr();
    // A closed terminal is no reason to fail differently.
    let _ = error.print();
    ExitCode::from(if asked_for { exit::SUCCESS } else { exit::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_on_the_same_line() {
        let error = anyhow::anyhow!("no such\nfile").context("cannot open x");
        assert_eq!(one_line(&error), "cannot open x: no such\\nfile");
    }

    #[test]
    fn the_system_s_words_stand_without_their_number() {
        let error = anyhow::Error::from(std::io::Error::from_raw_os_error(2)).context("cannot open x");
        assert_eq!(one_line(&error), "cannot open x: No such file or directory");
    }
}
