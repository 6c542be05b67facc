//! The threads `crx-net0` and on, one for each queue pair in use: wait for kicks and the tap, move frames in both
//! directions, interrupt the guest once for all of them. The first also answers the driver's commands. Before:
//! [`super::shared`] started it with the queues, which it gives back at its end. While the host's kernel carries a pair's
//! frames ([`super::vhost`]), its thread sleeps but for commands.
//!
//! Everything is watched for edges: nothing is read to make a doorbell quiet, and a tap with frames for which the guest
//! has no buffers costs nothing.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::control::Control;
use super::limit::Gate;
use super::mail::{Link, Mailbox, Stop};
use super::ring::{Ring, RingError};
use super::rx::{Received, Rx};
use super::shared::Shared;
use super::tx::{Sent, Tx};
use super::vhost::Carried;
use crate::{ActiveQueue, GuestMem, Interrupt};

/// Frames moved in one direction before the other has its turn and the guest is interrupted.
const MAX_FRAMES: usize = 256;

/// What the numbers in the epoll instance mean.
const MAIL: u64 = 0;
const RX_KICK: u64 = 1;
const TX_KICK: u64 = 2;
const CONTROL_KICK: u64 = 3;
const TAP: u64 = 4;
const VHOST_ERROR: u64 = 5;

/// Events taken at once: all that there are.
const MAX_EVENTS: usize = 6;

/// Everything that a worker is started with.
pub(super) struct Worker {
    pub(super) memory: GuestMem,
    pub(super) interrupt: Interrupt,
    pub(super) features: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: Arc<Mailbox>,
    /// Receive, transmit, and control for the first; each with its number.
    pub(super) queues: [Option<(usize, ActiveQueue)>; 3],
}

impl Worker {
    /// Runs until it is stopped or the driver breaks a ring; gives back its queues.
    pub(super) fn run(self) -> Vec<(usize, ActiveQueue)> {
        let Self { memory, interrupt, features, shared, mailbox, queues } = self;
        let [Some((rx_number, rx)), Some((tx_number, tx)), control] = queues else { return Vec::new() };
        let epoll = watch(&mailbox, control.as_ref().map(|(_, active)| active));
        let mergeable = features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        let rx = Rx::new(Ring::new(&memory, rx), mergeable);
        let tx = Tx::new(Ring::new(&memory, tx));
        let (control_number, control) = control.unzip();
        let control = control
            .map(|active| Control::new(Ring::new(&memory, active), &memory, Arc::clone(&shared), features));
        let mut pair = Pair {
            rx: Way::new(rx),
            tx: Way::new(tx),
            control: control.map(Way::new),
            link: None,
            carrier: Carrier::Worker,
            memory: &memory,
            features,
            interrupt: &interrupt,
            shared: &shared,
        };
        let served = epoll.map_err(|_| Broken).and_then(|epoll| {
            let served = pair.serve(&epoll, &mailbox);
            pair.take_back(&epoll).and(served)
        });
        if served.is_err() {
            interrupt.needs_reset();
        }
        let mut queues =
            vec![(rx_number, pair.rx.queue.into_active()), (tx_number, pair.tx.queue.into_active())];
        queues.extend(control_number.zip(pair.control.map(|control| control.queue.into_active())));
        queues
    }
}

/// The driver broke a ring, or the kernel refused to watch.
struct Broken;

impl From<RingError> for Broken {
    fn from(_: RingError) -> Self {
        Self
    }
}

/// The epoll instance of a worker, for what it hears whoever carries the frames.
fn watch(mailbox: &Mailbox, control: Option<&ActiveQueue>) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    add(&epoll, mailbox.bell.as_raw_fd(), EventSet::IN, MAIL)?;
    if let Some(active) = control {
        add(&epoll, active.kick.as_raw_fd(), EventSet::IN, CONTROL_KICK)?;
    }
    Ok(epoll)
}

fn add(epoll: &Epoll, fd: RawFd, events: EventSet, number: u64) -> io::Result<()> {
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events | EventSet::EDGE_TRIGGERED, number))
}

/// A descriptor that is not watched is fine. One that is has to be taken out: it may be open elsewhere, and closing it would
/// not end the watch.
fn remove(epoll: &Epoll, fd: RawFd) {
    let _ = epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
}

/// Who moves the frames of a pair.
enum Carrier {
    Worker,
    Vhost(Carried),
}

/// A queue, and what is known of both its ends. There may be something until it was looked at.
struct Way<Q> {
    queue: Q,
    /// The guest may have something in the ring.
    guest_ready: bool,
    /// The tap may have a frame or room for one.
    tap_ready: bool,
    /// Not before then, because of a limit.
    not_before: Option<Instant>,
}

impl<Q> Way<Q> {
    fn new(queue: Q) -> Self {
        Self { queue, guest_ready: true, tap_ready: true, not_before: None }
    }

    /// Whether a frame may move now; asks the clock only where there is a limit.
    fn open(&mut self, gate: &Gate) -> bool {
        if !self.guest_ready || !self.tap_ready {
            return false;
        }
        self.not_before = None;
        if gate.is_limited() {
            let now = Instant::now();
            let wait = gate.wait(now);
            self.not_before = (!wait.is_zero()).then(|| now + wait);
        }
        self.not_before.is_none()
    }

    /// How long this can wait: for ever, for a limit, or not at all.
    fn pause(&self, now: Instant) -> Option<Duration> {
        (self.guest_ready && self.tap_ready)
            .then(|| self.not_before.map_or(Duration::ZERO, |then| then.saturating_duration_since(now)))
    }
}

/// The two ways of a pair, and commands.
struct Pair<'m> {
    rx: Way<Rx<'m>>,
    tx: Way<Tx<'m>>,
    control: Option<Way<Control<'m>>>,
    link: Option<Link>,
    carrier: Carrier,
    memory: &'m GuestMem,
    features: u64,
    interrupt: &'m Interrupt,
    shared: &'m Shared,
}

impl Pair<'_> {
    fn serve(&mut self, epoll: &Epoll, mailbox: &Mailbox) -> Result<(), Broken> {
        self.begin(epoll)?;
        // Links sent before the first wait.
        let Ok(()) = self.read_mail(epoll, mailbox)? else { return Ok(()) };
        loop {
            if self.wait(epoll)? {
                let Ok(()) = self.read_mail(epoll, mailbox)? else { return Ok(()) };
            }
            if matches!(self.carrier, Carrier::Worker) {
                self.receive()?;
                self.send()?;
            }
            let mut due = self.rx.queue.interrupt_due()?;
            due |= self.tx.queue.interrupt_due()?;
            if let Some(control) = &mut self.control {
                if control.guest_ready {
                    control.guest_ready = !control.queue.answer()?;
                }
                due |= control.queue.interrupt_due()?;
            }
            if due {
                // The irqfd is a counter: the write fails only at 2^64 - 1 interrupts that nobody took.
                let _ = self.interrupt.used_buffers();
            }
        }
    }

    /// Waits until there is something to do; true if there is mail.
    fn wait(&mut self, epoll: &Epoll) -> Result<bool, Broken> {
        let timeout = self.pause().map_or(-1, |pause| {
            // Up to the next millisecond: a limit is not passed before its time.
            i32::try_from(pause.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        let mut events = [EpollEvent::default(); MAX_EVENTS];
        let count = match epoll.wait(timeout, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other.map_err(|_| Broken)?,
        };
        let (mut mail, mut failed) = (false, false);
        for event in &events[..count] {
            match event.data() {
                MAIL => mail = true,
                VHOST_ERROR => failed = true,
                RX_KICK => self.rx.guest_ready = true,
                TX_KICK => self.tx.guest_ready = true,
                CONTROL_KICK => self.control.iter_mut().for_each(|control| control.guest_ready = true),
                _ => {
                    let readable = EventSet::IN | EventSet::ERROR | EventSet::HANG_UP;
                    self.rx.tap_ready |= event.event_set().intersects(readable);
                    self.tx.tap_ready |= event.event_set().contains(EventSet::OUT);
                }
            }
        }
        if failed {
            // The worker goes on, and says what is wrong with the ring if the driver broke it.
            self.take_back(epoll)?;
            self.watch_tap(epoll)?;
        }
        Ok(mail)
    }

    /// How long there is nothing to do without anybody's event; `None` for ever.
    fn pause(&self) -> Option<Duration> {
        if self.control.as_ref().is_some_and(|control| control.guest_ready) {
            return Some(Duration::ZERO);
        }
        if matches!(self.carrier, Carrier::Vhost(_)) {
            return None;
        }
        let now = Instant::now();
        let receives = self.link.as_ref().is_some_and(|link| link.receives);
        let rx = if receives { self.rx.pause(now) } else { None };
        rx.into_iter().chain(self.tx.pause(now)).min()
    }

    /// Takes a new link; an error inside if the worker is to end.
    fn read_mail(&mut self, epoll: &Epoll, mailbox: &Mailbox) -> Result<Result<(), Stop>, Broken> {
        let link = match mailbox.read() {
            Ok(link) => link,
            Err(stop) => return Ok(Err(stop)),
        };
        self.take_back(epoll)?;
        if let Some(old) = self.link.take() {
            remove(epoll, old.tap.as_raw_fd());
        }
        self.link = link;
        if !self.hand_over(epoll)? {
            self.watch_tap(epoll)?;
        }
        Ok(Ok(()))
    }

    /// The worker is about to carry the frames: hears the guest's doorbells, once they are asked for.
    fn begin(&mut self, epoll: &Epoll) -> Result<(), Broken> {
        self.rx.queue.begin()?;
        self.tx.queue.begin()?;
        for (ring, number) in [(self.rx.queue.ring(), RX_KICK), (self.tx.queue.ring(), TX_KICK)] {
            add(epoll, ring.active().kick.as_raw_fd(), EventSet::IN, number).map_err(|_| Broken)?;
        }
        self.rx.guest_ready = true;
        self.tx.guest_ready = true;
        Ok(())
    }

    /// The worker carries the frames of the link, if there is one.
    fn watch_tap(&mut self, epoll: &Epoll) -> Result<(), Broken> {
        if let Some(link) = &self.link {
            let events = if link.receives { EventSet::IN | EventSet::OUT } else { EventSet::OUT };
            add(epoll, link.tap.as_raw_fd(), events, TAP).map_err(|_| Broken)?;
        }
        self.rx.tap_ready = true;
        self.tx.tap_ready = true;
        self.rx.not_before = None;
        self.tx.not_before = None;
        Ok(())
    }

    /// Has the kernel carry the frames of the link, if it shall and will.
    fn hand_over(&mut self, epoll: &Epoll) -> Result<bool, Broken> {
        let Some(Link { tap, vhost: Some(vhost), .. }) = &self.link else { return Ok(false) };
        let rings = [self.rx.queue.ring().active(), self.tx.queue.ring().active()];
        let prepared = Carried::new(Arc::clone(vhost), self.memory, self.features, self.interrupt, rings);
        let Ok(carried) = prepared else { return Ok(false) };
        for ring in rings {
            remove(epoll, ring.kick.as_raw_fd());
        }
        let started = add(epoll, carried.errors(), EventSet::IN, VHOST_ERROR).and_then(|()| carried.run(tap));
        self.carrier = Carrier::Vhost(carried);
        if started.is_err() {
            self.take_back(epoll)?;
        }
        Ok(started.is_ok())
    }

    /// Has the worker carry the frames again, if the kernel does.
    fn take_back(&mut self, epoll: &Epoll) -> Result<(), Broken> {
        let Carrier::Vhost(carried) = std::mem::replace(&mut self.carrier, Carrier::Worker) else {
            return Ok(());
        };
        remove(epoll, carried.errors());
        let [rx, tx] = carried.take_back().map_err(|_| Broken)?;
        self.rx.queue.ring().go_on(rx)?;
        self.tx.queue.ring().go_on(tx)?;
        self.begin(epoll)
    }

    fn receive(&mut self) -> Result<(), RingError> {
        let Some(link) = self.link.as_ref().filter(|link| link.receives) else { return Ok(()) };
        for _ in 0..MAX_FRAMES {
            if !self.rx.open(&link.gates.rx) {
                break;
            }
            match self.rx.queue.receive(&link.tap)? {
                Received::Frame(bytes) => {
                    count(&self.shared.tally.rx_frames);
                    passed(&link.gates.rx, bytes);
                }
                Received::Dropped => count(&self.shared.tally.rx_dropped),
                Received::Empty => self.rx.tap_ready = false,
                Received::Starved => self.rx.guest_ready = false,
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), RingError> {
        let tap = self.link.as_ref().map(|link| &*link.tap);
        for _ in 0..MAX_FRAMES {
            let open = match &self.link {
                Some(link) => self.tx.open(&link.gates.tx),
                None => self.tx.guest_ready,
            };
            if !open {
                break;
            }
            match self.tx.queue.send(tap)? {
                Sent::Frame(bytes) => {
                    count(&self.shared.tally.tx_frames);
                    if let Some(link) = &self.link {
                        passed(&link.gates.tx, bytes);
                    }
                }
                Sent::Dropped => count(&self.shared.tally.tx_dropped),
                Sent::Full => self.tx.tap_ready = false,
                Sent::Empty => self.tx.guest_ready = false,
            }
        }
        Ok(())
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A limit counts the frame as it is on the wire, without our header.
fn passed(gate: &Gate, bytes: usize) {
    if gate.is_limited() {
        gate.passed(bytes - super::HEADER_BYTES, Instant::now());
    }
}
