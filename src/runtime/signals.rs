//! Signals by name or number, as kill(1) and runc take them.

use anyhow::{Context, bail};

/// Index is the number less one (signal(7), x86).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The second names of some.
const OTHER_NAMES: [(&str, u8); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];
/// First and last real-time signal, as programs see them (the C library keeps 32 and 33 for itself).
const REAL_TIME: std::ops::RangeInclusive<u8> = 34..=64;

/// The number of a signal: `9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+3`, `RTMAX-1`.
///
/// # Errors
/// There is none of this name or number.
pub(crate) fn parse(text: &str) -> anyhow::Result<u8> {
    let unknown = || format!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<u8>() {
        return (1..=*REAL_TIME.end()).contains(&number).then_some(number).with_context(unknown);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return Ok(at as u8 + 1);
    }
    if let Some((_, number)) = OTHER_NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.get(1..)?.parse::<u8>().ok() };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => {
            offset(rest).and_then(|above| REAL_TIME.start().checked_add(above))
        }
        (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => {
            offset(rest).and_then(|below| REAL_TIME.end().checked_sub(below))
        }
        _ => None,
    };
    match number.filter(|number| REAL_TIME.contains(number)) {
        Some(number) => Ok(number),
        None => bail!(unknown()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("CLD", 17),
            ("SYS", 31),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
    }

    #[test]
    fn what_is_no_signal() {
        for text in ["", "0", "65", "-1", "NOPE", "SIG", "RTMIN+31", "RTMIN-1", "RTMAX-40", "RTMIN+x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
