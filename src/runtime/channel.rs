//! Messages between `crx run` and its VMM child, as frames over an inherited Unix socket.
//!
//! The socket is also the leash: the child ends when it closes, and the caller knows of the child's end by it.

use std::path::PathBuf;

use crx_proto::{ExitStatus, Plan};
use serde::{Deserialize, Serialize};

use super::timeline::Stamp;

/// What the VMM child is to run: its first message.
#[derive(Serialize, Deserialize)]
pub(crate) struct Launch {
    /// The container.
    pub(crate) plan: Plan,
    /// The container's root directory on the host.
    pub(crate) rootfs: PathBuf,
    /// Sources of the bind mounts, in the order of [`Plan::volumes`].
    pub(crate) volumes: Vec<PathBuf>,
    /// The guest's kernel.
    pub(crate) kernel: PathBuf,
    /// The guest's first process.
    pub(crate) initramfs: PathBuf,
    /// Memory of the VM.
    pub(crate) memory_mib: u32,
    /// Virtual processors.
    pub(crate) vcpus: u8,
    /// Show the guest kernel's console on stderr.
    pub(crate) debug_console: bool,
    /// Directory that the share is built on; only the child's mount namespace sees that.
    pub(crate) state_dir: PathBuf,
}

/// What the caller tells the child afterwards.
#[derive(Serialize, Deserialize)]
pub(crate) enum Command {
    /// Send a signal to the container's first process.
    Signal(u8),
    /// The terminal changed its size.
    Resize {
        /// Rows, in characters.
        rows: u16,
        /// Columns, in characters.
        columns: u16,
    },
}

/// What the child tells the caller.
#[derive(Serialize, Deserialize)]
pub(crate) enum Report {
    /// The container's process was executed.
    Started,
    /// Something a person should know.
    Warning(String),
    /// The container's first process ended; its output is still being written.
    Ended(ExitStatus),
    /// The output was written. The last message of a container that ran.
    Drained(Vec<Stamp>),
    /// The container could not be run, or the pod died. The last message of one that did not run.
    Failed {
        /// Exit code for the caller.
        exit_code: u8,
        /// One line.
        message: String,
        /// The guest kernel's last lines, if it is its fault.
        console: Vec<String>,
    },
}
