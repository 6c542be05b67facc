//! What can go wrong, as one line for a person: the field of config.json, what was attempted, and why it failed.

use std::fmt::Display;

use crx_proto::StartError;

/// Exit code of a configuration that the pod cannot honour.
const EXIT_REFUSED: u8 = 1;

/// `field: action: reason`, with exit code 1.
pub(crate) fn failed(
    field: impl Display,
    action: impl Display,
    error: impl Into<std::io::Error>,
) -> StartError {
    refused(field, format_args!("{action}: {}", reason(&error.into())))
}

/// `field: what is wrong`, with exit code 1.
pub(crate) fn refused(field: impl Display, what: impl Display) -> StartError {
    StartError { exit_code: EXIT_REFUSED, message: format!("{field}: {what}") }
}

/// The kernel's reason in words, without the number that the standard library appends.
pub(crate) fn reason(error: &std::io::Error) -> String {
    let mut text = error.to_string();
    if let Some(end) = text.find(" (os error ") {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_field_the_attempt_and_the_reason() {
        let error = failed("mounts[3] (/data)", "mount tmpfs", rustix::io::Errno::INVAL);
        assert_eq!(error.message, "mounts[3] (/data): mount tmpfs: Invalid argument");
        assert_eq!(error.exit_code, 1);
    }
}
