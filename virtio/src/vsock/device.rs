//! The registers of virtio-vsock: features, the guest's CID, and the life of the worker. Next: [`super::worker`].

use std::thread::{self, JoinHandle};
use std::{io, mem};

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::worker::{Parts, Worker};
use super::{MAX_GUEST_CID, MIN_GUEST_CID, VsockConfig, VsockError};
use crate::{ActivateError, Activation, ActiveQueue, GuestMem, Interrupt, VirtioDevice};

/// Queues (virtio 1.2, 5.10.2): receive, transmit, event. Linux fills the whole receive ring with 4 KiB buffers when it
/// starts, which is guest time and memory in every boot, and 64 of them hold one connection's credit. Its eight event
/// buffers are a constant (net/vmw_vsock/virtio_transport.c).
const QUEUE_SIZES: [u16; 3] = [64, 64, 8];

/// Stream sockets (virtio 1.2, 5.10.3).
const VIRTIO_VSOCK_F_STREAM: u32 = 0;

/// What an activation brings.
pub(super) struct Queues {
    pub(super) memory: GuestMem,
    pub(super) interrupt: Interrupt,
    pub(super) features: u64,
    pub(super) rx: ActiveQueue,
    pub(super) tx: ActiveQueue,
    pub(super) event: ActiveQueue,
}

/// The worker's parts are where they can be used: here, or in its thread.
enum State {
    Idle(Parts),
    Active {
        worker: JoinHandle<(Parts, Vec<Queue>)>,
        stop: EventFd,
    },
    /// A worker could not be started or panicked and took its parts with it.
    Lost,
}

/// A vsock device.
pub struct Vsock {
    guest_cid: u64,
    state: State,
}

impl Vsock {
    /// Makes a device that serves the guest `config.guest_cid`.
    ///
    /// # Errors
    /// The CID is not one for guests, or the listener cannot be used.
    pub fn new(config: VsockConfig) -> Result<Self, VsockError> {
        let VsockConfig { guest_cid, host_listener, guest_connections } = config;
        if !(MIN_GUEST_CID..=MAX_GUEST_CID).contains(&guest_cid) {
            return Err(VsockError::GuestCid(guest_cid));
        }
        if let Some(listener) = &host_listener {
            listener.set_nonblocking(true).map_err(VsockError::Listener)?;
        }
        Ok(Self { guest_cid, state: State::Idle(Parts { listener: host_listener, guest_connections }) })
    }

    fn start(&mut self, queues: Queues) -> Result<(), ActivateError> {
        let State::Idle(parts) = &self.state else {
            return Err(ActivateError::Worker(io::ErrorKind::ResourceBusy.into()));
        };
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(ActivateError::Worker)?;
        let stopped = stop.try_clone().map_err(ActivateError::Worker)?;
        let epoll =
            Worker::epoll(&queues, &stopped, parts.listener.as_ref()).map_err(ActivateError::Worker)?;
        let State::Idle(parts) = mem::replace(&mut self.state, State::Lost) else { return Ok(()) };
        let worker = Worker::new(self.guest_cid, queues, epoll, stopped, parts);
        let worker = thread::Builder::new()
            .name("crx-vsock".to_owned())
            .spawn(move || worker.run())
            .map_err(ActivateError::Worker)?;
        self.state = State::Active { worker, stop };
        Ok(())
    }
}

impl VirtioDevice for Vsock {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_VSOCK_F_STREAM
    }

    /// `guest_cid`, le64, is all there is (virtio 1.2, 5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.guest_cid.to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at).ok().and_then(|at| config.get(at)).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, features, queues, interrupt } = activation;
        let mut queues = queues.into_iter().enumerate().map(|(index, active)| {
            if active.queue.is_valid(&memory) { Ok(active) } else { Err(ActivateError::QueueMissing(index)) }
        });
        let mut next = |index| queues.next().unwrap_or(Err(ActivateError::QueueMissing(index)));
        let (rx, tx, event) = (next(0)?, next(1)?, next(2)?);
        self.start(Queues { memory: memory.clone(), interrupt, features, rx, tx, event })
    }

    fn stop(&mut self) -> Vec<Queue> {
        let (state, queues) = match mem::replace(&mut self.state, State::Lost) {
            State::Active { worker, stop } => {
                // The counter cannot be full: it is written once.
                let _ = stop.write(1);
                worker
                    .join()
                    .map_or((State::Lost, Vec::new()), |(parts, queues)| (State::Idle(parts), queues))
            }
            state => (state, Vec::new()),
        };
        self.state = state;
        queues
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.stop();
    }
}
