//! `crx spec`: a config.json to start from, as runc writes it.

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
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<u8> {
    let path = arguments.bundle.join("config.json");
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists already; remove it first", path.display())
        }
        opened => opened.with_context(|| format!("cannot write {}", path.display()))?,
    };
    file.write_all(crx_oci::default_spec().as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(exit::SUCCESS)
}
