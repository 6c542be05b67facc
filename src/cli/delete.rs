//! `crx delete`: what is left of a container goes.

use crate::runtime::state::{self, Container};
use crate::runtime::{exit, removal};

/// Delete a container that has stopped, or was never started
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Kill it if it still runs; one that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    crx_oci::container_id(&arguments.id)?;
    match Container::find(&state::root(global.root.as_deref()), &arguments.id) {
        Err(_) if arguments.force => {}
        found => removal::delete(found?, arguments.force)?,
    }
    Ok(exit::SUCCESS)
}
