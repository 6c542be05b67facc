//! Clients of the host that want a port of the guest: they say so in one line, `CONNECT <port>\n` (Firecracker's
//! convention). The line is only peeked at until it is complete, so a slow client costs a descriptor and nothing else, and
//! what it sends after the line is not touched. Next: [`super::muxer::Muxer::open_for_client`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::muxer::{Muxer, watch};

/// `CONNECT 4294967295\n` has 19 bytes.
const MAX_LINE_BYTES: usize = 32;

/// Clients that have not said what they want. One more, and the oldest has to go, so that clients that say nothing keep
/// no other out.
pub(super) const MAX_WAITING: usize = 64;

/// Clients accepted before it is somebody else's turn.
const MAX_ACCEPTED: usize = 16;

/// What a client said so far.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Incomplete,
    Invalid,
    Connect { port: u32, line_bytes: usize },
}

/// The listener and the clients that it accepted.
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    /// More clients may wait to be accepted.
    pub(super) pending: bool,
    /// No client could be accepted for want of descriptors or memory; tried again when the worker wakes up.
    pub(super) blocked: bool,
    waiting: BTreeMap<u64, UnixStream>,
}

impl Listener {
    pub(super) fn new(socket: UnixListener) -> Self {
        Self { socket, pending: false, blocked: false, waiting: BTreeMap::new() }
    }

    /// Accepts clients, a few at a time.
    pub(super) fn accept(&mut self, muxer: &mut Muxer, epoll: &OwnedFd) {
        self.blocked = false;
        for _ in 0..MAX_ACCEPTED {
            let client = match self.socket.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.pending = false;
                    self.blocked = error.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            };
            let number = muxer.new_number();
            if watch(epoll, &client, number).is_err() {
                continue;
            }
            if self.waiting.len() >= MAX_WAITING {
                self.waiting.pop_first();
            }
            self.waiting.insert(number, client);
        }
        self.pending = true;
    }

    /// A socket has news; false if it is not one of these clients.
    pub(super) fn socket_event(&mut self, number: u64, hung_up: bool, muxer: &mut Muxer) -> bool {
        let Some(client) = self.waiting.get(&number) else { return false };
        match read_line(client) {
            Line::Incomplete if !hung_up => {}
            Line::Incomplete | Line::Invalid => {
                self.waiting.remove(&number);
            }
            Line::Connect { port, line_bytes } => {
                if let Some(client) = self.waiting.remove(&number)
                    && consume(&client, line_bytes)
                {
                    muxer.open_for_client(number, client, port);
                }
            }
        }
        true
    }
}

fn read_line(client: &UnixStream) -> Line {
    let mut bytes = [0; MAX_LINE_BYTES];
    match rustix::net::recv(client, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((0, _)) => Line::Invalid,
        Ok((count, _)) => parse_line(&bytes[..count]),
        Err(Errno::AGAIN | Errno::INTR) => Line::Incomplete,
        Err(_) => Line::Invalid,
    }
}

/// Takes the line that was peeked at out of the socket.
fn consume(client: &UnixStream, line_bytes: usize) -> bool {
    let mut bytes = [0; MAX_LINE_BYTES];
    let line = rustix::net::recv(client, &mut bytes[..line_bytes], RecvFlags::DONTWAIT);
    line.is_ok_and(|(_, count)| count == line_bytes)
}

fn parse_line(bytes: &[u8]) -> Line {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_LINE_BYTES { Line::Incomplete } else { Line::Invalid };
    };
    let digits = bytes[..end].strip_prefix(b"CONNECT ").and_then(|port| std::str::from_utf8(port).ok());
    match digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())).map(str::parse) {
        Some(Ok(port)) => Line::Connect { port, line_bytes: end + 1 },
        _ => Line::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, parse_line};

    #[test]
    fn lines_are_exact() {
        assert_eq!(parse_line(b"CONNECT 52\nrest"), Line::Connect { port: 52, line_bytes: 11 });
        assert_eq!(parse_line(b"CONNECT 4294967295\n"), Line::Connect { port: u32::MAX, line_bytes: 19 });
        assert_eq!(parse_line(b"CONNECT 5"), Line::Incomplete);
        assert_eq!(parse_line(b"nonsense"), Line::Incomplete);
        for bad in [
            &b"CONNECT 4294967296\n"[..],
            b"CONNECT -1\n",
            b"CONNECT +1\n",
            b"CONNECT \n",
            b"CONNECT 1 \n",
            b"CONNECT \xff\n",
            b"connect 1\n",
            b"\n",
            &[b'1'; 32],
        ] {
            assert_eq!(parse_line(bad), Line::Invalid, "{bad:?}");
        }
    }
}
