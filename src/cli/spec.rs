//! `crx spec`: a config.json to start from, as runc writes it.

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::runtime::exit;

/// Write a config.json to start from
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Directory to write it to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// For a user without root's rights: with a user namespace that has this user alone
    #[arg(long)]
    rootless: bool,
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<u8> {
    let path = arguments.bundle.join("config.json");
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists already; remove it first", path.display())
        }
        opened => opened.with_context(|| format!("cannot write {}", path.display()))?,
    };
    let text: Cow<'_, str> = if arguments.rootless {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        crx_oci::rootless_spec(uid, gid).into()
    } else {
        crx_oci::default_spec().into()
    };
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(exit::SUCCESS)
}
