//! `crx list`: the containers of this host.

use serde_json::Value;

use super::state::describe;
use super::table;
use crate::runtime::exit;
use crate::runtime::state::{self, Container};

/// List containers
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How to print them
    #[arg(short, long, value_enum, default_value_t = table::Format::Table)]
    format: table::Format,
    /// Print their names only
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let containers = Container::all(&state::root(global.root.as_deref()))?;
    if arguments.quiet {
        for container in &containers {
            super::report::print(&container.record.id)?;
        }
        return Ok(exit::SUCCESS);
    }
    let states: Vec<Value> = containers.iter().map(describe).collect();
    match arguments.format {
        table::Format::Json => super::report::print(&Value::from(states).to_string())?,
        table::Format::Table => {
            let text = |state: &Value, name: &str| match &state[name] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let row = |state: &Value| {
                ["id", "pid", "status", "bundle", "created", "owner"].map(|name| text(state, name)).to_vec()
            };
            let rows: Vec<_> = states.iter().map(row).collect();
            table::print(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], &rows)?;
        }
    }
    Ok(exit::SUCCESS)
}
