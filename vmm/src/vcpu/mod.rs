//! A vCPU's thread: started with the vCPU, kicked out of the guest by a signal, joined at the end.

mod exit;
mod failure;
mod run;
mod xsave;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

use crx_virtio::GuestMem;
use kvm_ioctls::VcpuFd;

pub use failure::{FailedRun, VcpuError, VcpuState};

use crate::bus::Bus;
use crate::moment::Arrival;
use crate::sys::KickSlot;
use crate::{End, HostProfile};

/// A vCPU thread dispatches exits and starts device workers; its deepest stack is a panic's.
const STACK_BYTES: usize = 256 * 1024;

/// A vCPU that has not run yet.
pub(crate) struct Vcpu {
    pub(crate) index: u8,
    pub(crate) fd: VcpuFd,
}

/// What vCPU threads share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) bus: Arc<Bus>,
    pub(crate) memory: GuestMem,
    pub(crate) profile: HostProfile,
    /// What the guest is told at its moment; none if a snapshot is taken there.
    pub(crate) arrival: Option<Arrival>,
    pub(crate) ends: Sender<End>,
}

/// A running vCPU.
pub(crate) struct VcpuThread {
    stopping: Arc<AtomicBool>,
    slot: Arc<KickSlot>,
    thread: JoinHandle<Vcpu>,
}

impl VcpuThread {
    /// Gives the vCPU a thread, which sends the end that the vCPU meets, if it meets one.
    pub(crate) fn spawn(vcpu: Vcpu, shared: Shared) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let slot = Arc::new(KickSlot::default());
        let (flag, open) = (stopping.clone(), slot.clone());
        let thread = thread::Builder::new()
            .name(format!("crx-vcpu{}", vcpu.index))
            .stack_size(STACK_BYTES)
            .spawn(move || {
            let Vcpu { index, mut fd } = vcpu;
            if let Some(end) = open.while_open(&mut fd, |fd| run::run(index, fd, &shared, &flag)) {
                // Nobody waits any more: another vCPU's end came first.
                let _ = shared.ends.send(end);
            }
            Vcpu { index, fd }
        })?;
        Ok(Self { stopping, slot, thread })
    }

    /// Makes the thread leave the guest and end.
    pub(crate) fn stop(&self) {
        // The flag first: a thread that opens its slot later sees it before it enters the guest.
        self.stopping.store(true, Ordering::SeqCst);
        self.slot.kick();
    }

    /// Waits for the thread; the vCPU as it stands, unless the thread panicked and has printed why.
    pub(crate) fn join(self) -> Option<Vcpu> {
        self.thread.join().ok()
    }
}
