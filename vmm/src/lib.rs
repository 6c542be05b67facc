//! The virtual machine monitor: guest memory, direct boot, vCPUs, and the wiring of virtio devices to KVM.
//!
//! In reading order: [`VmConfig`] says what to build, `builder` builds it (`memory`, `boot`, `devices`),
//! [`Vm::start`] gives each vCPU its thread (`vcpu`), whose exits go through `bus` to the devices, until one
//! of them is an [`End`]. A guest that stands still at its moment becomes a [`Snapshot`], and `restore` makes
//! VMs of it.

#![deny(unsafe_code)]

mod boot;
mod builder;
mod bus;
mod config;
mod devices;
mod error;
mod host;
mod layout;
mod memory;
mod moment;
mod restore;
mod snapshot;
mod sys;
mod vcpu;
mod vm;
mod x86_64;

pub use boot::{CommandLineError, ElfFault, InitramfsError, KernelError};
pub use config::{ConfigError, DeviceConfig, VmConfig};
pub use error::VmError;
pub use host::{HostProfile, processor};
pub use restore::RestoreConfig;
pub use snapshot::{FORMAT_VERSION, FormatError, HEADER_BYTES, Header, MemoryError, Snapshot};
pub use sys::allow_huge_pages;
pub use vcpu::{FailedRun, VcpuError, VcpuState};
pub use vm::{End, RunningVm, Stopper, Vm};
