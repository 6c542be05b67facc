//! All connections of the guest: a packet finds its connection by its ports, an event of a socket by the connection's
//! number. Before: [`super::worker`] took the packet from the ring. Next: [`super::connection`], and [`super::outbound`]
//! for everything that goes to the guest.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::GuestConnection;
use super::connection::{Connection, End, Violation};
use super::packet::{Incoming, Op, Ports, Refused, Reset};
use crate::slice::GuestSlice;

/// Connections at the same time, as many as other VMMs allow; each costs the host a descriptor or two.
pub(super) const MAX_CONNECTIONS: usize = 1023;

/// Bytes that one connection may hold for a slow reader: what Linux gives its own sockets by default
/// (VIRTIO_VSOCK_DEFAULT_BUF_SIZE, 256 KiB).
pub(super) const BUFFER_BYTES: u32 = 256 << 10;

/// The same once [`MAX_PROMISED_BYTES`] are promised.
const SMALL_BUFFER_BYTES: u32 = 16 << 10;

/// Bytes promised to connections in full-sized buffers. With the small ones of all others, the most that a guest can make
/// this process hold is 32 MiB.
const MAX_PROMISED_BYTES: u32 = 16 << 20;

/// Resets for no connection that wait for a receive buffer. When they are full the worker leaves packets of the guest in
/// the ring, which the device may (virtio 1.2, 5.10.6.1.2).
const MAX_RESETS: usize = 256;

/// Host ports of connections that clients open start here, as in Firecracker, well above those that anyone listens on.
const FIRST_CLIENT_PORT: u32 = 1 << 30;

/// The epoll instance that everything of one activation is in.
pub(super) type Epoll = Arc<OwnedFd>;

/// Connections by number and by ports.
pub(super) struct Muxer {
    pub(super) guest_cid: u64,
    pub(super) connections: HashMap<u64, Connection>,
    /// Connections with something for the guest, each once, in turn.
    pub(super) ready: VecDeque<u64>,
    pub(super) resets: VecDeque<Reset>,
    guest_connections: Sender<GuestConnection>,
    by_ports: HashMap<Ports, u64>,
    epoll: Epoll,
    next_number: u64,
    next_client_port: u32,
    promised_bytes: u32,
}

impl Muxer {
    /// `first_number` and those above it become the numbers of sockets in `epoll`.
    pub(super) fn new(
        guest_cid: u64,
        guest_connections: Sender<GuestConnection>,
        epoll: Epoll,
        first_number: u64,
    ) -> Self {
        Self {
            guest_cid,
            connections: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            guest_connections,
            by_ports: HashMap::new(),
            epoll,
            next_number: first_number,
            next_client_port: FIRST_CLIENT_PORT,
            promised_bytes: 0,
        }
    }

    pub(super) fn into_guest_connections(self) -> Sender<GuestConnection> {
        self.guest_connections
    }

    /// A number that no socket had before.
    pub(super) fn new_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// No more packets can be taken until the guest took resets.
    pub(super) fn stalled(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// Something waits for receive buffers.
    pub(super) fn has_for_guest(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    pub(super) fn refuse(&mut self, refused: Refused) {
        if let Refused::Reset(reset) = refused {
            self.resets.push_back(reset);
        }
    }

    /// A packet of the guest.
    pub(super) fn packet(&mut self, packet: &Incoming, payload: &[GuestSlice<'_>]) {
        let ports = packet.ports;
        let Some(&number) = self.by_ports.get(&ports) else {
            return match packet.op {
                Op::Request => self.open_for_guest(packet),
                Op::Reset => {}
                _ => self.resets.push_back(Reset::new(ports)),
            };
        };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if packet.op == Op::Reset {
            self.release(number);
            return;
        }
        connection.guest_says(packet.buf_alloc, packet.fwd_cnt);
        let result = match packet.op {
            Op::Response => connection.response(),
            Op::Shutdown(flags) => connection.shutdown(flags),
            Op::Data => connection.deliver(payload, packet.payload_bytes),
            Op::CreditUpdate => Ok(()),
            Op::CreditRequest => {
                connection.credit_request();
                Ok(())
            }
            // The ports are in use.
            Op::Request | Op::Reset => Err(Violation),
        };
        match result {
            Ok(()) => self.settle(number),
            Err(Violation) => {
                self.resets.push_back(Reset::new(ports));
                self.release(number);
            }
        }
    }

    fn open_for_guest(&mut self, packet: &Incoming) {
        if self.try_open_for_guest(packet).is_none() {
            self.resets.push_back(Reset::new(packet.ports));
        }
    }

    /// `None` if it cannot be: too many connections, no descriptor left, nobody to take it.
    fn try_open_for_guest(&mut self, packet: &Incoming) -> Option<()> {
        let buf_alloc = self.grant()?;
        let (ours, stream) = UnixStream::pair().ok()?;
        let number = self.new_number();
        watch(&self.epoll, &ours, number).ok()?;
        self.guest_connections.send(GuestConnection { port: packet.ports.host, stream }).ok()?;
        let mut connection = Connection::of_guest(packet.ports, ours, buf_alloc);
        connection.guest_says(packet.buf_alloc, packet.fwd_cnt);
        self.insert(number, connection);
        Some(())
    }

    /// A client of the host, already in the epoll instance under `number`, wants a port of the guest. It is dropped, and
    /// so closed, if that cannot be.
    pub(super) fn open_for_client(&mut self, number: u64, socket: UnixStream, guest_port: u32) {
        let Some(buf_alloc) = self.grant() else { return };
        let ports = loop {
            let ports = Ports { guest: guest_port, host: self.next_client_port };
            self.next_client_port = match self.next_client_port.checked_add(1) {
                Some(port) if port < u32::MAX => port,
                _ => FIRST_CLIENT_PORT,
            };
            // There are far fewer connections than ports.
            if !self.by_ports.contains_key(&ports) {
                break ports;
            }
        };
        self.insert(number, Connection::of_client(ports, socket, buf_alloc));
    }

    /// The buffer of one more connection, if there may be one.
    fn grant(&self) -> Option<u32> {
        if self.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        let room = self.promised_bytes + BUFFER_BYTES <= MAX_PROMISED_BYTES;
        Some(if room { BUFFER_BYTES } else { SMALL_BUFFER_BYTES })
    }

    fn insert(&mut self, number: u64, connection: Connection) {
        self.promised_bytes += connection.buf_alloc();
        self.by_ports.insert(connection.ports, number);
        self.connections.insert(number, connection);
        self.settle(number);
    }

    /// A socket has news.
    pub(super) fn socket_event(&mut self, number: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.socket_event(
            flags.intersects(EventFlags::IN | EventFlags::ERR),
            flags.intersects(EventFlags::OUT | EventFlags::ERR),
            flags.contains(EventFlags::HUP),
        );
        self.settle(number);
    }

    /// After every change of a connection: ends it, watches its socket as needed, puts it on the list.
    pub(super) fn settle(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if let Some(end) = connection.end() {
            if end == End::Reset {
                self.resets.push_back(Reset::new(connection.ports));
            }
            self.remove(number);
            return;
        }
        let room = connection.wants_room();
        if room != connection.watched_for_room {
            let flags = if room { READS | EventFlags::OUT } else { READS };
            // It fails only without kernel memory. The backlog then waits for the next event of this socket.
            let changed = epoll::modify(&*self.epoll, &connection.socket, EventData::new_u64(number), flags);
            if changed.is_ok() {
                connection.watched_for_room = room;
            }
        }
        if !connection.queued && connection.next().is_some() {
            connection.queued = true;
            self.ready.push_back(number);
        }
    }

    /// The guest has nothing to do with a connection any more; its ports are free again.
    fn release(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        self.by_ports.remove(&connection.ports);
        connection.linger();
        self.settle(number);
    }

    fn remove(&mut self, number: u64) {
        let Some(connection) = self.connections.remove(&number) else { return };
        self.promised_bytes -= connection.buf_alloc();
        // A connection that lingered does not own its ports; another may.
        if self.by_ports.get(&connection.ports) == Some(&number) {
            self.by_ports.remove(&connection.ports);
        }
    }

    /// Bytes of the guest wait for the host to read them.
    pub(super) fn has_backlog(&self) -> bool {
        self.connections.values().any(Connection::wants_room)
    }
}

/// Edges only: a level would wake the worker for ever while the guest has no room.
const READS: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// Watches a socket for reading; hang-ups are always reported.
///
/// # Errors
/// As epoll_ctl(2).
pub(super) fn watch(epoll: &OwnedFd, socket: &UnixStream, number: u64) -> io::Result<()> {
    Ok(epoll::add(epoll, socket, EventData::new_u64(number), READS)?)
}
