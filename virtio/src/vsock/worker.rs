//! The thread `crx-vsock`: waits for kicks, clients and sockets, then takes packets, fills receive buffers and interrupts
//! the guest once for all of it. Before: [`super::device`] started it with the queues. It ends with the activation and
//! gives back what the next one needs.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use super::listener::Listener;
use super::muxer::{Epoll, Muxer};
use super::outbound::Filled;
use super::packet::parse;
use super::ring::{Ring, RingError, truncate};
use super::{GuestConnection, device::Queues, sys};
use crate::{ActiveQueue, GuestMem, Interrupt};

/// What the numbers in the epoll instance mean.
const STOP: u64 = 0;
const RX_KICK: u64 = 1;
const TX_KICK: u64 = 2;
const LISTENER: u64 = 3;
const FIRST_SOCKET: u64 = 4;

/// Events taken from the kernel at once.
const MAX_EVENTS: usize = 64;

/// Packets of the guest taken before receive buffers are looked at again.
const MAX_PACKETS: usize = 128;

/// Rounds of that many packets taken at a stop: more than the ring holds.
const MAX_LAST_ROUNDS: usize = 4;

/// How long a stop waits for readers on the host to take what the guest sent before: it may have powered off right
/// after its last write.
const LINGER: Duration = Duration::from_secs(2);

/// What outlives an activation.
pub(super) struct Parts {
    pub(super) listener: Option<UnixListener>,
    pub(super) guest_connections: Sender<GuestConnection>,
}

/// Everything of one activation.
pub(super) struct Worker {
    memory: GuestMem,
    interrupt: Interrupt,
    stop: EventFd,
    rx: Ring,
    tx: Ring,
    /// Nothing is ever sent there: its one event is for a guest that was moved (virtio 1.2, 5.10.6.7).
    event: ActiveQueue,
    epoll: Epoll,
    muxer: Muxer,
    listener: Option<Listener>,
    /// The guest may have packets in the ring.
    tx_pending: bool,
    /// The guest has no receive buffers; it kicks when it has.
    rx_starved: bool,
}

impl Worker {
    /// Makes the epoll instance of an activation.
    ///
    /// # Errors
    /// The kernel refused a descriptor or memory.
    pub(super) fn epoll(
        queues: &Queues,
        stop: &EventFd,
        listener: Option<&UnixListener>,
    ) -> io::Result<Epoll> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, sys::event_fd(stop), EventData::new_u64(STOP), EventFlags::IN)?;
        // Edges: the counters need not be read, every kick adds to them and wakes.
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, sys::event_fd(&queues.rx.kick), EventData::new_u64(RX_KICK), edge)?;
        epoll::add(&epoll, sys::event_fd(&queues.tx.kick), EventData::new_u64(TX_KICK), edge)?;
        if let Some(listener) = listener {
            epoll::add(&epoll, listener, EventData::new_u64(LISTENER), edge)?;
        }
        Ok(Arc::new(epoll))
    }

    pub(super) fn new(guest_cid: u64, queues: Queues, epoll: Epoll, stop: EventFd, parts: Parts) -> Self {
        let event_idx = queues.features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        Self {
            memory: queues.memory,
            interrupt: queues.interrupt,
            stop,
            rx: Ring::new(queues.rx, event_idx),
            tx: Ring::new(queues.tx, event_idx),
            event: queues.event,
            muxer: Muxer::new(guest_cid, parts.guest_connections, Arc::clone(&epoll), FIRST_SOCKET),
            epoll,
            listener: parts.listener.map(Listener::new),
            // The driver may have filled the rings before the kicks were watched.
            tx_pending: true,
            rx_starved: false,
        }
    }

    /// Runs until the device is stopped or the driver breaks a ring; gives back what it was started with.
    pub(super) fn run(mut self) -> (Parts, Vec<Queue>) {
        if self.serve().is_err() {
            self.interrupt.needs_reset();
        }
        let parts = Parts {
            listener: self.listener.map(|listener| listener.socket),
            guest_connections: self.muxer.into_guest_connections(),
        };
        (parts, vec![self.rx.into_queue(), self.tx.into_queue(), self.event.queue])
    }

    fn serve(&mut self) -> Result<(), RingError> {
        self.rx.no_kicks(&self.memory)?;
        loop {
            let pause = if self.has_work() { Some(Duration::ZERO) } else { None };
            if self.wait(pause) {
                return self.finish();
            }
            self.work()?;
        }
    }

    /// Something can go on without anybody's event.
    fn has_work(&self) -> bool {
        (self.tx_pending && !self.muxer.stalled())
            || (self.muxer.has_for_guest() && !self.rx_starved)
            || self.listener.as_ref().is_some_and(|listener| listener.pending)
    }

    /// Takes events; true if the device has to stop.
    fn wait(&mut self, timeout: Option<Duration>) -> bool {
        let none = Event { flags: EventFlags::empty(), data: EventData::new_u64(STOP) };
        let mut events = [none; MAX_EVENTS];
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // The only errors are EINTR and those of wrong arguments.
        let count = epoll::wait(&*self.epoll, &mut events, timeout.as_ref()).unwrap_or(0);
        let mut stopped = false;
        for event in &events[..count] {
            let (number, flags) = (event.data.u64(), event.flags);
            match number {
                STOP => stopped = true,
                RX_KICK => self.rx_starved = false,
                TX_KICK => self.tx_pending = true,
                _ => self.host_event(number, flags),
            }
        }
        stopped
    }

    fn host_event(&mut self, number: u64, flags: EventFlags) {
        if let Some(listener) = &mut self.listener {
            if number == LISTENER {
                listener.pending = true;
                return;
            }
            if listener.socket_event(number, flags.contains(EventFlags::HUP), &mut self.muxer) {
                return;
            }
        }
        self.muxer.socket_event(number, flags);
    }

    /// One round: clients, packets of the guest, packets for the guest, one interrupt.
    fn work(&mut self) -> Result<(), RingError> {
        if let Some(listener) = &mut self.listener
            && (listener.pending || listener.blocked)
        {
            listener.accept(&mut self.muxer, &self.epoll);
        }
        if self.tx_pending {
            self.take_packets()?;
        }
        if !self.rx_starved {
            self.fill_buffers()?;
        }
        let rx_due = self.rx.interrupt_due(&self.memory)?;
        if self.tx.interrupt_due(&self.memory)? || rx_due {
            // The irqfd is a counter: the write fails only at 2^64 - 1 interrupts that nobody took.
            let _ = self.interrupt.used_buffers();
        }
        Ok(())
    }

    fn take_packets(&mut self) -> Result<(), RingError> {
        for _ in 0..MAX_PACKETS {
            if self.muxer.stalled() {
                return Ok(());
            }
            let Some(chain) = self.tx.pop_readable(&self.memory)? else {
                self.tx_pending = self.tx.ask_for_kick(&self.memory)?;
                if self.tx_pending {
                    continue;
                }
                return Ok(());
            };
            let head = match chain {
                // Memory that is not there, or for the device to write: there is no packet to answer.
                Err(head) => head,
                Ok(mut chain) => {
                    if let Some(header) = chain.take_header() {
                        match parse(&header, self.muxer.guest_cid, chain.bytes()) {
                            Ok(packet) => {
                                truncate(&mut chain.slices, packet.payload_bytes);
                                self.muxer.packet(&packet, &chain.slices);
                            }
                            Err(refused) => self.muxer.refuse(refused),
                        }
                    }
                    chain.head
                }
            };
            self.tx.finish(&self.memory, head, 0)?;
        }
        Ok(())
    }

    fn fill_buffers(&mut self) -> Result<(), RingError> {
        while self.muxer.fill(&mut self.rx, &self.memory)? == Filled::Starved {
            if !self.rx.ask_for_kick(&self.memory)? {
                self.rx_starved = true;
                return Ok(());
            }
            self.rx.no_kicks(&self.memory)?;
        }
        Ok(())
    }

    /// The last round: what the guest put into the ring still counts, and readers on the host get a little time for it.
    fn finish(&mut self) -> Result<(), RingError> {
        self.listener = self.listener.take().map(|listener| Listener::new(listener.socket));
        // Stopped for good below, and always readable.
        let _ = epoll::delete(&*self.epoll, sys::event_fd(&self.stop));
        self.tx_pending = true;
        // A guest that goes on writing meanwhile is not waited for.
        for _ in 0..MAX_LAST_ROUNDS {
            if self.tx_pending && !self.muxer.stalled() {
                self.take_packets()?;
            }
        }
        let deadline = Instant::now() + LINGER;
        while self.muxer.has_backlog() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.wait(Some(left));
        }
        Ok(())
    }
}
