//! The live VM. One thread owns it and waits for its end; vCPU threads and [`Stopper`]s only send messages.
//!
//! ```text
//! Vm::new -> Vm -> start() -> RunningVm -> wait() -> End
//!                                ^ first message of: a vCPU that met an end, a Stopper
//! ```
//! Then every vCPU thread is kicked and joined, and every device reset, before `wait` returns.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryRegion};

use crate::bus::Bus;
use crate::config::VmConfig;
use crate::error::VmError;
use crate::memory::OwnedMemory;
use crate::moment::Arrival;
use crate::restore::{self, RestoreConfig};
use crate::snapshot::{self, SavedChips, SavedVcpu, Snapshot, State};
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
    /// The guest of a snapshot has reached its moment.
    Moment {
        /// Guest-physical address of the page that it wants filled.
        page: u64,
    },
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
            Self::Moment { .. } => f.write_str("the guest is ready for a snapshot"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// What a VM is made of.
pub(crate) struct Parts {
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) bus: Bus,
    pub(crate) profile: HostProfile,
    /// Processors that the guest knows.
    pub(crate) known_vcpus: u8,
    /// What the guest is told at its moment; none if a snapshot is taken there.
    pub(crate) arrival: Option<Arrival>,
    /// Page of the moment at which the guest is already.
    pub(crate) page: Option<GuestAddress>,
    // Last: KVM's slots and Rust's mappings go when nothing can run any more.
    pub(crate) vm: VmFd,
    pub(crate) memory: OwnedMemory,
}

/// A VM that has not run yet.
pub struct Vm {
    parts: Parts,
    released_later: Option<OwnedFd>,
}

impl Vm {
    /// Builds a VM: everything that can fail.
    ///
    /// # Errors
    /// The configuration, a file, a device or the host; each in one line.
    pub fn new(config: VmConfig) -> Result<Self, VmError> {
        builder::build(config)
    }

    /// Makes a VM of a snapshot.
    ///
    /// # Errors
    /// The snapshot does not fit, is damaged, or was made on another host; a device; the host. Each in one line.
    pub fn restore(config: RestoreConfig) -> Result<Self, VmError> {
        restore::restore(config)
    }

    pub(crate) fn of(parts: Parts) -> Self {
        let vcpus = parts.vcpus.iter().map(|vcpu| vcpu.fd.as_raw_fd());
        let files: Vec<RawFd> = vcpus.chain([parts.vm.as_raw_fd()]).collect();
        Self { released_later: sys::released_later(&files), parts }
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// No threads. Nothing runs then.
    pub fn start(self) -> Result<RunningVm, VmError> {
        let Self { parts, released_later } = self;
        let Parts { vcpus, bus, profile, known_vcpus, arrival, page, vm, memory } = parts;
        sys::handle_kicks();
        // As late as possible: it has the time in it.
        if let (Some(arrival), Some(page)) = (&arrival, page) {
            let told = arrival.tell(&memory.memory, page);
            told.map_err(|source| VmError::Host("cannot tell a restored guest what is its own", source))?;
        }
        let (sender, ends) = channel();
        let bus = Arc::new(bus);
        let guest_memory = memory.memory.clone();
        let mut running = RunningVm {
            vcpus: Vec::with_capacity(vcpus.len()),
            known_vcpus,
            bus: bus.clone(),
            ends,
            sender: sender.clone(),
            vm,
            _released_later: released_later,
            memory,
        };
        let shared = Shared { bus, memory: guest_memory, profile, arrival, ends: sender };
        for vcpu in vcpus {
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
    known_vcpus: u8,
    bus: Arc<Bus>,
    ends: Receiver<End>,
    sender: Sender<End>,
    vm: VmFd,
    _released_later: Option<OwnedFd>,
    memory: OwnedMemory,
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

    /// Waits for the guest's moment, writes its memory to an empty file, and gives the rest of it. The VM is for nothing
    /// else after that.
    ///
    /// # Errors
    /// The guest ended instead, or something of it cannot be read or written.
    pub fn snapshot(mut self, file: &File) -> Result<Snapshot, VmError> {
        let page = match self.ends.recv().unwrap_or(End::Stopped) {
            End::Moment { page } => page,
            end => return Err(VmError::NoMoment(Box::new(end))),
        };
        let mut vcpus = self.stop_vcpus();
        let Some(first) = vcpus.first_mut().filter(|vcpu| vcpu.index == 0) else {
            return Err(VmError::NoMoment(Box::new(End::Stopped)));
        };
        let vcpu = SavedVcpu::save(&builder::open_kvm()?, &mut first.fd)?;
        let windows = self.bus.save().map_err(|(index, source)| VmError::Window(index, source))?;
        let chips = SavedChips::save(&self.vm)?;
        let memory = &self.memory.memory;
        let (extents, checksum) = snapshot::memory::save(memory, file).map_err(VmError::SnapshotWrite)?;
        let bytes = file.metadata().map_err(VmError::SnapshotWrite)?.len();
        let memory_mib = (memory.iter().map(GuestMemoryRegion::len).sum::<u64>() >> 20) as u32;
        let state = State { memory_mib, vcpus: self.known_vcpus, page, vcpu, windows, chips, extents };
        Ok(Snapshot::new(state, bytes, checksum))
    }

    fn stop(&mut self) {
        self.stop_vcpus();
        self.bus.reset();
    }

    fn stop_vcpus(&mut self) -> Vec<Vcpu> {
        self.vcpus.iter().for_each(VcpuThread::stop);
        self.vcpus.drain(..).filter_map(VcpuThread::join).collect()
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
