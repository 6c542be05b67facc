//! Every message of the control connection.

use serde::{Deserialize, Serialize};

use crate::Plan;

/// What the VMM tells PID 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HostMessage {
    /// The wall clock: nanoseconds since the epoch (CLOCK_REALTIME) when the message was written.
    SetClock {
        /// Nanoseconds since the epoch.
        realtime_ns: u64,
    },
    /// Create and start the container. Sent once.
    Start(Box<Plan>),
    /// Send a signal, by its Linux number, to the container's first process.
    Signal(u8),
    /// The terminal has a new size.
    Resize {
        /// Rows, in characters.
        rows: u16,
        /// Columns, in characters.
        columns: u16,
    },
    /// Everything was received: end the pod.
    PowerOff,
}

/// What PID 1 tells the VMM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum GuestMessage {
    /// The first frame of a connection.
    Hello {
        /// [`crate::VERSION`] of the guest's side.
        version: u32,
    },
    /// A stage of the launch was reached.
    Stage {
        /// Which one.
        stage: Stage,
        /// The guest's CLOCK_MONOTONIC at that moment, in nanoseconds.
        monotonic_ns: u64,
    },
    /// The container's process was executed.
    Started {
        /// Its process ID in the pod's own PID namespace.
        pid: u32,
    },
    /// The container could not be started. Nothing of it is left in the guest.
    StartFailed(StartError),
    /// The container's first process ended, all of its processes are gone, its output was written.
    Exited(ExitStatus),
    /// Something a person should know; printed as a warning.
    Log(String),
}

/// Moments of a launch that the guest stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// PID 1's first instruction in `main`.
    Init,
    /// The pseudo file systems are mounted.
    Mounted,
    /// The control connection to the host is open.
    Connected,
    /// The plan was received and decoded.
    Planned,
    /// The share is mounted and the stream connections are open.
    Shared,
    /// The cgroup exists and has its limits.
    Cgroup,
    /// The container's process was cloned.
    Cloned,
    /// The container's process was executed.
    Executed,
    /// The container's first process ended.
    Ended,
}

/// Why a container could not be started: what was attempted, on which field of config.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartError {
    /// Exit code for the caller: 126, 127, or 1 for a configuration the pod cannot honour.
    pub exit_code: u8,
    /// One line: the field of config.json, what failed and why, e.g.
    /// `mounts[3] (/data): mount tmpfs: Invalid argument`.
    pub message: String,
}

/// How the container's first process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited by itself.
    Exited {
        /// Its exit code.
        code: u8,
    },
    /// A signal ended it.
    Signaled {
        /// The signal's Linux number.
        signal: u8,
        /// The kernel ended a process of this container, or of the pod, for lack of memory.
        out_of_memory: bool,
    },
}

impl ExitStatus {
    /// The exit code that a shell and runc give: the code, or 128 plus the signal.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Exited { code } => code,
            Self::Signaled { signal, .. } => 128_u8.saturating_add(signal),
        }
    }
}
