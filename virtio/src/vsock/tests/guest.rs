//! Sockets of a guest over the driver, with the habits of Linux: credit updates when half of the buffer was read, a
//! reset for what is unknown and for a shutdown of both directions.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixListener;

use super::driver::{Driver, GUEST_CID};

pub(super) const REQUEST: u16 = 1;
pub(super) const RESPONSE: u16 = 2;
pub(super) const RST: u16 = 3;
pub(super) const SHUTDOWN: u16 = 4;
pub(super) const RW: u16 = 5;
pub(super) const CREDIT_UPDATE: u16 = 6;
pub(super) const CREDIT_REQUEST: u16 = 7;

/// Guest and host port.
pub(super) type Ports = (u32, u32);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Packet {
    /// A good packet of the guest.
    pub(super) fn new(ports: Ports, op: u16) -> Self {
        Self {
            src_cid: GUEST_CID,
            dst_cid: 2,
            src_port: ports.0,
            dst_port: ports.1,
            len: 0,
            kind: 1,
            op,
            flags: 0,
            buf_alloc: 1 << 18,
            fwd_cnt: 0,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        for word in [self.src_port, self.dst_port, self.len] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        for word in [self.flags, self.buf_alloc, self.fwd_cnt] {
            bytes.extend(word.to_le_bytes());
        }
        assert_eq!(bytes.len(), 44);
        bytes
    }

    /// A packet of the device.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            src_cid: long(0),
            dst_cid: long(8),
            src_port: word(16),
            dst_port: word(20),
            len: word(24),
            kind: word(28) as u16,
            op: (word(28) >> 16) as u16,
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        }
    }
}

#[derive(Default)]
pub(super) struct Socket {
    pub(super) connected: bool,
    pub(super) reset: bool,
    /// SHUT flags of the host.
    pub(super) host_shut: u32,
    /// Received and not read yet.
    pub(super) received: VecDeque<u8>,
    /// Not sent yet.
    pub(super) to_send: VecDeque<u8>,
    /// SHUT flags to send after `to_send`.
    pub(super) shut: u32,
    shut_sent: u32,
    /// Do not read: credit runs out.
    pub(super) stopped: bool,
    pub(super) peer_buf_alloc: u32,
    pub(super) peer_fwd_cnt: u32,
    sent: u32,
    fwd_cnt: u32,
    told: u32,
    pub(super) buf_alloc: u32,
    got: u32,
    /// Credit updates that came.
    pub(super) updates: u32,
    /// All that was read.
    pub(super) read: Vec<u8>,
}

pub(super) struct Guest {
    pub(super) driver: Driver,
    pub(super) sockets: HashMap<Ports, Socket>,
    /// Packets for no socket here.
    pub(super) strays: Vec<Packet>,
    /// Ports that accept connections.
    pub(super) listening: Vec<u32>,
    /// Receive buffers that were taken and not given back.
    pub(super) withheld: Vec<u16>,
    /// Give no receive buffers back.
    pub(super) withhold: bool,
}

impl Guest {
    pub(super) fn start(event_idx: bool, listener: Option<UnixListener>) -> Self {
        Self {
            driver: Driver::start(event_idx, 64, listener),
            sockets: HashMap::new(),
            strays: Vec::new(),
            listening: Vec::new(),
            withheld: Vec::new(),
            withhold: false,
        }
    }

    pub(super) fn send(&mut self, ports: Ports, op: u16, flags: u32, payload: &[u8]) {
        let mut packet = Packet::new(ports, op);
        packet.flags = flags;
        packet.len = payload.len() as u32;
        if let Some(socket) = self.sockets.get_mut(&ports) {
            packet.buf_alloc = socket.buf_alloc;
            packet.fwd_cnt = socket.fwd_cnt;
            socket.told = socket.fwd_cnt;
            socket.sent = socket.sent.wrapping_add(packet.len);
        }
        self.driver.send(&packet.bytes(), payload);
    }

    /// Starts a connection.
    pub(super) fn connect(&mut self, ports: Ports, buf_alloc: u32) {
        self.sockets.insert(ports, Socket { buf_alloc, ..Socket::default() });
        self.send(ports, REQUEST, 0, &[]);
    }

    /// Starts a connection and waits until it stands.
    pub(super) fn connected(&mut self, ports: Ports) -> std::os::unix::net::UnixStream {
        self.connect(ports, 1 << 18);
        self.until(|guest| guest.sockets[&ports].connected);
        // The packets of a test that sends anything may have opened others before.
        let mut connections = self.driver.connections.iter();
        let stream = connections.find(|connection| connection.port == ports.1).unwrap().stream;
        // What never comes fails the test instead of stopping it.
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        stream
    }

    /// Goes on until `done`.
    pub(super) fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        loop {
            let moved = self.pump();
            if done(self) {
                return;
            }
            if !moved {
                self.driver.wait();
            }
        }
    }

    /// One round: everything that came, then everything that can be sent. False if there was nothing.
    pub(super) fn pump(&mut self) -> bool {
        let mut moved = false;
        while let Some((slot, bytes)) = self.driver.receive() {
            moved = true;
            self.packet(&bytes);
            if self.withhold {
                self.withheld.push(slot);
            } else {
                self.driver.give_rx(slot);
            }
        }
        let ports: Vec<_> = self.sockets.keys().copied().collect();
        for ports in ports {
            moved |= self.pump_socket(ports);
        }
        moved
    }

    fn pump_socket(&mut self, ports: Ports) -> bool {
        let mut moved = false;
        let socket = self.sockets.get_mut(&ports).unwrap();
        if !socket.stopped && !socket.received.is_empty() {
            socket.fwd_cnt = socket.fwd_cnt.wrapping_add(socket.received.len() as u32);
            socket.read.extend(socket.received.drain(..));
            if !socket.reset && socket.fwd_cnt.wrapping_sub(socket.told) >= socket.buf_alloc / 2 {
                self.send(ports, CREDIT_UPDATE, 0, &[]);
                moved = true;
            }
        }
        while self.driver.can_send() {
            let socket = self.sockets.get_mut(&ports).unwrap();
            if !socket.connected || socket.reset {
                break;
            }
            let credit = socket.peer_buf_alloc.saturating_sub(socket.sent.wrapping_sub(socket.peer_fwd_cnt));
            let bytes = socket.to_send.len().min(credit as usize).min(64 << 10);
            if bytes > 0 {
                let payload: Vec<u8> = socket.to_send.drain(..bytes).collect();
                self.send(ports, RW, 0, &payload);
            } else if socket.to_send.is_empty() && socket.shut & !socket.shut_sent != 0 {
                socket.shut_sent = socket.shut;
                let flags = socket.shut;
                self.send(ports, SHUTDOWN, flags, &[]);
            } else {
                break;
            }
            moved = true;
        }
        moved
    }

    fn packet(&mut self, bytes: &[u8]) {
        let packet = Packet::parse(bytes);
        let ports = (packet.dst_port, packet.src_port);
        assert_eq!(packet.dst_cid, GUEST_CID);
        assert_eq!(packet.len as usize, bytes.len() - 44);
        if packet.op == REQUEST && self.listening.contains(&ports.0) {
            assert!(!self.sockets.contains_key(&ports), "the host's port is new");
            let socket = Socket { buf_alloc: 1 << 18, connected: true, ..Socket::default() };
            self.sockets.insert(ports, socket);
            self.send(ports, RESPONSE, 0, &[]);
        }
        let Some(socket) = self.sockets.get_mut(&ports) else {
            if packet.op == REQUEST {
                self.send(ports, RST, 0, &[]);
            }
            self.strays.push(packet);
            return;
        };
        socket.peer_buf_alloc = packet.buf_alloc;
        socket.peer_fwd_cnt = packet.fwd_cnt;
        match packet.op {
            RESPONSE => socket.connected = true,
            RST => socket.reset = true,
            SHUTDOWN => socket.host_shut |= packet.flags,
            RW => {
                assert_eq!(socket.host_shut & 2, 0, "data after the end");
                assert!(socket.connected, "data before the response");
                socket.got = socket.got.wrapping_add(packet.len);
                let held = socket.got.wrapping_sub(socket.fwd_cnt);
                assert!(held <= socket.buf_alloc, "more than the credit");
                socket.received.extend(&bytes[44..]);
            }
            CREDIT_UPDATE => socket.updates += 1,
            CREDIT_REQUEST => self.send(ports, CREDIT_UPDATE, 0, &[]),
            _ => {}
        }
    }

    /// The last packet for no socket here, once there is one.
    pub(super) fn stray(&mut self) -> Packet {
        self.until(|guest| !guest.strays.is_empty());
        self.strays.remove(0)
    }
}
