//! `crx kill`: a signal to a container.

use crate::runtime::channel::Command;
use crate::runtime::state::{self, Container};
use crate::runtime::{exit, signals};

/// Send a signal to a container
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// The signal, by name or number
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    signal: String,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let signal = signals::parse(&arguments.signal)?;
    let container = Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    container.ask(&Command::Kill { container: arguments.id.clone(), signal, everybody: arguments.all })?;
    Ok(exit::SUCCESS)
}
