//! The entropy device (virtio 1.2, 5.4): one queue of empty buffers that come back full of the host's
//! random bytes. The whole device is this file; it is also the shortest example of one.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{
    ActivateError, Activation, ActiveQueue, ChainLimits, GuestMem, Interrupt, VirtioDevice, check_chain,
};

/// Room for what Linux asks: one buffer at a time.
const QUEUE_SIZES: [u16; 1] = [8];

/// A request is a few cache lines (Linux: 64 bytes); what is more is a driver that wastes our time.
const LIMITS: ChainLimits =
    ChainLimits { max_segments: 8, max_readable_bytes: 0, max_writable_bytes: 64 * 1024 };

/// Bytes taken from the host at once.
const BATCH_BYTES: usize = 256;

/// The register half.
#[derive(Default)]
pub struct Rng {
    worker: Option<Worker>,
}

struct Worker {
    stop: EventFd,
    thread: JoinHandle<Queue>,
}

impl Rng {
    /// An entropy device.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    /// There is no configuration space.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, interrupt, .. } = activation;
        let ActiveQueue { mut queue, kick } = queues
            .into_iter()
            .next()
            .filter(|active| active.queue.ready())
            .ok_or(ActivateError::QueueMissing(0))?;
        let stop = EventFd::new(EFD_NONBLOCK).map_err(ActivateError::Worker)?;
        let stopped = stop.try_clone().map_err(ActivateError::Worker)?;
        let thread = thread::Builder::new()
            .name("crx-rng".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                if serve_until_stopped(&mut queue, &memory, &interrupt, &kick, &stopped).is_err() {
                    interrupt.needs_reset();
                }
                queue
            })
            .map_err(ActivateError::Worker)?;
        self.worker = Some(Worker { stop, thread });
        Ok(())
    }

    fn stop(&mut self) -> Vec<Queue> {
        let Some(Worker { stop, thread }) = self.worker.take() else { return Vec::new() };
        // The counter of a fresh eventfd cannot be full, and the thread returns errors, never panics.
        let _ = stop.write(1);
        thread.join().into_iter().collect()
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The worker calls a few small functions.
const STACK_BYTES: usize = 64 * 1024;

fn serve_until_stopped(
    queue: &mut Queue,
    memory: &GuestMem,
    interrupt: &Interrupt,
    kick: &EventFd,
    stop: &EventFd,
) -> io::Result<()> {
    let epoll = Epoll::new()?;
    for fd in [kick.as_raw_fd(), stop.as_raw_fd()] {
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, fd as u64))?;
    }
    let mut events = [EpollEvent::default(); 2];
    loop {
        if serve(queue, memory)? && queue.needs_notification(memory).map_err(io::Error::other)? {
            interrupt.used_buffers()?;
        }
        let ready = match epoll.wait(-1, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        if events[..ready].iter().any(|event| event.data() == stop.as_raw_fd() as u64) {
            return Ok(());
        }
        // Emptied by this read; the ring is looked at either way.
        let _ = kick.read();
    }
}

/// Fills everything that is available; says whether there was something.
fn serve(queue: &mut Queue, memory: &GuestMem) -> io::Result<bool> {
    let mut any = false;
    while let Some(chain) = queue.iter(memory).map_err(io::Error::other)?.next() {
        let head = chain.head_index();
        let written = fill(chain, memory)?;
        queue.add_used(memory, head, written).map_err(io::Error::other)?;
        any = true;
    }
    Ok(any)
}

/// Fills one chain; returns its length.
fn fill(chain: DescriptorChain<&GuestMem>, memory: &GuestMem) -> io::Result<u32> {
    let total = check_chain(&chain, LIMITS).map_err(io::Error::other)?.writable;
    let mut writer = chain.writer(memory).map_err(io::Error::other)?;
    let mut batch = [0; BATCH_BYTES];
    let mut left = total as usize;
    while left > 0 {
        let want = left.min(BATCH_BYTES);
        // Not interrupted up to 256 bytes once the host's pool is initialized: getrandom(2).
        let got = match getrandom(&mut batch[..want], GetRandomFlags::empty()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        writer.write_all(&batch[..got])?;
        left -= got;
    }
    Ok(total)
}
