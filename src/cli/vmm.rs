//! The hidden verb: the process that is a pod. `crx run` starts it with its messages' socket inherited.

use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use anyhow::Context;

use crate::runtime::{exit, pod};
use crate::sys;

/// Run a pod; started by crx itself
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The container's ID, for people who read process lists
    id: String,
    /// Number of the inherited socket
    #[arg(long)]
    channel: RawFd,
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<u8> {
    let channel = sys::inherited_fd(arguments.channel)
        .with_context(|| format!("crx vmm {} is started by crx run, not by hand", arguments.id))?;
    pod::main(UnixStream::from(channel))?;
    Ok(exit::SUCCESS)
}
