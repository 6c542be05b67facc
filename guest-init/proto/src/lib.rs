//! The protocol between the VMM and PID 1 of a pod: the only definition of every message.
//!
//! Transport: virtio-vsock. PID 1 (the guest) opens every connection, to CID 2 (the host):
//!
//! | host port                     | direction     | carries                                                    |
//! |-------------------------------|---------------|------------------------------------------------------------|
//! | [`CONTROL_PORT`]              | both          | frames: [`GuestMessage`] to the host, [`HostMessage`] back  |
//! | [`StreamPorts`], random ones  | as the stream | bytes of one standard stream, or of a terminal both ways   |
//!
//! One connection per stream, so a full pipe blocks only itself. The order on the control connection:
//! guest `Hello`, `Stage`s; then, for each container, host `Create`, guest opens the stream
//! connections, then `Created`; host `Start`, guest `Started` (or `StartFailed` instead of either); host `Exec`, `Signal`,
//! `Resize` and `Ask` at any time; guest `Exited`, after which it has shut its side of the streams down; host `PowerOff`.
//!
//! A frame is a little-endian `u32` length and that many bytes of postcard. Neither side trusts the
//! other's lengths: [`frame`] refuses what is longer than [`MAX_FRAME_BYTES`]. There is no I/O here beyond
//! `Read` and `Write`.

#![deny(unsafe_code)]

pub mod frame;
mod msg;
mod network;
mod plan;
mod standard;

pub use frame::FrameError;
pub use msg::{
    Answer, ExecPlan, ExitStatus, GuestMessage, HostMessage, ProcessId, ProcessInfo, Question, Stage,
    StartError, StreamPorts,
};
pub use network::{Address, Interface, Neighbour, Network, Route};
pub use plan::{
    BindSource, Capabilities, Cgroup, CpuLimits, Device, DeviceKind, DeviceRule, Hook, HugetlbLimit,
    IdMapping, IoDeviceLimit, IoLimits, MemoryLimits, Mount, MountKind, Namespace, NamespaceKind, Plan,
    Process, Rlimit, Seccomp, SockFilter, TimeOffset, TimeOffsetClock, UserMappings, Volume,
};

pub use standard::standard;

/// Version of the protocol. Host and guest refuse each other when it differs.
pub const VERSION: u32 = 6;
/// Host port of the control connection.
pub const CONTROL_PORT: u32 = 1024;
/// Longest frame either side accepts: a plan with a large environment (ARG_MAX is 2 MiB) and mounts.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// Mount tag of the pod's virtio-fs device.
pub const SHARE_TAG: &str = "crx";
/// Below the directory of the share that is named by the container's first [`ProcessId`]: its root file system.
pub const SHARE_ROOTFS: &str = "rootfs";
/// And the bind mounts' sources, by number: `1/volumes/0`, `1/volumes/1`.
pub const SHARE_VOLUMES: &str = "volumes";

/// Exit code of a container whose binary exists but cannot be executed (as a shell and runc have it).
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Exit code of a container whose binary does not exist.
pub const EXIT_NOT_FOUND: u8 = 127;
