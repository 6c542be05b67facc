//! The end of a container that has stopped, was never started, or is to be killed: nothing of it is left. Of `cli::delete` and
//! the shim.

use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::channel::{self, Command, Status};
use super::launch;
use super::state::Container;

/// How long a container that is being created is given to vanish, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// Deletes a container; `force` kills it first if it runs.
///
/// # Errors
/// It runs, is being created, or cannot be removed.
pub(crate) fn delete(container: Container, force: bool) -> anyhow::Result<()> {
    match container.status() {
        Status::Stopped if !force => container.wait_until_dead()?,
        Status::Created => kill(&container)?,
        _ if force => kill(&container)?,
        status => bail!("cannot delete container {:?} that is not stopped: {status}", container.record.id),
    }
    let record = container.record.clone();
    if container.remove()? {
        launch::poststop(&record);
    }
    Ok(())
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
