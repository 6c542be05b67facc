//! The hidden verbs: the process that is a pod, and the one that stands in for a process of a pod. `runtime::launch`
//! starts both with the socket for their messages inherited.

use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, bail};

use crate::runtime::channel::{self, Role};
use crate::runtime::template::{self, Template};
use crate::runtime::timeline::{Track, monotonic_ns};
use crate::runtime::{pod, session, stand_in};
use crate::sys;

/// Room for a pod's descriptors: with a network they are more than the 64 that every process has room for.
const DESCRIPTORS: RawFd = 256;

/// Be a pod, or stand in for a process of one; started by crx itself
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The container's ID, for people who read process lists
    id: String,
    /// Number of the inherited socket
    #[arg(long)]
    channel: RawFd,
    /// Number of the inherited lock, if it keeps one
    #[arg(long)]
    lock: Option<RawFd>,
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<u8> {
    // First of all: Ctrl-C on a terminal reaches this process, too, and is for the launcher to decide about.
    session::ignore_signals();
    let executed_ns = monotonic_ns();
    // Whatever else the caller of crx had open: the process that faces a guest has no use for it.
    sys::close_all_but(&[Some(arguments.channel), arguments.lock].into_iter().flatten().collect::<Vec<_>>());
    let socket = sys::inherited_fd(arguments.channel)
        .with_context(|| format!("this is started by crx itself, for container {:?}", arguments.id))?;
    let launcher = UnixStream::from(socket);
    let (role, mut descriptors) = channel::receive::<Role>(&launcher)?;
    match role {
        Role::Pod(new) => {
            reserve_descriptors();
            let timeline = Track::of_process("vmm", new.began_ns, executed_ns);
            pod::main(launcher, &new, Template::from_descriptors(descriptors), timeline)
        }
        Role::Template { new, label } => {
            let Some(memory) = descriptors.pop() else {
                bail!("no file was given for the template's memory")
            };
            template::build_here(launcher, &new, label, &memory.into())
        }
        Role::StandIn { console, began_ns } => {
            let Some(pod) = descriptors.pop() else { bail!("no pod was given to stand in for") };
            let timeline = Track::of_process("stand-in", began_ns, executed_ns);
            stand_in::main(launcher, UnixStream::from(pod), console, timeline)
        }
    }
}

/// Lets the table of descriptors grow now. In a process of several threads each growth waits until all processors have
/// passed a grace period of RCU (expand_fdtable() of the kernel's fs/file.c), some 10 ms.
fn reserve_descriptors() {
    // Without room, as where the limit is lower, it grows when it has to.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), DESCRIPTORS - 1);
}
