//! The terminal of a process: its master on one side, one vsock connection for both directions on the other.
//! splice(2) wants a pipe, so bytes pass through buffers here; a terminal has few.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, read, write};
use rustix::net::{Shutdown, shutdown};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::stdio::is_readable;

/// Bytes that wait in one direction at most.
const BUFFER_BYTES: usize = 16 << 10;

/// The relay between terminal and host.
pub(crate) struct TerminalRelay {
    /// None once the container's side is closed, or the host no longer reads.
    master: Option<OwnedFd>,
    socket: OwnedFd,
    to_host: Buffer,
    to_terminal: Buffer,
    /// The host sends no more.
    host_ended: bool,
}

/// Bytes on their way.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    sent: usize,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Reads more, once everything was sent. `Ok(0)` is the end.
    fn fill(&mut self, from: impl AsFd) -> rustix::io::Result<usize> {
        self.sent = 0;
        self.bytes.resize(BUFFER_BYTES, 0);
        let got = read(from, &mut *self.bytes);
        self.bytes.truncate(*got.as_ref().unwrap_or(&0));
        got
    }

    /// Sends what it can.
    fn drain(&mut self, to: impl AsFd) -> rustix::io::Result<()> {
        while !self.is_empty() {
            match write(&to, &self.bytes[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl TerminalRelay {
    /// Relays between `master` and `socket`, both non-blocking.
    pub(crate) fn new(master: OwnedFd, socket: OwnedFd) -> Self {
        let (to_host, to_terminal) = (Buffer::default(), Buffer::default());
        Self { master: Some(master), socket, to_host, to_terminal, host_ended: false }
    }

    /// Everything that the container wrote was passed on.
    fn is_finished(&self) -> bool {
        self.master.is_none() && self.to_host.is_empty()
    }

    /// Everything was passed on that was written until now.
    pub(crate) fn is_drained(&self) -> bool {
        self.to_host.is_empty() && self.master.as_ref().is_none_or(|master| !is_readable(master))
    }

    /// Output waits for the host to read.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.to_host.is_empty()
    }

    /// Changes the terminal's size.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        if let Some(master) = &self.master {
            // It fails only for a terminal that is gone.
            let _ =
                tcsetwinsize(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 });
        }
    }

    /// What to poll.
    pub(crate) fn interests<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if let Some(master) = &self.master {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, self.to_host.is_empty());
            flags.set(PollFlags::OUT, !self.to_terminal.is_empty());
            // A closed terminal polls as hung up whatever is asked for: it must not while its bytes still wait.
            if !flags.is_empty() {
                fds.push(PollFd::new(master, flags));
            }
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.to_terminal.is_empty() && !self.host_ended && self.master.is_some());
        flags.set(PollFlags::OUT, !self.to_host.is_empty());
        if !flags.is_empty() {
            fds.push(PollFd::new(&self.socket, flags));
        }
    }

    /// Moves what there is to move, in both directions.
    pub(crate) fn pump(&mut self) {
        self.pump_to_host();
        self.pump_to_terminal();
    }

    fn pump_to_host(&mut self) {
        if let Some(master) = self.master.as_ref().filter(|_| self.to_host.is_empty()) {
            match self.to_host.fill(master) {
                Ok(1..) | Err(Errno::AGAIN | Errno::INTR) => {}
                // EIO: no process has the terminal open any more.
                Ok(0) | Err(_) => self.master = None,
            }
        }
        if self.to_host.drain(&self.socket).is_err() {
            // The host reads no more. Closing the terminal hangs the container up.
            self.to_host = Buffer::default();
            self.master = None;
        }
        if self.is_finished() {
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
    }

    fn pump_to_terminal(&mut self) {
        let Some(master) = &self.master else { return };
        if self.to_terminal.is_empty() && !self.host_ended {
            match self.to_terminal.fill(&self.socket) {
                Ok(1..) | Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(0) | Err(_) => self.host_ended = true,
            }
        }
        if self.to_terminal.drain(master).is_err() {
            self.to_terminal = Buffer::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use rustix::event::poll;
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

    use super::*;

    #[test]
    fn bytes_pass_both_ways_and_the_end_is_passed_on() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let mut slave = std::fs::File::from(slave);
        crate::stdio::set_nonblocking(master.as_fd()).unwrap();
        let (guest, mut host) = UnixStream::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        let mut relay = TerminalRelay::new(master, guest.into());
        host.write_all(b"typed\n").unwrap();
        slave.write_all(b"shown\n").unwrap();
        relay.resize(24, 80);
        let container = std::thread::spawn(move || {
            let mut line = [0; 6];
            slave.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"typed\n");
            assert_eq!(rustix::termios::tcgetwinsize(&slave).unwrap().ws_col, 80);
        });
        while !relay.is_finished() {
            let mut fds = Vec::new();
            relay.interests(&mut fds);
            poll(&mut fds, None).unwrap();
            drop(fds);
            relay.pump();
        }
        container.join().unwrap();
        let mut shown = String::new();
        host.read_to_string(&mut shown).unwrap();
        assert!(shown.contains("shown\r\n"), "{shown:?}");
    }
}
