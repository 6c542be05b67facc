//! The threads of the VMM process that wait for something. Each turns what it hears into events of one channel,
//! which the main thread ([`super::control`]) reads.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use std::{io, thread};

use crx_proto::{FrameError, GuestMessage, ProcessId, frame};
use crx_virtio::vsock::GuestConnection;
use crx_vmm::{End, RunningVm};
use signal_hook::consts::signal;
use signal_hook::iterator::Signals;

use crate::runtime::channel::{self, Command};
use crate::runtime::{session, terminal};

/// How long a client may take to read what it asked for, before it counts as gone.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// Number of a client; the launcher is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientId(u64);

/// The process that started this one.
pub(super) const LAUNCHER: ClientId = ClientId(0);

/// Everything that the main thread waits for.
pub(super) enum Event {
    /// The guest opened a connection to this port of the host.
    Connected(u32, UnixStream),
    Guest(GuestMessage),
    GuestLost(FrameError),
    NewClient(ClientId, UnixStream),
    Command(ClientId, Box<Command>, Vec<OwnedFd>),
    ClientGone(ClientId),
    /// An output stream of a process that this process relays itself has ended.
    Relayed(ProcessId),
    /// This process's terminal has a new size.
    Resized,
    VmEnded(End),
}

/// The sending side of the events.
#[derive(Clone)]
pub(super) struct Events(Sender<Event>);

impl Events {
    pub(super) fn new() -> (Self, Receiver<Event>) {
        let (sender, receiver) = channel();
        (Self(sender), receiver)
    }

    /// Sends an event; `false` if the main thread has left already.
    pub(super) fn send(&self, event: Event) -> bool {
        self.0.send(event).is_ok()
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// Hears the launcher. When it goes before it released the pod, the process ends there and then, and gives the
/// terminal the mode back that it had. What is returned releases it.
pub(super) fn launcher(socket: UnixStream, events: &Events) -> io::Result<Arc<AtomicBool>> {
    socket.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let released = Arc::new(AtomicBool::new(false));
    let (events, is_released) = (events.clone(), released.clone());
    let terminal_mode = terminal::mode();
    spawn("crx-launcher", move || {
        // Said at once, here: the launcher may be gone before the main thread hears of its word.
        hear_client(&socket, LAUNCHER, &events, |command| {
            if matches!(command, Command::Release) {
                is_released.store(true, Ordering::SeqCst);
            }
        });
        if is_released.load(Ordering::SeqCst) {
            return;
        }
        session::end_with_launcher(terminal_mode.as_ref());
    })?;
    Ok(released)
}

/// Hears everybody who connects to the pod's socket, each on a thread of its own.
pub(super) fn clients(listener: UnixListener, events: &Events) -> io::Result<()> {
    let events = events.clone();
    spawn("crx-clients", move || {
        for (number, socket) in (LAUNCHER.0 + 1..).zip(listener.incoming()) {
            let Ok(socket) = socket else {
                // Out of descriptors, most likely: some may be free in a while.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            // A client that cannot be served is hung up on.
            let _ = new_client(ClientId(number), socket, &events);
        }
    })
}

fn new_client(id: ClientId, socket: UnixStream, events: &Events) -> io::Result<()> {
    socket.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let heard = socket.try_clone()?;
    let events = events.clone();
    if !events.send(Event::NewClient(id, socket)) {
        return Ok(());
    }
    spawn("crx-client", move || {
        hear_client(&heard, id, &events, |_| ());
        events.send(Event::ClientGone(id));
    })
}

/// Sends what a client says, until it goes; `notice` sees it first.
fn hear_client(socket: &UnixStream, id: ClientId, events: &Events, notice: impl Fn(&Command)) {
    while let Ok((command, descriptors)) = channel::receive(socket) {
        notice(&command);
        if !events.send(Event::Command(id, Box::new(command), descriptors)) {
            return;
        }
    }
}

/// Takes the guest's connections. The first is PID 1's control connection, as nothing else runs in the pod yet.
pub(super) fn guest_connections(accepted: Receiver<GuestConnection>, events: &Events) -> io::Result<()> {
    let events = events.clone();
    spawn("crx-accept", move || {
        for GuestConnection { port, stream } in accepted {
            if !events.send(Event::Connected(port, stream)) {
                return;
            }
        }
    })
}

/// Hears PID 1.
pub(super) fn guest(stream: UnixStream, events: &Events) -> io::Result<()> {
    // A PID 1 that takes no orders for so long is lost, and the pod with it.
    stream.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let events = events.clone();
    spawn("crx-guest", move || {
        loop {
            let event = match frame::read(&stream) {
                Ok(message) => Event::Guest(message),
                Err(error) => Event::GuestLost(error),
            };
            let last = matches!(event, Event::GuestLost(_));
            if !events.send(event) || last {
                return;
            }
        }
    })
}

/// Waits for the VM's end.
pub(super) fn vm_end(running: RunningVm, events: &Events) -> io::Result<()> {
    let events = events.clone();
    spawn("crx-watch", move || {
        events.send(Event::VmEnded(running.wait()));
    })
}

/// Hears when this process's terminal changes its size.
pub(super) fn window_changes(events: &Events) -> io::Result<()> {
    let events = events.clone();
    let mut signals = Signals::new([signal::SIGWINCH])?;
    spawn("crx-window", move || {
        for _ in signals.forever() {
            if !events.send(Event::Resized) {
                return;
            }
        }
    })
}
