//! `crx delete`: what is left of a container goes.

use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::runtime::channel::{self, Command, Status};
use crate::runtime::state::{self, Container};
use crate::runtime::{exit, launch};

/// How long a container that is being created is given to vanish, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

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
    let container = match Container::find(&state::root(global.root.as_deref()), &arguments.id) {
        Err(_) if arguments.force => return Ok(exit::SUCCESS),
        found => found?,
    };
    match container.status() {
        Status::Stopped if !arguments.force => container.wait_until_dead()?,
        Status::Created => kill(&container)?,
        _ if arguments.force => kill(&container)?,
        status => bail!("cannot delete container {:?} that is not stopped: {status}", arguments.id),
    }
    let record = container.record.clone();
    if container.remove()? {
        launch::poststop(&record);
    }
    Ok(exit::SUCCESS)
}

/// The process that a killed `create` has just started ends by itself, as soon as it looks for its launcher.
fn dies_soon(container: &Container) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while container.is_alive() && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    !container.is_alive()
}

/// Kills the container's process on the host, with which its pod or its part of one ends, and waits for that.
fn kill(container: &Container) -> anyhow::Result<()> {
    let record = &container.record;
    // What joined a pod ends there only after its process here.
    let pod = if record.pod == record.id { None } else { container.connect().ok() };
    if let Some(pod) = &pod {
        channel::send(pod, &Command::Watch(record.id.clone()), &[])?;
    }
    let pid = record.pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
        // The number may be another process's by now, if this one is gone: its lock, which is held, says that it is not.
        if container.is_alive() {
            pidfd_send_signal(&process, Signal::KILL)?;
        }
    } else if record.pid.is_none() && !dies_soon(container) {
        bail!("container {:?} is being created; end the crx that creates it", record.id);
    }
    container.wait_until_dead()?;
    if let Some(pod) = pod {
        Container::wait_for_end(&pod)?;
    }
    Ok(())
}
