//! The protocol between the VMM and PID 1 of a pod: the only definition of every message.
//!
//! Transport: virtio-vsock. PID 1 (the guest) opens every connection, to CID 2 (the host):
//!
//! | host port        | direction     | carries                                                        |
//! |------------------|---------------|----------------------------------------------------------------|
//! | [`CONTROL_PORT`] | both          | frames: [`GuestMessage`] to the host, [`HostMessage`] back      |
//! | [`STDIN_PORT`]   | host to guest | bytes of the container's stdin, end of file by shutdown        |
//! | [`STDOUT_PORT`]  | guest to host | bytes of its stdout (of its terminal, both ways, if it has one)|
//! | [`STDERR_PORT`]  | guest to host | bytes of its stderr                                            |
//!
//! One connection per stream, so a full pipe blocks only itself. The order on the control connection:
//! guest `Hello`, `Stage`s; host `SetClock`, `Start`; guest opens the stream connections, then `Started` or
//! `StartFailed`; host `Signal` and `Resize` at any time; guest `Exited`, after which it has shut its side
//! of stdout and stderr down; host `PowerOff`.
//!
//! A frame is a little-endian `u32` length and that many bytes of postcard. Neither side trusts the
//! other's lengths: [`frame`] refuses what is longer than [`MAX_FRAME_BYTES`]. There is no I/O here beyond
//! `Read` and `Write`.

#![deny(unsafe_code)]

pub mod frame;
mod msg;
mod plan;

pub use frame::FrameError;
pub use msg::{ExitStatus, GuestMessage, HostMessage, Stage, StartError};
pub use plan::{
    BindSource, Capabilities, Cgroup, CpuLimits, Device, DeviceKind, DeviceRule, HugetlbLimit, IdMapping,
    IoDeviceLimit, IoLimits, MemoryLimits, Mount, MountKind, Namespace, NamespaceKind, Plan, Process, Rlimit,
    Seccomp, SockFilter, TimeOffset, TimeOffsetClock, UserMappings, Volume,
};

/// Version of the protocol. Host and guest refuse each other when it differs.
pub const VERSION: u32 = 1;
/// Host port of the control connection.
pub const CONTROL_PORT: u32 = 1024;
/// Host port of the container's stdin.
pub const STDIN_PORT: u32 = 1025;
/// Host port of the container's stdout, or of its terminal.
pub const STDOUT_PORT: u32 = 1026;
/// Host port of the container's stderr.
pub const STDERR_PORT: u32 = 1027;
/// Longest frame either side accepts: a plan with a large environment (ARG_MAX is 2 MiB) and mounts.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// Mount tag of the pod's virtio-fs device.
pub const SHARE_TAG: &str = "crx";
/// Directory of the share that holds the container's root file system.
pub const SHARE_ROOTFS: &str = "rootfs";
/// Directory of the share that holds the bind mounts' sources, by number: `volumes/0`, `volumes/1`.
pub const SHARE_VOLUMES: &str = "volumes";

/// Exit code of a container whose binary exists but cannot be executed (as a shell and runc have it).
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Exit code of a container whose binary does not exist.
pub const EXIT_NOT_FOUND: u8 = 127;
