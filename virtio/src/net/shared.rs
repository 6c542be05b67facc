//! What the registers, the host's port and the workers of a device share: the taps, the queues that no worker has, and
//! which of both belong together.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use virtio_queue::{Queue, QueueT};

use super::limit::Gate;
use super::mail::{Link, Mailbox};
use super::port::Tally;
use super::tap::Tap;
use super::vhost::Vhost;
use super::worker::Worker;
use super::{MAX_QUEUE_PAIRS, PlugError, control, ring};
use crate::{ActivateError, ActiveQueue, GuestMem, Interrupt};

/// Stack of a worker, which keeps frames elsewhere.
const STACK_BYTES: usize = 128 << 10;

/// Limits of both directions.
#[derive(Debug)]
pub(super) struct Gates {
    pub(super) rx: Gate,
    pub(super) tx: Gate,
}

/// A plugged tap.
#[derive(Debug)]
pub(super) struct Backend {
    taps: Vec<Arc<Tap>>,
    /// What carries each of them, if it is not the workers.
    vhosts: Vec<Arc<Vhost>>,
    gates: Arc<Gates>,
    /// How many of the queues, from the first on, get frames.
    attached: usize,
}

impl Backend {
    pub(super) fn new(taps: Vec<Tap>, vhosts: Vec<Vhost>, gates: Gates) -> Self {
        let attached = taps.len();
        let (taps, vhosts) = (taps.into_iter().map(Arc::new), vhosts.into_iter().map(Arc::new));
        Self { taps: taps.collect(), vhosts: vhosts.collect(), gates: Arc::new(gates), attached }
    }

    /// Has frames come to the first `pairs` queues only: nobody reads the others.
    fn attach(&mut self, pairs: usize) -> io::Result<()> {
        let wanted = pairs.clamp(1, self.taps.len());
        while self.attached != wanted {
            if self.attached < wanted {
                self.taps[self.attached].attach(true)?;
                self.attached += 1;
            } else {
                self.taps[self.attached - 1].attach(false)?;
                self.attached -= 1;
            }
        }
        Ok(())
    }

    /// What the worker of a pair gets. Every pair may send, over whichever queue of the tap.
    fn link(&self, pair: usize) -> Link {
        Link {
            tap: Arc::clone(&self.taps[pair % self.attached]),
            receives: pair < self.attached,
            // A pair that only sends does so over another's tap.
            vhost: self.vhosts.get(pair).filter(|_| pair < self.attached).cloned(),
            gates: Arc::clone(&self.gates),
        }
    }
}

/// A worker's thread.
struct Running {
    mailbox: Arc<Mailbox>,
    /// Gives back its queues, each with its number.
    thread: JoinHandle<Vec<(usize, ActiveQueue)>>,
}

/// An activation.
pub(super) struct Active {
    pub(super) memory: GuestMem,
    pub(super) interrupt: Interrupt,
    pub(super) features: u64,
    /// Queues that no worker has, each at its number.
    pub(super) queues: Vec<Option<ActiveQueue>>,
    /// Number of the control queue, if the driver has one.
    pub(super) control: Option<usize>,
    /// What frames the guest takes: bits as of the features VIRTIO_NET_F_GUEST_*.
    pub(super) offloads: u64,
    running: Vec<Running>,
    /// Pairs that the driver uses.
    pairs: usize,
}

impl Active {
    pub(super) fn new(
        memory: GuestMem,
        interrupt: Interrupt,
        features: u64,
        queues: Vec<ActiveQueue>,
        control: Option<usize>,
    ) -> Self {
        let queues = queues.into_iter().map(Some).collect();
        let offloads = features & control::GUEST_OFFLOADS;
        Self { memory, interrupt, features, queues, control, offloads, running: Vec::new(), pairs: 1 }
    }

    /// The pairs that the driver has used before, in the VM from whose snapshot it comes.
    fn pairs_in_use(&self) -> usize {
        let used = |index: usize| {
            Some(index) != self.control
                && self
                    .queues
                    .get(index)
                    .and_then(Option::as_ref)
                    .is_some_and(|active| ring::was_used(&active.queue, &self.memory))
        };
        (1..MAX_QUEUE_PAIRS)
            .rev()
            .find(|pair| used(2 * pair) || used(2 * pair + 1))
            .map_or(1, |pair| pair + 1)
    }

    /// Starts the workers of the first `pairs` pairs that have none.
    fn start(&mut self, shared: &Arc<Shared>, pairs: usize) -> Result<(), ActivateError> {
        for pair in self.running.len()..pairs {
            let control = self.control.filter(|_| pair == 0);
            let numbers = [Some(2 * pair), Some(2 * pair + 1), control];
            for number in numbers.into_iter().flatten() {
                let queue = self.queues.get(number).and_then(Option::as_ref);
                if !queue.is_some_and(|active| active.queue.ready()) {
                    return Err(ActivateError::QueueMissing(number));
                }
            }
            let mailbox = Arc::new(Mailbox::new().map_err(ActivateError::Worker)?);
            let worker = Worker {
                memory: self.memory.clone(),
                interrupt: self.interrupt.clone(),
                features: self.features,
                shared: Arc::clone(shared),
                mailbox: Arc::clone(&mailbox),
                queues: numbers.map(|number| number.and_then(|at| Some((at, self.queues[at].take()?)))),
            };
            let thread = thread::Builder::new()
                .name(format!("crx-net{pair}"))
                .stack_size(STACK_BYTES)
                .spawn(move || worker.run())
                .map_err(ActivateError::Worker)?;
            self.running.push(Running { mailbox, thread });
        }
        Ok(())
    }

    /// Stops the workers; gives back the queues in order, or none if one is lost.
    pub(super) fn stop(mut self) -> Vec<Queue> {
        for running in &self.running {
            running.mailbox.stop();
        }
        for running in self.running {
            for (number, active) in running.thread.join().into_iter().flatten() {
                self.queues[number] = Some(active);
            }
        }
        let queues: Option<Vec<_>> = self.queues.into_iter().collect();
        queues.into_iter().flatten().map(|active| active.queue).collect()
    }
}

#[derive(Default)]
struct State {
    backend: Option<Backend>,
    active: Option<Active>,
}

/// The shared part of a device.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) tally: Tally,
    /// The address that the driver has set, until it is reset.
    mac: Mutex<Option<[u8; 6]>>,
}

impl Shared {
    /// Starts the workers of an activation.
    pub(super) fn activate(self: &Arc<Self>, mut active: Active) -> Result<(), ActivateError> {
        let mut state = self.lock();
        let pairs = active.pairs_in_use();
        let started = active.start(self, pairs);
        active.pairs = pairs;
        // Kept even after a failure: the queues of workers that did start are given back by stop().
        state.active = Some(active);
        started?;
        state.apply_offloads().and_then(|()| state.apply_pairs(pairs)).map_err(ActivateError::Worker)?;
        state.send_links();
        Ok(())
    }

    /// Ends the activation, if there is one. The caller stops it: its workers may need the lock until they end.
    pub(super) fn deactivate(&self) -> Option<Active> {
        let mut state = self.lock();
        *self.lock_mac() = None;
        state.active.take()
    }

    pub(super) fn plug(&self, backend: Backend) -> Result<(), PlugError> {
        let mut state = self.lock();
        if state.backend.is_some() {
            return Err(PlugError::Occupied);
        }
        state.backend = Some(backend);
        let pairs = state.active.as_ref().map_or(1, |active| active.pairs);
        if let Err(error) = state.apply_offloads().and_then(|()| state.apply_pairs(pairs)) {
            state.backend = None;
            return Err(PlugError::Setting(error));
        }
        state.send_links();
        Ok(())
    }

    pub(super) fn is_plugged(&self) -> bool {
        self.lock().backend.is_some()
    }

    pub(super) fn unplug(&self) {
        let mut state = self.lock();
        state.backend = None;
        state.send_links();
    }

    /// The driver wants to use so many pairs. `None` after the end of the activation.
    pub(super) fn set_pairs(self: &Arc<Self>, pairs: usize) -> Option<bool> {
        let mut state = self.lock();
        let taps = state.backend.as_ref().map_or(MAX_QUEUE_PAIRS, |backend| backend.taps.len());
        let active = state.active.as_mut()?;
        if !(1..=taps).contains(&pairs) || active.start(self, pairs).is_err() {
            return Some(false);
        }
        let done = state.apply_pairs(pairs).is_ok();
        if done && let Some(active) = &mut state.active {
            active.pairs = pairs;
        }
        state.send_links();
        Some(done)
    }

    /// The driver wants frames of these kinds. `None` after the end of the activation.
    pub(super) fn set_offloads(&self, offloads: u64) -> Option<bool> {
        let mut state = self.lock();
        let active = state.active.as_mut()?;
        if offloads & !(active.features & control::GUEST_OFFLOADS) != 0 {
            return Some(false);
        }
        let before = std::mem::replace(&mut active.offloads, offloads);
        let done = state.apply_offloads().is_ok();
        if !done && let Some(active) = &mut state.active {
            active.offloads = before;
        }
        Some(done)
    }

    /// The address that the driver has set.
    pub(super) fn mac(&self) -> Option<[u8; 6]> {
        *self.lock_mac()
    }

    /// The driver sets its address. `None` after the end of the activation.
    pub(super) fn set_mac(&self, mac: [u8; 6]) -> Option<()> {
        let state = self.lock();
        state.active.as_ref()?;
        *self.lock_mac() = Some(mac);
        Some(())
    }

    fn lock_mac(&self) -> MutexGuard<'_, Option<[u8; 6]>> {
        self.mac.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells the tap what frames the guest takes: its queues share the setting.
    fn apply_offloads(&self) -> io::Result<()> {
        match (&self.backend, &self.active) {
            (Some(backend), Some(active)) => backend.taps[0].set_offloads(active.offloads),
            (Some(backend), None) => backend.taps[0].set_offloads(0),
            (None, _) => Ok(()),
        }
    }

    fn apply_pairs(&mut self, pairs: usize) -> io::Result<()> {
        self.backend.as_mut().map_or(Ok(()), |backend| backend.attach(pairs))
    }

    /// Tells each worker what it works for.
    fn send_links(&self) {
        for (pair, running) in self.active.iter().flat_map(|active| active.running.iter().enumerate()) {
            running.mailbox.link(self.backend.as_ref().map(|backend| backend.link(pair)));
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("tally", &self.tally).finish_non_exhaustive()
    }
}
