//! A queue of virtio-fs and the thread that serves it. Before it, the driver rang the doorbell; this takes every
//! request that is there, has the library's `Server` answer it, and interrupts the driver once for all of them.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use fuse_backend_rs::abi::fuse_abi::{InHeader, Opcode, OutHeader};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{ByteValued, Bytes};
use vmm_sys_util::eventfd::EventFd;

use super::server::CrxFs;
use super::sys;
use crate::{ActiveQueue, GuestMem, Interrupt};

/// The library keeps up to 512 buffers of a request on the heap; the stack holds little.
const STACK_BYTES: usize = 256 << 10;

/// A ring that the driver broke, or an interrupt that cannot be sent.
struct Broken;

/// A queue, and all that its requests need.
pub(super) struct QueueWorker {
    queue: Queue,
    kick: EventFd,
    memory: GuestMem,
    interrupt: Interrupt,
    server: Arc<Server<Arc<CrxFs>>>,
    files: Arc<CrxFs>,
    stop: Arc<AtomicBool>,
}

/// A started worker.
pub(super) struct Running {
    kick: EventFd,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Stops the worker after the request that it is at.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        // A full counter wakes the worker as well; and it does not panic.
        let _ = self.kick.write(1);
        let _ = self.thread.join();
    }
}

impl QueueWorker {
    /// A worker for one queue.
    pub(super) fn new(
        active: ActiveQueue,
        event_idx: bool,
        memory: GuestMem,
        interrupt: Interrupt,
        server: Arc<Server<Arc<CrxFs>>>,
        files: Arc<CrxFs>,
    ) -> Self {
        let ActiveQueue { mut queue, kick } = active;
        queue.set_event_idx(event_idx);
        Self { queue, kick, memory, interrupt, server, files, stop: Arc::default() }
    }

    /// Starts the thread.
    pub(super) fn start(self) -> io::Result<Running> {
        let (kick, stop) = (self.kick.try_clone()?, Arc::clone(&self.stop));
        let thread =
            Builder::new().name("crx-fs".to_owned()).stack_size(STACK_BYTES).spawn(move || self.run())?;
        Ok(Running { kick, stop, thread })
    }

    fn run(mut self) {
        if sys::prepare_thread(self.files.nodes.descriptors()).is_err() || self.serve().is_err() {
            self.interrupt.needs_reset();
        }
    }

    /// Requests may be there before the first doorbell, so the ring comes first.
    fn serve(&mut self) -> Result<(), Broken> {
        let memory = self.memory.clone();
        while !self.stop.load(Ordering::Acquire) {
            self.drain(&memory)?;
            self.wait().map_err(|_| Broken)?;
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        loop {
            match self.kick.read() {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The doorbell does not block by itself.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match poll(&mut [PollFd::from_borrowed_fd(sys::borrow(&self.kick), PollFlags::IN)], None)
                    {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers every request that is there, until there is none.
    fn drain(&mut self, memory: &GuestMem) -> Result<(), Broken> {
        loop {
            self.queue.disable_notification(memory).map_err(|_| Broken)?;
            let mut unannounced = false;
            while let Some(chain) = self.queue.iter(memory).map_err(|_| Broken)?.next() {
                if self.stop.load(Ordering::Acquire) {
                    return Ok(());
                }
                let header = header(memory, &chain);
                if unannounced && header.is_some_and(|header| may_take_long(header.opcode)) {
                    self.announce(memory)?;
                }
                let head = chain.head_index();
                let written = self.answer(memory, &chain, header)?;
                self.queue.add_used(memory, head, written).map_err(|_| Broken)?;
                unannounced = true;
            }
            if unannounced {
                self.announce(memory)?;
            }
            if !self.queue.enable_notification(memory).map_err(|_| Broken)? {
                return Ok(());
            }
        }
    }

    fn announce(&mut self, memory: &GuestMem) -> Result<(), Broken> {
        if self.queue.needs_notification(memory).map_err(|_| Broken)? {
            self.interrupt.used_buffers().map_err(|_| Broken)?;
        }
        Ok(())
    }

    /// Answers one request; returns the length of the reply.
    fn answer(
        &self,
        memory: &GuestMem,
        chain: &DescriptorChain<&GuestMem>,
        header: Option<InHeader>,
    ) -> Result<u32, Broken> {
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
