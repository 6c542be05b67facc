//! The live VM. One thread owns it and waits for its end; vCPU threads and [`Stopper`]s only send messages.
//!
//! ```text
//! Vm::new -> Vm -> start() -> RunningVm -> wait() -> End
//!                                ^ first message of: a vCPU that met an end, a Stopper
//! ```
//! Then every vCPU thread is kicked and joined, and every device reset, before `wait` returns.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use kvm_ioctls::VmFd;

use crate::bus::Bus;
use crate::config::VmConfig;
use crate::error::VmError;
use crate::memory::OwnedMemory;
use crate::vcpu::{Shared, Vcpu, VcpuError, VcpuState, VcpuThread};
use crate::{HostProfile, builder, sys};

/// How a guest ended.
#[derive(Debug)]
pub enum End {
    /// The guest powered itself off.
    PowerOff,
    /// The guest wanted to start again.
    Reset,
    /// The guest's kernel panicked.
    Panic {
        /// Its last lines.
        log: String,
    },
    /// A fault while handling a fault while handling a fault: what is left of a guest that is lost.
    TripleFault {
        /// Which vCPU.
        vcpu: u8,
        /// Where it was, if KVM still knew.
        state: VcpuState,
    },
    /// [`Stopper::stop`] was called.
    Stopped,
    /// KVM could not go on with the guest.
    Failed(VcpuError),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Panic { .. } => f.write_str("the guest's kernel panicked"),
            Self::TripleFault { vcpu, state } => write!(f, "triple fault on vCPU {vcpu}; {state}"),
            Self::Stopped => f.write_str("the VM was stopped"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// A VM that has not run yet.
pub struct Vm {
    vcpus: Vec<Vcpu>,
    bus: Bus,
    profile: HostProfile,
    // Last: KVM's slots and Rust's mappings go when nothing can run any more.
    vm: VmFd,
    released_later: Option<OwnedFd>,
    memory: OwnedMemory,
}

impl Vm {
    /// Builds a VM: everything that can fail.
    ///
    /// # Errors
    /// The configuration, a file, a device or the host; each in one line.
    pub fn new(config: VmConfig) -> Result<Self, VmError> {
        builder::build(config)
    }

    pub(crate) fn new_built(
        vm: VmFd,
        released_later: Option<OwnedFd>,
        memory: OwnedMemory,
        bus: Bus,
        vcpus: Vec<Vcpu>,
        profile: HostProfile,
    ) -> Self {
        Self { vcpus, bus, profile, vm, released_later, memory }
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// No threads. Nothing runs then.
    pub fn start(self) -> Result<RunningVm, VmError> {
        sys::handle_kicks();
        let (sender, ends) = channel();
        let bus = Arc::new(self.bus);
        let memory = self.memory.memory.clone();
        let mut running = RunningVm {
            vcpus: Vec::with_capacity(self.vcpus.len()),
            bus: bus.clone(),
            ends,
            sender: sender.clone(),
            _vm: self.vm,
            _released_later: self.released_later,
            _memory: self.memory,
        };
        let shared = Shared { bus, memory, profile: self.profile, ends: sender };
        for vcpu in self.vcpus {
            let thread = VcpuThread::spawn(vcpu, shared.clone())
                .map_err(|source| VmError::Host("cannot start a vCPU thread", source))?;
            running.vcpus.push(thread);
        }
        Ok(running)
    }
}

/// A VM whose vCPUs run. Dropped, it is stopped.
pub struct RunningVm {
    vcpus: Vec<VcpuThread>,
    bus: Arc<Bus>,
    ends: Receiver<End>,
    sender: Sender<End>,
    _vm: VmFd,
    _released_later: Option<OwnedFd>,
    _memory: OwnedMemory,
}

impl RunningVm {
    /// Something to stop the VM with, from any thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Waits for the end. When this returns, no thread of the VM is left.
    #[must_use]
    pub fn wait(mut self) -> End {
        // The sender in `self` keeps the channel open.
        let end = self.ends.recv().unwrap_or(End::Stopped);
        self.stop();
        end
    }

    fn stop(&mut self) {
        self.vcpus.iter().for_each(VcpuThread::stop);
        self.vcpus.drain(..).for_each(VcpuThread::join);
        self.bus.reset();
    }
}

impl Drop for RunningVm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Stops a VM.
#[derive(Clone)]
pub struct Stopper(Sender<End>);

impl Stopper {
    /// Makes [`RunningVm::wait`] stop the VM and return [`End::Stopped`], unless another end came first.
    pub fn stop(&self) {
        // The VM is gone already.
        let _ = self.0.send(End::Stopped);
    }
}
