//! `crx run`: create a container, start it, and wait for it. Next: `cli::launching`.

use super::launching;
use crate::runtime::launch::Follow;

/// Create and run a container, and wait for it
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    launching: launching::Arguments,
    /// Do not wait for it
    #[arg(short, long)]
    detach: bool,
    /// Keep what can be known of it when it has stopped, until it is deleted
    #[arg(long)]
    keep: bool,
    /// For compatibility: crx run is never a subreaper
    #[arg(long)]
    no_subreaper: bool,
    /// Print at the end when the launch reached what, on stderr
    #[arg(long)]
    timing: bool,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let follow = if arguments.detach { Follow::UntilStarted } else { Follow::ToEnd };
    launching::launch(global, &arguments.launching, follow, arguments.keep, arguments.timing)
}
