//! The virtual machine monitor: guest memory, direct boot, vCPUs, and the wiring of virtio devices to KVM.
//!
//! In reading order: [`VmConfig`] says what to build, `builder` builds it (`memory`, `boot`, `devices`),
//! [`Vm::start`] gives each vCPU its thread (`vcpu`), whose exits go through `bus` to the devices, until one
//! of them is an [`End`].

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
mod sys;
mod vcpu;
mod vm;
mod x86_64;

pub use boot::{CommandLineError, ElfFault, InitramfsError, KernelError};
pub use config::{ConfigError, DeviceConfig, VmConfig};
pub use error::VmError;
pub use host::HostProfile;
pub use sys::allow_huge_pages;
pub use vcpu::{FailedRun, VcpuError, VcpuState};
pub use vm::{End, RunningVm, Stopper, Vm};
