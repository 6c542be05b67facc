//! The command line, as containerd writes it: options with one dash or two, then what to do.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Leave a shim behind and print where it is.
    Start,
    /// Be that shim; only `Start` asks for it.
    Serve,
    /// Clean up after a shim that died.
    Delete,
    /// Print the version.
    Version,
    /// Print what containerd can know of this runtime.
    Info,
}

/// The command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// What to do.
    pub(crate) action: Action,
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The container.
    pub(crate) id: String,
    /// containerd's own address.
    pub(crate) address: String,
    /// The container's bundle; without it the working directory is that.
    pub(crate) bundle: Option<PathBuf>,
}

/// Reads the command line.
///
/// # Errors
/// It is not one of containerd's.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> anyhow::Result<Arguments> {
    let mut words = words.into_iter();
    let mut arguments = Arguments {
        action: Action::Version,
        namespace: String::new(),
        id: String::new(),
        address: String::new(),
        bundle: None,
    };
    let mut action = None;
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            action = Some(word);
            break;
        };
        let (name, joined) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let mut value = || {
            joined.clone().or_else(|| words.next()).with_context(|| format!("-{name}: its value is missing"))
        };
        match name {
            "namespace" => arguments.namespace = value()?,
            "id" => arguments.id = value()?,
            "address" => arguments.address = value()?,
            "bundle" => arguments.bundle = Some(value()?.into()),
            // Events go over the address in the environment; the log is a FIFO of the bundle.
            "publish-binary" | "socket" => drop(value()?),
            "debug" => {}
            "v" | "version" => return Ok(arguments),
            "info" => return Ok(Arguments { action: Action::Info, ..arguments }),
            _ => bail!("-{name}: not an option of a shim; containerd starts this program, see README.md"),
        }
    }
    arguments.action = match action.as_deref() {
        Some("start") => Action::Start,
        Some("serve") => Action::Serve,
        Some("delete") => Action::Delete,
        Some(other) => {
            bail!("{other:?}: a shim can start and delete; containerd starts this program, see README.md")
        }
        None => bail!("containerd starts this program, with `start` or `delete`; see README.md"),
    };
    for (name, value) in [("namespace", &arguments.namespace), ("id", &arguments.id)] {
        if value.is_empty() || value.contains('/') || value == ".." || value == "." {
            bail!("-{name}: {value:?} names nothing");
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(line: &str) -> anyhow::Result<Arguments> {
        parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn containerds_command_lines_are_understood() {
        let start = of(
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -debug -id a start",
        )
        .unwrap();
        assert_eq!(
            (start.action, start.namespace.as_str(), start.id.as_str()),
            (Action::Start, "k8s.io", "a")
        );
        assert_eq!((start.address.as_str(), start.bundle), ("/run/c.sock", None));
        let delete = of("--namespace=n --id=a -bundle /b delete").unwrap();
        assert_eq!((delete.action, delete.bundle), (Action::Delete, Some("/b".into())));
        assert_eq!(of("-v").unwrap().action, Action::Version);
        assert_eq!(of("-info").unwrap().action, Action::Info);
    }

    #[test]
    fn other_command_lines_are_refused() {
        for line in [
            "",
            "start",
            "-id a start",
            "-namespace n -id ../a start",
            "-namespace n -id a stop",
            "-x start",
            "-id",
        ] {
            assert!(of(line).is_err(), "{line}");
        }
    }
}
