//! One connection: where it stands, what it owes the guest, and the bytes on their way to the host's socket.
//!
//! ```text
//! guest asks:  ResponseOwed --RESPONSE sent--> Open
//! host asks:   RequestOwed --REQUEST sent--> RequestSent --RESPONSE came, OK written--> Open
//! Open --guest shut both ways, backlog written--> over (a reset confirms it)
//! any  --guest resets--> Lingering, until the backlog is written --> over
//! ```
//! Half-close: the guest's "will send no more" becomes shutdown(WR) once the backlog is written; the end of the host's
//! stream becomes SHUTDOWN once all of it was sent to the guest.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::{io, mem};

use rustix::net::{RecvFlags, SendFlags};

use super::credit::Credit;
use super::packet::{Op, Outgoing, Ports, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND};
use super::ring::skip;
use super::sys;
use crate::slice::GuestSlice;

/// A backlog that was larger than this gives its memory back when it is empty.
const KEPT_BACKLOG_BYTES: usize = 4 << 10;

/// Bytes read away at the end, so that a writer who is still there sees an orderly end instead of ECONNRESET. More than
/// a Unix socket holds by default (net.core.wmem_default, 208 KiB).
const MAX_DRAINED_BYTES: usize = 256 << 10;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    RequestOwed,
    RequestSent,
    ResponseOwed,
    Open,
    /// The guest knows nothing of it any more.
    Lingering,
}

/// What a connection has for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Control(Op),
    /// At most so many bytes of the socket.
    Data(usize),
}

/// How a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The guest knows already, or never knew.
    Silent,
    /// The guest has to be told by a reset.
    Reset,
}

/// The guest did what it must not: the connection is reset.
#[derive(Debug)]
pub(super) struct Violation;

pub(super) struct Connection {
    pub(super) ports: Ports,
    pub(super) socket: UnixStream,
    /// It stands in the muxer's list of those that have something for the guest.
    pub(super) queued: bool,
    /// The worker's epoll looks for room in the socket.
    pub(super) watched_for_room: bool,
    phase: Phase,
    credit: Credit,
    /// The guest asked for our credit.
    update_asked: bool,
    /// We asked for the guest's and it did not come yet.
    credit_asked: bool,
    /// The socket may have something to read: true until a read finds nothing.
    readable: bool,
    /// The socket may have room: true until a write finds none.
    writable: bool,
    /// Bytes of the guest that the socket did not take yet; limited by the credit.
    backlog: VecDeque<u8>,
    /// SHUT_ flags that the guest sent.
    guest_shut: u32,
    /// SHUT_ flags that hold for the host's side.
    host_shut: u32,
    /// Those of them that the guest was told.
    told_shut: u32,
    /// shutdown(WR) was done.
    ended: bool,
}

impl Connection {
    fn new(ports: Ports, socket: UnixStream, buf_alloc: u32, phase: Phase) -> Self {
        Self {
            ports,
            socket,
            queued: false,
            watched_for_room: false,
            phase,
            credit: Credit::new(buf_alloc),
            update_asked: false,
            credit_asked: false,
            readable: true,
            writable: true,
            backlog: VecDeque::new(),
            guest_shut: 0,
            host_shut: 0,
            told_shut: 0,
            ended: false,
        }
    }

    /// The guest asked for it.
    pub(super) fn of_guest(ports: Ports, socket: UnixStream, buf_alloc: u32) -> Self {
        Self::new(ports, socket, buf_alloc, Phase::ResponseOwed)
    }

    /// A client on the host asked for it.
    pub(super) fn of_client(ports: Ports, socket: UnixStream, buf_alloc: u32) -> Self {
        Self::new(ports, socket, buf_alloc, Phase::RequestOwed)
    }

    pub(super) fn buf_alloc(&self) -> u32 {
        self.credit.buf_alloc()
    }

    /// Every packet of the guest says where its credit stands.
    pub(super) fn guest_says(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.credit.guest_says(buf_alloc, fwd_cnt);
        if self.credit.for_guest() > 0 {
            self.credit_asked = false;
        }
    }

    /// The guest accepted: the client gets its line.
    pub(super) fn response(&mut self) -> Result<(), Violation> {
        if self.phase != Phase::RequestSent {
            return Err(Violation);
        }
        self.phase = Phase::Open;
        let line = format!("OK {}\n", self.ports.host);
        // Nothing was written before, so the line fits; a client that does not take it is gone.
        match rustix::net::send(&self.socket, line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(bytes) if bytes == line.len() => Ok(()),
            _ => Err(Violation),
        }
    }

    /// The guest says what it will not do any more.
    pub(super) fn shutdown(&mut self, flags: u32) -> Result<(), Violation> {
        if self.phase != Phase::Open {
            return Err(Violation);
        }
        self.guest_shut |= flags;
        if self.guest_shut & SHUT_RECEIVE != 0 {
            // Writers on the host get EPIPE from now on. It fails only if the peer is gone, which is the same to us.
            let _ = self.socket.shutdown(Shutdown::Read);
        }
        self.flush();
        Ok(())
    }

    pub(super) fn credit_request(&mut self) {
        self.update_asked = true;
    }

    /// Bytes of the guest: straight to the socket as far as it takes them, the rest waits.
    pub(super) fn deliver(&mut self, payload: &[GuestSlice<'_>], bytes: usize) -> Result<(), Violation> {
        let count = u32::try_from(bytes).map_err(|_| Violation)?;
        if self.phase != Phase::Open || self.guest_shut & SHUT_SEND != 0 || !self.credit.receive(count) {
            return Err(Violation);
        }
        let mut done = 0;
        while self.writable && self.backlog.is_empty() && self.host_shut & SHUT_RECEIVE == 0 && done < bytes {
            match sys::send(&self.socket, &skip(payload, done)) {
                Ok(sent) => done += sent,
                Err(error) => self.write_failed(&error),
            }
        }
        if self.host_shut & SHUT_RECEIVE != 0 {
            // Nobody will read it: it is gone, and the guest is told so.
            done = bytes;
        }
        self.credit.forwarded(done as u32);
        for slice in skip(payload, done) {
            let start = self.backlog.len();
            self.backlog.resize(start + slice.len(), 0);
            let (front, back) = self.backlog.as_mut_slices();
            let in_front = front.len().saturating_sub(start).min(slice.len());
            let front_from = front.len().min(start);
            let back_from = start.saturating_sub(front.len());
            slice.copy_to(&mut front[front_from..front_from + in_front]);
            if let Ok(rest) = slice.offset(in_front) {
                rest.copy_to(&mut back[back_from..]);
            }
        }
        Ok(())
    }

    /// Writes the backlog as far as the socket takes it, then passes the guest's half-close on.
    pub(super) fn flush(&mut self) {
        while self.writable && !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            match rustix::net::send(&self.socket, front, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    self.backlog.drain(..sent);
                    self.credit.forwarded(sent as u32);
                }
                Err(error) => self.write_failed(&error.into()),
            }
        }
        if !self.backlog.is_empty() {
            return;
        }
        if self.backlog.capacity() > KEPT_BACKLOG_BYTES {
            self.backlog = VecDeque::new();
        }
        if self.guest_shut & SHUT_SEND != 0 && !mem::replace(&mut self.ended, true) {
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    fn write_failed(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.writable = false,
            io::ErrorKind::Interrupted => {}
            _ => {
                self.host_shut |= SHUT_RECEIVE;
                self.credit.forwarded(self.backlog.len() as u32);
                self.backlog.clear();
            }
        }
    }

    /// The socket has news; `hung_up` if neither direction of it works any more.
    pub(super) fn socket_event(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable || hung_up;
        self.writable |= writable || hung_up;
        if hung_up {
            self.host_shut |= SHUT_RECEIVE;
        }
        self.flush();
    }

    /// Whether the socket has to be watched for room.
    pub(super) fn wants_room(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// A read for the guest is over: bytes that went, or why none did.
    pub(super) fn was_read(&mut self, result: &io::Result<usize>) {
        match result {
            Ok(0) => self.host_shut |= SHUT_SEND,
            Ok(bytes) => self.credit.sent(*bytes as u32),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => self.readable = false,
                io::ErrorKind::Interrupted => {}
                // ECONNRESET: the peer closed without reading everything. All that it wrote was read before.
                _ => self.host_shut |= SHUT_BOTH,
            },
        }
    }

    /// What has to go to the guest next.
    pub(super) fn next(&self) -> Option<Next> {
        match self.phase {
            Phase::RequestOwed => return Some(Next::Control(Op::Request)),
            Phase::ResponseOwed => return Some(Next::Control(Op::Response)),
            Phase::RequestSent | Phase::Lingering => return None,
            Phase::Open => {}
        }
        if self.readable && (self.host_shut & SHUT_SEND) == 0 && (self.guest_shut & SHUT_RECEIVE) == 0 {
            // Data goes first: it carries the credit as well.
            match self.credit.for_guest() {
                0 if !self.credit_asked => return Some(Next::Control(Op::CreditRequest)),
                0 => {}
                bytes => return Some(Next::Data(bytes as usize)),
            }
        }
        if self.update_asked || (self.credit.update_due() && self.guest_shut & SHUT_SEND == 0) {
            return Some(Next::Control(Op::CreditUpdate));
        }
        (self.host_shut & !self.told_shut != 0).then_some(Next::Control(Op::Shutdown(self.host_shut)))
    }

    /// The packet for `op`, which counts as sent.
    pub(super) fn packet(&mut self, op: Op, payload_bytes: usize) -> Outgoing {
        match op {
            Op::Request => self.phase = Phase::RequestSent,
            Op::Response => self.phase = Phase::Open,
            Op::CreditRequest => self.credit_asked = true,
            Op::Shutdown(flags) => self.told_shut |= flags,
            Op::Reset | Op::Data | Op::CreditUpdate => {}
        }
        self.update_asked = false;
        let (buf_alloc, fwd_cnt) = self.credit.tell();
        Outgoing { ports: self.ports, op, payload_bytes: payload_bytes as u32, buf_alloc, fwd_cnt }
    }

    /// The guest forgot the connection; bytes that it sent before still go to the socket.
    pub(super) fn linger(&mut self) {
        self.phase = Phase::Lingering;
        self.guest_shut = SHUT_BOTH;
        let _ = self.socket.shutdown(Shutdown::Read);
        self.flush();
    }

    /// Whether nothing is left to do, and whether the guest has to hear of it.
    pub(super) fn end(&self) -> Option<End> {
        match self.phase {
            Phase::Lingering => self.backlog.is_empty().then_some(End::Silent),
            Phase::RequestOwed if self.host_shut & SHUT_RECEIVE != 0 => Some(End::Silent),
            Phase::RequestSent if self.host_shut & SHUT_RECEIVE != 0 => Some(End::Reset),
            Phase::Open if self.guest_shut == SHUT_BOTH && self.backlog.is_empty() => Some(End::Reset),
            _ => None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        // Closing a Unix socket with unread bytes would give the peer ECONNRESET in place of what it has not read yet.
        let mut scratch = [0; 4096];
        for _ in 0..MAX_DRAINED_BYTES / scratch.len() {
            match rustix::net::recv(&self.socket, &mut scratch, RecvFlags::DONTWAIT) {
                Ok((1.., _)) => {}
                _ => return,
            }
        }
    }
}
