//! Messages between the processes of crx, as frames over Unix sockets, with descriptors beside them.
//!
//! A pod's VMM process hears its launcher over an inherited socket (its first client) and everybody else over `pod.sock`
//! of its state directory. A client owns the processes that it has created or executed: it gets their streams and
//! reports, and they end when it goes, but for the launcher, which lets go ([`Command::Release`]) and leaves the pod's
//! first container to the VMM process itself.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crx_proto::{Answer, Cgroup, ExecPlan, ExitStatus, FrameError, Interface, Network, Plan, frame};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::network::rates::Rates;
use super::template::NewTemplate;
use super::timeline::Span;

/// Most descriptors beside one message (SCM_MAX_FD of net/scm.h is 253).
pub(crate) const MAX_DESCRIPTORS: usize = 250;

/// What a new process of crx is to do: its first message.
#[derive(Serialize, Deserialize)]
pub(crate) enum Role {
    /// Be a pod; from a template if its state and its memory are beside this message.
    Pod(NewPod),
    /// Make a template, whose memory file is beside this message.
    Template {
        /// Of what.
        new: NewTemplate,
        /// Its label.
        label: [u8; 32],
    },
    /// Stand in for a process of a pod whose socket is beside this message.
    StandIn {
        /// Standard input is the terminal that it shall have.
        console: bool,
        /// When its launcher set about starting it: CLOCK_MONOTONIC in nanoseconds.
        began_ns: u64,
    },
}

/// The pod that a VMM process is to be.
#[derive(Serialize, Deserialize)]
pub(crate) struct NewPod {
    /// The guest's kernel.
    pub(crate) kernel: PathBuf,
    /// The guest's first process.
    pub(crate) initramfs: PathBuf,
    /// Memory of the VM.
    pub(crate) memory_mib: u32,
    /// Virtual processors.
    pub(crate) vcpus: u8,
    /// It has network interfaces, or may get some.
    pub(crate) network: bool,
    /// What may pass through each of them.
    pub(crate) rates: Rates,
    /// Show the guest kernel's console on stderr.
    pub(crate) debug_console: bool,
    /// State directory of the pod's first container: the share is built on it, which only the process's own mount
    /// namespace sees; the host finds `pod.sock` there.
    pub(crate) state_dir: PathBuf,
    /// It outlives its launcher: it has a session of its own.
    pub(crate) detached: bool,
    /// Standard input is the terminal that the process shall have.
    pub(crate) console: bool,
    /// When its launcher set about starting the process: CLOCK_MONOTONIC in nanoseconds.
    pub(crate) began_ns: u64,
}

/// A container to be made. Beside it, as descriptors: detached mounts of its root file system and of its volumes, and the
/// taps of the interfaces in its plan.
#[derive(Serialize, Deserialize)]
pub(crate) struct NewContainer {
    /// What it is.
    pub(crate) plan: Box<Plan>,
    /// It is started at once.
    pub(crate) start: bool,
    /// The process of the host that callers take for it.
    pub(crate) host_pid: u32,
    /// What there is for each interface. What follows the taps is only to be held.
    pub(crate) joints: Vec<Joint>,
}

/// What joins an interface of the host to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Joint {
    /// The interface's index in its namespace.
    pub(crate) index: u32,
    /// How many taps are beside the message for it: one for each of its queue pairs, none if the pod has it already.
    pub(crate) taps: u8,
    /// How many descriptors of /dev/vhost-net are after them: as many, or none.
    pub(crate) vhosts: u8,
}

/// The network that a pod has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodNetwork {
    /// Queue pairs that a tap is to have.
    pub(crate) queue_pairs: u8,
    /// Interfaces that it can have.
    pub(crate) most: usize,
    /// Those that it has, with their indexes in the host's namespace, and as they were when they came.
    pub(crate) interfaces: Vec<(u32, Interface)>,
}

/// What a client tells the VMM process.
#[derive(Serialize, Deserialize)]
pub(crate) enum Command {
    /// Make a container.
    Create(NewContainer),
    /// Execute a process in a container.
    Exec {
        /// ID of the container.
        container: String,
        /// What it is.
        plan: Box<ExecPlan>,
    },
    /// From here on the client's process goes on without the client.
    Release,
    /// Start a container that was created.
    Start(String),
    /// Send a signal to the client's own process.
    Signal(u8),
    /// The terminal of the client's own process changed its size.
    Resize {
        /// Rows, in characters.
        rows: u16,
        /// Columns, in characters.
        columns: u16,
    },
    /// Send a signal to a container.
    Kill {
        /// ID of the container.
        container: String,
        /// Number of the signal.
        signal: u8,
        /// To all of its processes.
        everybody: bool,
    },
    /// Ask how a container is.
    Status(String),
    /// Stop all processes of a container until `Resume`.
    Pause(String),
    /// Let them go on.
    Resume(String),
    /// Change limits of a container.
    Update {
        /// ID of the container.
        container: String,
        /// What is to change.
        limits: Box<Cgroup>,
    },
    /// Ask for a container's accounting.
    Usage(String),
    /// Ask for a container's processes.
    Processes(String),
    /// Ask for the pod's interfaces.
    Network,
    /// Bring the pod interfaces, whose taps are beside this message, and what else their namespace has.
    AddInterfaces {
        /// All of it.
        network: Box<Network>,
        /// What there is for each interface.
        joints: Vec<Joint>,
    },
    /// Be told when a container runs out of memory, and when it ends.
    Watch(String),
}

/// What the VMM process tells a client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// A stream of the client's process; its connection is beside the message.
    Stream(Stream),
    /// The client's process is there and waits to be started, or is started at once: with what is new of its timeline.
    Created(Vec<Span>),
    /// The client's process executed its program, or the container that it started did, likewise.
    Started(Vec<Span>),
    /// Something a person should know.
    Warning(String),
    /// The client's process ended, or the container that it watches; its output may still be on its way.
    Ended(ExitStatus),
    /// The output was written, likewise. The last message about the client's process.
    Drained(Vec<Span>),
    /// The state of the template that was made.
    Template(Vec<u8>),
    /// What was asked for could not be done, or the pod died.
    Failed(Failure),
    /// A container that the client watches ran out of memory.
    OutOfMemory,
    /// How the container is.
    Status(Status),
    /// The pod's interfaces.
    Network(PodNetwork),
    /// What the container's PID 1 says to a question or an order.
    Answer(Answer),
}

/// Why something could not be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Exit code for the caller.
    pub(crate) exit_code: u8,
    /// One line.
    pub(crate) message: String,
    /// The guest kernel's last lines, if it is its fault.
    pub(crate) console: Vec<String>,
}

/// A stream of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stream {
    Stdin,
    Stdout,
    Stderr,
    /// Both directions of a terminal.
    Terminal,
}

/// Status of a container, as the runtime specification and runc name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// Annotations of config.json.
pub(crate) type Annotations = BTreeMap<String, String>;

/// Sends a message with descriptors beside its first byte.
///
/// # Errors
/// Those of [`frame::write`].
pub(crate) fn send<T: Serialize>(
    socket: &UnixStream,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), FrameError> {
    let bytes = frame::encode(message)?;
    if descriptors.is_empty() {
        let mut socket = socket;
        return socket.write_all(&bytes).map_err(FrameError::Io);
    }
    let sent = send_with(socket, &bytes, descriptors).map_err(FrameError::Io)?;
    let mut socket = socket;
    socket.write_all(&bytes[sent..]).map_err(FrameError::Io)
}

/// Sends bytes with a descriptor beside them, as others than crx expect it.
///
/// # Errors
/// Those of sendmsg(2).
pub(crate) fn send_descriptor(
    socket: &UnixStream,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> io::Result<()> {
    send_with(socket, bytes, &[descriptor]).map(drop)
}

/// Sends what the socket takes of `bytes`, at least one, and the descriptors.
fn send_with(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Receives a message and the descriptors beside its first byte.
///
/// # Errors
/// Those of [`frame::read`].
pub(crate) fn receive<T: DeserializeOwned>(socket: &UnixStream) -> Result<(T, Vec<OwnedFd>), FrameError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut first = [0];
    let got = loop {
        let slices = &mut [IoSliceMut::new(&mut first)];
        match recvmsg(socket.as_fd(), slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result.map_err(|error| FrameError::Io(error.into()))?.bytes,
        }
    };
    if got == 0 {
        return Err(FrameError::Closed);
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok((frame::read((&first[..]).chain(socket))?, descriptors))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_message() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        send(&ours, &Command::Release, &[]).unwrap();
        send(&ours, &Report::Stream(Stream::Stdin), &[writer.as_fd()]).unwrap();
        drop((ours, writer));
        let (first, none) = receive::<Command>(&theirs).unwrap();
        assert!(matches!(first, Command::Release) && none.is_empty());
        let (_, mut descriptors) = receive::<Report>(&theirs).unwrap();
        std::fs::File::from(descriptors.pop().unwrap()).write_all(b"here").unwrap();
        drop(descriptors);
        let mut text = String::new();
        (&reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
        assert!(matches!(receive::<Report>(&theirs), Err(FrameError::Closed)));
    }

    #[test]
    fn a_large_message_with_many_descriptors_is_whole() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_reader, writer) = io::pipe().unwrap();
        let text = "x".repeat(1 << 20);
        let sender = std::thread::spawn(move || {
            send(&ours, &Command::Start(text), &vec![writer.as_fd(); MAX_DESCRIPTORS]).unwrap();
        });
        let (command, descriptors) = receive::<Command>(&theirs).unwrap();
        assert!(matches!(command, Command::Start(text) if text.len() == 1 << 20));
        assert_eq!(descriptors.len(), MAX_DESCRIPTORS);
        sender.join().unwrap();
    }
}
