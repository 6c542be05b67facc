//! The queues of virtio-fs and the thread that serves them. Before it, the driver rang a doorbell; this takes every
//! request that is there, has the library's `Server` answer it, and interrupts the driver once for all of them.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use fuse_backend_rs::abi::fuse_abi::{InHeader, Opcode, OutHeader};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use rustix::io::Errno;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{ByteValued, Bytes};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::server::CrxFs;
use super::sys;
use crate::{ActivateError, Activation, ActiveQueue, GuestMem, Interrupt};

/// The library keeps up to 512 buffers of a request on the heap; the stack holds little.
const STACK_BYTES: usize = 256 << 10;

/// A ring that the driver broke, or an interrupt that cannot be sent.
struct Broken;

/// All queues, and all that their requests need.
pub(super) struct Worker {
    queues: Vec<ActiveQueue>,
    requests: Requests,
    stop: Arc<AtomicBool>,
}

/// What answers requests.
struct Requests {
    memory: GuestMem,
    interrupt: Interrupt,
    server: Arc<Server<Arc<CrxFs>>>,
    files: Arc<CrxFs>,
}

/// A started worker.
pub(super) struct Running {
    doorbell: EventFd,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Queue>>,
}

impl Running {
    /// Stops the worker after the request that it is at; gives back its queues.
    pub(super) fn stop(self) -> Vec<Queue> {
        self.stop.store(true, Ordering::Release);
        // Any doorbell wakes it; a counter that is full means that one rings already.
        let _ = self.doorbell.write(1);
        self.thread.join().unwrap_or_default()
    }
}

impl Worker {
    /// Starts the thread that serves the queues of an activation, which must not be empty.
    pub(super) fn start(
        activation: Activation,
        server: Arc<Server<Arc<CrxFs>>>,
        files: Arc<CrxFs>,
    ) -> Result<Running, ActivateError> {
        let Activation { memory, features, mut queues, interrupt } = activation;
        if let Some(missing) = queues.iter().position(|active| !active.queue.ready()) {
            return Err(ActivateError::QueueMissing(missing));
        }
        for active in &mut queues {
            active.queue.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        }
        let first = queues.first().ok_or(ActivateError::QueueMissing(0))?;
        let doorbell = first.kick.try_clone().map_err(ActivateError::Worker)?;
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Requests { memory, interrupt, server, files };
        let worker = Self { queues, requests, stop: Arc::clone(&stop) };
        let thread = Builder::new()
            .name("crx-fs".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || worker.run())
            .map_err(ActivateError::Worker)?;
        Ok(Running { doorbell, stop, thread })
    }

    fn run(mut self) -> Vec<Queue> {
        let ready = sys::prepare_thread(self.requests.files.nodes.descriptors());
        if ready.is_err() || self.serve().is_err() {
            self.requests.interrupt.needs_reset();
        }
        self.queues.into_iter().map(|active| active.queue).collect()
    }

    /// Serves until stopped. The doorbells are edge-triggered: one system call waits for the next ring of any, and
    /// none is needed to empty a counter. Requests may be there before the first ring, so the queues come first.
    fn serve(&mut self) -> Result<(), Broken> {
        let epoll = Epoll::new().map_err(|_| Broken)?;
        for active in &self.queues {
            let rings = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
            epoll.ctl(ControlOperation::Add, active.kick.as_raw_fd(), rings).map_err(|_| Broken)?;
        }
        let mut rung = [EpollEvent::default(); 2];
        while !self.stop.load(Ordering::Acquire) {
            for active in &mut self.queues {
                self.requests.drain(&mut active.queue, &self.stop)?;
            }
            match epoll.wait(-1, &mut rung) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(Broken),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Requests {
    /// Answers every request that is there, until there is none.
    fn drain(&self, queue: &mut Queue, stop: &AtomicBool) -> Result<(), Broken> {
        let memory = &self.memory;
        loop {
            queue.disable_notification(memory).map_err(|_| Broken)?;
            let mut unannounced = false;
            while let Some(chain) = queue.iter(memory).map_err(|_| Broken)?.next() {
                // A guest that never stops asking must not keep the device from being reset.
                if stop.load(Ordering::Acquire) {
                    return Ok(());
                }
                let header = header(memory, &chain);
                if unannounced && header.is_some_and(|header| may_take_long(header.opcode)) {
                    self.announce(queue)?;
                }
                let head = chain.head_index();
                let written = self.answer(&chain, header)?;
                queue.add_used(memory, head, written).map_err(|_| Broken)?;
                unannounced = true;
            }
            if unannounced {
                self.announce(queue)?;
            }
            if !queue.enable_notification(memory).map_err(|_| Broken)? {
                return Ok(());
            }
        }
    }

    fn announce(&self, queue: &mut Queue) -> Result<(), Broken> {
        if queue.needs_notification(&self.memory).map_err(|_| Broken)? {
            self.interrupt.used_buffers().map_err(|_| Broken)?;
        }
        Ok(())
    }

    /// Answers one request; returns the length of the reply.
    fn answer(&self, chain: &DescriptorChain<&GuestMem>, header: Option<InHeader>) -> Result<u32, Broken> {
        let memory = &self.memory;
        let reader = Reader::from_descriptor_chain(memory, chain.clone()).map_err(|_| Broken)?;
        let writer = VirtioFsWriter::new(memory, chain.clone()).map_err(|_| Broken)?;
        match self.server.handle_message(reader, Writer::VirtioFs(writer), None, None) {
            // The library does not count the reply to DESTROY.
            Ok(0) if header.is_some_and(|header| header.opcode == Opcode::Destroy as u32) => {
                Ok(size_of::<OutHeader>() as u32)
            }
            Ok(written) => Ok(written as u32),
            // A message that makes no sense: without an answer whoever sent it would wait for ever.
            Err(_) => {
                let mut writer = VirtioFsWriter::new(memory, chain.clone()).map_err(|_| Broken)?;
                let bytes = size_of::<OutHeader>() as u32;
                let reply = OutHeader {
                    len: bytes,
                    error: -Errno::INVAL.raw_os_error(),
                    unique: header.map_or(0, |header| header.unique),
                };
                Ok(writer.write_all(reply.as_slice()).map_or(0, |()| bytes))
            }
        }
    }
}

/// The header of a request, if its first buffer holds one.
fn header(memory: &GuestMem, chain: &DescriptorChain<&GuestMem>) -> Option<InHeader> {
    let first = chain.clone().next().filter(|first| !first.is_write_only())?;
    (first.len() as usize >= size_of::<InHeader>()).then(|| memory.read_obj(first.addr()).ok()).flatten()
}

/// Requests that wait for a disk: what was answered before them is announced first.
fn may_take_long(opcode: u32) -> bool {
    [Opcode::Fsync, Opcode::Fsyncdir, Opcode::Fallocate].iter().any(|slow| opcode == *slow as u32)
}
