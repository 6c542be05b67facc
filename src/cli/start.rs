//! `crx start`: has a container that was created execute its program.

use crate::runtime::state::{self, Container};
use crate::runtime::{exit, launch};

/// Start a container that was created
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let container = Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    launch::start(&container)?;
    Ok(exit::SUCCESS)
}
