//! Why a VM could not be built or started: one clear line each.

use std::io;

use crx_virtio::fs::FsError;
use crx_virtio::transport::{StateError, TransportError};
use crx_virtio::vsock::VsockError;

use crate::End;
use crate::boot::{CommandLineError, InitramfsError, KernelError};
use crate::config::ConfigError;
use crate::snapshot::MemoryError;

/// A VM could not be built or started.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host has no KVM.
    #[error("no /dev/kvm: load kvm_intel or kvm_amd, or use a machine with (nested) virtualization")]
    NoKvm,
    /// /dev/kvm is somebody else's.
    #[error(
        "no permission on /dev/kvm: add yourself to group kvm or run as root; to root, only a cgroup that allows no devices forbids it"
    )]
    KvmPermission,
    /// A KVM call failed.
    #[error("KVM: {0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// The host has no address space for the guest's memory.
    #[error("cannot map {0} MiB of guest memory")]
    Memory(u32, #[source] io::Error),
    /// The guest kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initramfs.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The command line.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// The boot structures did not fit, which only a bug can cause.
    #[error("cannot write the boot structures")]
    BootStructures(#[source] vm_memory::GuestMemoryError),
    /// The window of a device.
    #[error("device {0}")]
    Transport(usize, #[source] TransportError),
    /// A device of a snapshot.
    #[error("snapshot: device {0}")]
    Window(usize, #[source] StateError),
    /// A model-specific register of a snapshot.
    #[error("snapshot: KVM of this host does not set MSR {0:#x}")]
    Msr(u32),
    /// The memory of a snapshot.
    #[error("snapshot: its memory file")]
    SnapshotMemory(#[source] MemoryError),
    /// The VM that is asked for has less memory, more processors or other devices than the snapshot.
    #[error("snapshot: a VM of this shape cannot be made of it")]
    SnapshotShape,
    /// The guest ended before its moment.
    #[error("no snapshot: {0}")]
    NoMoment(Box<End>),
    /// The snapshot cannot be written.
    #[error("cannot write the snapshot")]
    SnapshotWrite(#[source] io::Error),
    /// The share.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The sockets.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// A file descriptor or a thread.
    #[error("{0}")]
    Host(&'static str, #[source] io::Error),
}

/// Names the KVM call that failed.
pub(crate) trait KvmContext<T> {
    /// `what` completes "KVM: ...".
    fn kvm(self, what: &'static str) -> Result<T, VmError>;
}

impl<T> KvmContext<T> for Result<T, kvm_ioctls::Error> {
    fn kvm(self, what: &'static str) -> Result<T, VmError> {
        self.map_err(|source| VmError::Kvm(what, source))
    }
}
