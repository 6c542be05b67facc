//! Every message of the control connection.

use serde::{Deserialize, Serialize};

use crate::{Cgroup, Network, Plan, Process, Seccomp};

/// A process of the pod that the host knows: a container's first one, which also stands for the container, or one
/// that was executed in it later. The host numbers them and uses no number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u32);

/// Ports of the host to which PID 1 connects a process's standard streams, before the process is there. They are
/// random: whatever else in the pod connects to a port of the host does not find one that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamPorts {
    /// A connection a stream.
    Pipes {
        /// Bytes to the process; their end is the connection's.
        stdin: u32,
        /// Bytes from it.
        stdout: u32,
        /// Bytes from it.
        stderr: u32,
    },
    /// One connection for both directions of the process's terminal.
    Terminal(u32),
}

/// What the VMM tells PID 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HostMessage {
    /// Make a container. Answered by `Created` and, once it is started, `Started`; or by `StartFailed`.
    Create {
        /// Its first process, and the directory of the share that has its files.
        process: ProcessId,
        /// It is the pod's first: the network, IPC and UTS namespaces that it asks for are the pod's own.
        owns_pod: bool,
        /// It is started at once.
        start: bool,
        /// What it is.
        plan: Box<Plan>,
        /// Its streams.
        streams: StreamPorts,
    },
    /// Let the first process of a container that was created go on to its program.
    Start(ProcessId),
    /// Execute one more process in a container that was created and has not ended. Answered as `Create` with `start`.
    Exec {
        /// The new process.
        process: ProcessId,
        /// The container's first.
        container: ProcessId,
        /// What it is.
        plan: Box<ExecPlan>,
        /// Its streams.
        streams: StreamPorts,
    },
    /// Send a signal, by its Linux number.
    Signal {
        /// To whom.
        process: ProcessId,
        /// Which.
        signal: u8,
        /// To every process of the container whose first this is.
        everybody: bool,
    },
    /// A terminal has a new size.
    Resize {
        /// Whose.
        process: ProcessId,
        /// Rows, in characters.
        rows: u16,
        /// Columns, in characters.
        columns: u16,
    },
    /// Ask something of a container; answered with the same number.
    Ask {
        /// Number of the question.
        number: u32,
        /// The container's first process.
        container: ProcessId,
        /// What is asked for.
        question: Question,
    },
    /// Everything was received: end the pod.
    PowerOff,
}

/// A process to be executed in a container that is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecPlan {
    /// The process.
    pub process: Process,
    /// The seccomp program, if any.
    pub seccomp: Option<Seccomp>,
    /// Cgroup below the container's, made if it is not there; empty for the container's own.
    pub cgroup: String,
}

/// What the host may ask of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// Stop every process until `Resume`; answered once all have stopped.
    Pause,
    /// Let them go on.
    Resume,
    /// Change the limits that are set here; what is `None` stays.
    Update(Box<Cgroup>),
    /// The accounting files of its cgroup.
    Usage,
    /// Its processes.
    Processes,
    /// Not of the container but of the pod: set new interfaces up, and add what others have got since they were.
    AddInterfaces(Box<Network>),
}

/// What PID 1 answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// Files of the cgroup, name and text: `memory.current`, `cpu.stat`, ...
    Usage(Vec<(String, String)>),
    /// The processes, by their IDs.
    Processes(Vec<ProcessInfo>),
}

/// A process as ps(1) shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// User ID.
    pub uid: u32,
    /// Process ID in the pod's own PID namespace.
    pub pid: u32,
    /// Its parent's.
    pub parent_pid: u32,
    /// Nanoseconds since the epoch at which it was started.
    pub started_ns: u64,
    /// Terminal (`pts/0`), empty without one.
    pub terminal: String,
    /// Processor time, user and system.
    pub cpu_time_ms: u64,
    /// Program and arguments, joined by spaces; for a process without, its name in brackets.
    pub command: String,
}

/// What PID 1 tells the VMM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum GuestMessage {
    /// The first frame of the connection.
    Hello {
        /// [`crate::VERSION`] of the guest's side.
        version: u32,
    },
    /// A stage of the pod's boot or of a container's launch was reached.
    Stage {
        /// The container's first process; none for the pod's boot.
        process: Option<ProcessId>,
        /// Which one.
        stage: Stage,
        /// The guest's CLOCK_MONOTONIC at that moment, in nanoseconds.
        monotonic_ns: u64,
    },
    /// The process is there and waits for `Start`, if it was not started at once.
    Created {
        /// Which.
        process: ProcessId,
        /// Its process ID in the pod's own PID namespace.
        pid: u32,
    },
    /// The process executed its program.
    Started(ProcessId),
    /// The process could not be made or started. Nothing of it is left in the guest.
    StartFailed {
        /// Which.
        process: ProcessId,
        /// Why.
        error: StartError,
    },
    /// The process ended and its output was written; of a container's first, all of its processes are gone.
    Exited {
        /// Which.
        process: ProcessId,
        /// How.
        status: ExitStatus,
    },
    /// The kernel ended a process of the container for lack of memory.
    OutOfMemory(ProcessId),
    /// The answer to `Ask`.
    Answer {
        /// Number of the question.
        number: u32,
        /// The answer, or one line that says why there is none.
        answer: Result<Answer, String>,
    },
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
    /// This guest is the pod's: it has its clock, entropy, memory and processors.
    Resumed,
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
    /// The container's process has made everything around itself and waits for `Start`.
    Made,
    /// The container's process was executed.
    Executed,
    /// The container's first process ended.
    Ended,
}

/// Why a process could not be started: what was attempted, on which field of config.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartError {
    /// Exit code for the caller: 126, 127, or 1 for a configuration the pod cannot honour.
    pub exit_code: u8,
    /// One line: the field of config.json, what failed and why, e.g.
    /// `mounts[3] (/data): mount tmpfs: Invalid argument`.
    pub message: String,
}

/// How a process ended.
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
