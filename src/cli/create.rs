//! `crx create`: everything up to the container's program. Next: `cli::launching`.

use super::launching;
use crate::runtime::launch::Follow;

/// Create a container, which `start` then starts
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    launching: launching::Arguments,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    launching::launch(global, &arguments.launching, Follow::UntilCreated, true, false)
}
