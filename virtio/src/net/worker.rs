//! The threads `crx-net0` and on, one for each queue pair in use: wait for kicks and the tap, move frames in both
//! directions, interrupt the guest once for all of them. The first also answers the driver's commands. Before:
//! [`super::shared`] started it with the queues, which it gives back at its end.
//!
//! Everything is watched for edges: nothing is read to make a doorbell quiet, and a tap with frames for which the guest
//! has no buffers costs nothing.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::control::Control;
use super::limit::Gate;
use super::ring::{Ring, RingError};
use super::rx::{Received, Rx};
use super::shared::{Gates, Shared};
use super::tap::Tap;
use super::tx::{Sent, Tx};
use crate::{ActiveQueue, GuestMem, Interrupt};

/// Frames moved in one direction before the other has its turn and the guest is interrupted.
const MAX_FRAMES: usize = 256;

/// What the numbers in the epoll instance mean.
const MAIL: u64 = 0;
const RX_KICK: u64 = 1;
const TX_KICK: u64 = 2;
const CONTROL_KICK: u64 = 3;
const TAP: u64 = 4;

/// Events taken at once: all that there are.
const MAX_EVENTS: usize = 5;

/// What a worker works for.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) tap: Arc<Tap>,
    /// The tap's frames come here, too.
    pub(super) receives: bool,
    pub(super) gates: Arc<Gates>,
}

#[derive(Default)]
struct Mail {
    stop: bool,
    link: Option<Link>,
}

/// What a worker is told.
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    bell: EventFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { mail: Mutex::default(), bell: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)? })
    }

    /// Has the worker end.
    pub(super) fn stop(&self) {
        self.put(|mail| mail.stop = true);
    }

    /// Gives it a tap, or none.
    pub(super) fn link(&self, link: Option<Link>) {
        self.put(|mail| mail.link = link);
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
        // The counter would be full after 2^64 letters.
        let _ = self.bell.write(1);
    }

    /// The link as it is now; an error if the worker is to end.
    fn read(&self) -> Result<Option<Link>, Stop> {
        let mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        if mail.stop { Err(Stop) } else { Ok(mail.link.clone()) }
    }
}

struct Stop;

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
        let kicks = [Some(&rx), Some(&tx), control.as_ref().map(|(_, active)| active)]
            .map(|active| active.map(|active| active.kick.as_raw_fd()));
        let epoll = watch(mailbox.bell.as_raw_fd(), kicks);
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
            shared: &shared,
        };
        let served = epoll.map_err(|_| Broken).and_then(|epoll| pair.serve(&epoll, &mailbox, &interrupt));
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

/// The epoll instance of a worker.
fn watch(bell: RawFd, kicks: [Option<RawFd>; 3]) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
    epoll.ctl(ControlOperation::Add, bell, EpollEvent::new(edge, MAIL))?;
    for (number, kick) in [RX_KICK, TX_KICK, CONTROL_KICK].into_iter().zip(kicks) {
        if let Some(kick) = kick {
            epoll.ctl(ControlOperation::Add, kick, EpollEvent::new(edge, number))?;
        }
    }
    Ok(epoll)
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
    shared: &'m Shared,
}

impl Pair<'_> {
    fn serve(&mut self, epoll: &Epoll, mailbox: &Mailbox, interrupt: &Interrupt) -> Result<(), Broken> {
        self.rx.queue.begin()?;
        self.tx.queue.begin()?;
        // Links sent before the first wait.
        let Ok(()) = self.read_mail(epoll, mailbox)? else { return Ok(()) };
        loop {
            if self.wait(epoll)? {
                let Ok(()) = self.read_mail(epoll, mailbox)? else { return Ok(()) };
            }
            self.receive()?;
            self.send()?;
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
                let _ = interrupt.used_buffers();
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
        let mut mail = false;
        for event in &events[..count] {
            match event.data() {
                MAIL => mail = true,
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
        Ok(mail)
    }

    /// How long there is nothing to do without anybody's event; `None` for ever.
    fn pause(&self) -> Option<Duration> {
        if self.control.as_ref().is_some_and(|control| control.guest_ready) {
            return Some(Duration::ZERO);
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
        if let Some(old) = self.link.take() {
            // The descriptor may be open elsewhere: closing it would not end the watch.
            let _ = epoll.ctl(ControlOperation::Delete, old.tap.as_raw_fd(), EpollEvent::default());
        }
        if let Some(new) = &link {
            let mut events = EventSet::OUT | EventSet::EDGE_TRIGGERED;
            if new.receives {
                events |= EventSet::IN;
            }
            let event = EpollEvent::new(events, TAP);
            epoll.ctl(ControlOperation::Add, new.tap.as_raw_fd(), event).map_err(|_| Broken)?;
        }
        self.link = link;
        self.rx.tap_ready = true;
        self.tx.tap_ready = true;
        self.rx.not_before = None;
        self.tx.not_before = None;
        Ok(Ok(()))
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
