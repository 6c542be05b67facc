//! `crx start`: has a container that was created execute its program.

use anyhow::bail;

use crate::runtime::channel::{Command, Report, Status};
use crate::runtime::state::{self, Container};
use crate::runtime::timeline::{self, Track};
use crate::runtime::{exit, launch};

/// Start a container that was created
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let mut timeline = Track::new("crx");
    let container = Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    match container.status() {
        Status::Created => {}
        Status::Stopped => bail!("cannot start a container that has stopped"),
        Status::Running => bail!("cannot start an already running container"),
        status => bail!("cannot start a container in the {status} state"),
    }
    timeline.reached("start checked");
    let Report::Started(spans) = container.ask(&Command::Start(arguments.id.clone()))? else {
        bail!("container {:?}: the pod gave no answer", arguments.id)
    };
    timeline.reached("start awaited");
    timeline.extend(spans);
    timeline::add_to_record(&container.timeline_path(), timeline.spans());
    launch::poststart(&container.record);
    Ok(exit::SUCCESS)
}
