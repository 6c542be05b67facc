//! What a VM is made of. Before this, the launcher turned a bundle into these few values; next, `builder`.

use std::fs::File;
use std::path::PathBuf;

use crx_virtio::fs::FsConfig;
use crx_virtio::net::NetConfig;
use crx_virtio::vsock::VsockConfig;

use crate::layout::{MAX_DEVICES, MAX_VCPUS};

/// Less does not hold any kernel that knows namespaces.
const MIN_MEMORY_MIB: u32 = 16;

/// 1 TiB: within the 40 bits of physical address that every x86-64 host with KVM has, hole included.
const MAX_MEMORY_MIB: u32 = (1 << 20) - 1024;

/// A VM.
#[derive(Debug)]
pub struct VmConfig {
    /// Uncompressed ELF image of the guest kernel. Guests map it and the initramfs: files that may be in use
    /// are replaced (renamed over), never written in place.
    pub kernel: File,
    /// Where it is, for messages.
    pub kernel_path: PathBuf,
    /// Uncompressed newc cpio archive with `/init`.
    pub initramfs: File,
    /// Where it is, for messages.
    pub initramfs_path: PathBuf,
    /// Guest memory.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Gives the guest a serial port whose output is written here. Without it there is no serial port.
    pub debug_console: Option<File>,
    /// A guest for a snapshot: only the first vCPU is made and online, and [`crate::RunningVm::snapshot`] takes it.
    pub for_snapshot: bool,
    /// More words for the kernel's command line.
    pub extra_command_line: Vec<String>,
    /// The devices, in the order of their windows.
    pub devices: Vec<DeviceConfig>,
}

/// A device.
#[derive(Debug)]
pub enum DeviceConfig {
    /// A share of files.
    Fs(FsConfig),
    /// Sockets between host and guest.
    Vsock(VsockConfig),
    /// Entropy.
    Rng,
    /// A network interface.
    Net(NetConfig),
}

impl DeviceConfig {
    /// The guest's address, of the device that has it.
    pub(crate) fn guest_cid(&self) -> Option<u64> {
        match self {
            Self::Vsock(config) => Some(config.guest_cid),
            Self::Fs(_) | Self::Rng | Self::Net(_) => None,
        }
    }
}

/// A VM that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Memory out of range.
    #[error("memory of {0} MiB: must be between {MIN_MEMORY_MIB} and {MAX_MEMORY_MIB} MiB")]
    Memory(u32),
    /// vCPUs out of range.
    #[error("{0} vCPUs: must be between 1 and {MAX_VCPUS}")]
    Vcpus(u8),
    /// More devices than interrupt lines.
    #[error("{0} devices: must be at most {MAX_DEVICES}")]
    Devices(usize),
}

impl VmConfig {
    /// Checks what can be checked without the host.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(ConfigError::Memory(self.memory_mib));
        }
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(ConfigError::Vcpus(self.vcpus));
        }
        if self.devices.len() > MAX_DEVICES {
            return Err(ConfigError::Devices(self.devices.len()));
        }
        Ok(())
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}
