//! virtio devices over virtio-mmio, without KVM: everything here can be tested without /dev/kvm.
//!
//! A device is two halves: the register object ([`VirtioDevice`], called by vCPU threads through
//! [`transport`]) and workers, threads that own the queues from [`VirtioDevice::activate`] to
//! [`VirtioDevice::stop`].

#![deny(unsafe_code)]

mod chain;
mod device;
pub mod fs;
pub mod net;
pub mod rng;
mod slice;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
pub mod transport;
pub mod vsock;

pub use chain::{ChainBytes, ChainError, ChainLimits, check_chain};
pub use device::{ActivateError, Activation, ActiveQueue, Interrupt, VirtioDevice};

/// The guest's memory. No other file names the type, so that a change of it is one line.
pub type GuestMem = vm_memory::GuestMemoryMmap<()>;
