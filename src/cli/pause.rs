//! `crx pause` and `crx resume`.

use crate::runtime::channel::Command;
use crate::runtime::exit;
use crate::runtime::state::{self, Container};

/// Name of the container
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn pause(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let container = Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    container.ask(&Command::Pause(arguments.id.clone()))?;
    Ok(exit::SUCCESS)
}

pub(super) fn resume(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let container = Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    container.ask(&Command::Resume(arguments.id.clone()))?;
    Ok(exit::SUCCESS)
}
