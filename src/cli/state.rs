//! `crx state`: a container as JSON, as the runtime specification and runc have it.

use serde_json::{Value, json};

use crate::runtime::exit;
use crate::runtime::state::{self, Container};

/// Print the state of a container as JSON
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let container = Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    super::report::print(&format!("{:#}", describe(&container)))?;
    Ok(exit::SUCCESS)
}

/// The specification's state and what runc adds to it.
pub(super) fn describe(container: &Container) -> Value {
    let record = &container.record;
    let mut state = record.oci_state(container.status());
    if let Some(state) = state.as_object_mut() {
        state.entry("pid").or_insert(json!(0));
        state.insert("rootfs".to_owned(), json!(record.rootfs));
        state.insert("created".to_owned(), json!(record.created));
        state.insert("owner".to_owned(), json!(""));
    }
    state
}
