//! PID 1 of a pod: the boot calls, in their order. The kernel has just started this program from its initial
//! file system; at the end the pod is off. What the calls do is in the modules, in the order of a launch:
//! [`mounts`], [`moment`] (the guest becomes a pod), [`agent`] (the connection to the host), [`session`] (the pod's
//! loop) and its parts [`launch`], [`container`], [`net`], [`table`], [`stdio`], [`terminal`], [`questions`], [`reap`] and [`ending`], [`shutdown`].
//!
//! One thread, no busy waiting, few system calls: on some hosts each costs 0.15 ms.

#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code, clippy::unwrap_used))]
#![deny(unsafe_code)]

mod agent;
mod clock;
mod container;
mod ending;
mod failure;
mod launch;
mod moment;
mod mounts;
mod net;
mod questions;
mod reap;
mod session;
mod shutdown;
mod stdio;
mod sys;
mod table;
mod terminal;

use container::Standby;
use crx_proto::{GuestMessage, Stage, StartError};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Keeps processes of containers out of this one and of what it clones: until a clone executes its program it has
/// PID 1's memory or a copy of it, with the plans of other containers, and may not have its seccomp filter yet.
/// ptrace(2), and what asks for the same right (/proc/PID/mem, fd, environ), then wants CAP_SYS_PTRACE of the pod's
/// own user namespace; newer kernels let CAP_PERFMON and CAP_SYS_ADMIN read environ.
fn hide_memory() {
    // It fails only for a value that the kernel does not know.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Everything that does not depend on a pod; with a line for people if the first container cannot be staged.
fn prepare() -> (mounts::Pod, Result<net::Nics, StartError>, Option<Standby>, Option<String>) {
    let mut pod = mounts::Pod::prepare();
    // Before a container's sysfs, which is read-only: what is written to a second one is written through the first.
    let nics = net::Nics::find();
    let standby =
        pod.is_prepared().and_then(|()| net::set_loopback_up()).and_then(|()| Standby::begin(&mut pod));
    match standby {
        Ok(standby) => (pod, nics, Some(standby), None),
        Err(error) => {
            (pod, nics, None, Some(format!("the first container was not staged: {}", error.message)))
        }
    }
}

/// Everything PID 1 does, from the kernel's first instruction in it to power-off.
fn boot() -> ! {
    hide_memory();
    let started_ns = clock::monotonic_ns();
    sys::open_standard_streams();
    let (pod, nics, standby, unstaged) = prepare();
    let mounted_ns = clock::monotonic_ns();
    let warnings = moment::pass();
    let resumed_ns = clock::monotonic_ns();
    let Ok(mut host) = agent::Host::connect() else { shutdown::power_off() };
    host.hello(&[(Stage::Init, started_ns), (Stage::Mounted, mounted_ns), (Stage::Resumed, resumed_ns)]);
    unstaged.into_iter().chain(warnings).for_each(|text| host.send(&GuestMessage::Log(text)));
    session::run(&mut host, pod, nics, standby, &|port| sys::vsock_connect(port, false));
    shutdown::power_off()
}
