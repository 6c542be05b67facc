//! The connection to the host: frames out, frames in. What is not urgent (stamps of
//! stages) goes out with the next message that is: a packet costs more than the stamp.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crx_proto::{
    CONTROL_PORT, FrameError, GuestMessage, HostMessage, MAX_FRAME_BYTES, ProcessId, Stage, VERSION, frame,
};
use rustix::io::{self, Errno};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::{clock, sys};

/// Bytes asked for in one read; a usual plan fits.
const READ_BYTES: usize = 16 << 10;

/// The host side of the control connection.
pub(crate) struct Host {
    socket: OwnedFd,
    outbox: Vec<u8>,
    inbox: Inbox,
}

/// What a read from the host gave.
pub(crate) enum Received {
    /// A message.
    Message(HostMessage),
    /// Nothing more for now.
    Nothing,
    /// The connection is gone, or what came over it is no message: there is no host any more.
    Gone,
}

impl Host {
    /// Connects to the host.
    pub(crate) fn connect() -> std::io::Result<Self> {
        Ok(Self::new(sys::vsock_connect(CONTROL_PORT, true)?))
    }

    /// The host at the other end of `socket`.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, outbox: Vec::with_capacity(512), inbox: Inbox { buffer: Vec::new() } }
    }

    /// Says hello, and when what was before the connection happened.
    pub(crate) fn hello(&mut self, stages: &[(Stage, u64)]) {
        self.queue(&GuestMessage::Hello { version: VERSION });
        stages.iter().for_each(|(stage, monotonic_ns)| self.stage_at(None, *stage, *monotonic_ns));
        self.stage(Stage::Connected);
        self.flush();
    }

    /// Stamps a stage of the pod's boot; it is sent with the next message.
    pub(crate) fn stage(&mut self, stage: Stage) {
        self.stage_at(None, stage, clock::monotonic_ns());
    }

    /// Stamps a stage of the launch of the container whose first process this is, likewise.
    pub(crate) fn stage_of(&mut self, process: ProcessId, stage: Stage) {
        self.stage_at(Some(process), stage, clock::monotonic_ns());
    }

    /// Reports a stage that was stamped before.
    pub(crate) fn stage_at(&mut self, process: Option<ProcessId>, stage: Stage, monotonic_ns: u64) {
        self.queue(&GuestMessage::Stage { process, stage, monotonic_ns });
    }

    /// Sends a message and everything queued before it. If the host is gone, the next read says so.
    pub(crate) fn send(&mut self, message: &GuestMessage) {
        self.queue(message);
        self.flush();
    }

    /// Has a message sent with the next one.
    pub(crate) fn queue(&mut self, message: &GuestMessage) {
        let bytes = frame::encode(message).or_else(|error| match message {
            GuestMessage::Answer { number, .. } => {
                frame::encode(&GuestMessage::Answer { number: *number, answer: Err(error.to_string()) })
            }
            // Nothing else that PID 1 says comes near the limit of a frame.
            _ => Err(error),
        });
        if let Ok(bytes) = bytes {
            self.outbox.extend_from_slice(&bytes);
        }
    }

    fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.outbox.len() {
            match send(&self.socket, &self.outbox[sent..], SendFlags::NOSIGNAL) {
                Ok(bytes) => sent += bytes,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.outbox.clear();
    }

    /// Waits for the next message.
    pub(crate) fn wait(&mut self) -> Received {
        self.receive(RecvFlags::empty())
    }

    /// The next message, if there is one.
    pub(crate) fn try_receive(&mut self) -> Received {
        self.receive(RecvFlags::DONTWAIT)
    }

    fn receive(&mut self, flags: RecvFlags) -> Received {
        loop {
            match self.inbox.next() {
                Ok(Some(message)) => return Received::Message(message),
                Ok(None) => {}
                Err(_) => return Received::Gone,
            }
            match self.inbox.fill(self.socket.as_fd(), flags) {
                Ok(0) => return Received::Gone,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Received::Nothing,
                Err(_) => return Received::Gone,
            }
        }
    }
}

impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Bytes received, until they make a frame.
struct Inbox {
    buffer: Vec<u8>,
}

impl Inbox {
    /// Receives once.
    fn fill(&mut self, socket: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<usize> {
        let had = self.buffer.len();
        self.buffer.resize(had + READ_BYTES, 0);
        let got = recv(socket, &mut self.buffer[had..], flags).map(|(got, _)| got);
        self.buffer.truncate(had + *got.as_ref().unwrap_or(&0));
        got
    }

    /// Takes the first message, if it is whole.
    fn next(&mut self) -> Result<Option<HostMessage>, FrameError> {
        let Some((length, _)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length_bytes = u32::from_le_bytes(*length) as usize;
        if length_bytes > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong { length_bytes });
        }
        let end = 4 + length_bytes;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let message = frame::read(&self.buffer[..end])?;
        self.buffer.drain(..end);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use crx_proto::Answer;

    use super::*;

    fn pair() -> (Host, UnixStream) {
        let (guest, host) = UnixStream::pair().unwrap();
        (Host::new(guest.into()), host)
    }

    fn signal() -> HostMessage {
        HostMessage::Signal { process: ProcessId(1), signal: 15, everybody: false }
    }

    fn resize() -> HostMessage {
        HostMessage::Resize { process: ProcessId(1), rows: 24, columns: 80 }
    }

    #[test]
    fn messages_that_arrive_together_or_in_pieces_are_taken_one_by_one() {
        let (mut guest, mut host) = pair();
        let mut bytes = frame::encode(&signal()).unwrap();
        bytes.extend(frame::encode(&resize()).unwrap());
        let (first, second) = bytes.split_at(bytes.len() - 1);
        host.write_all(first).unwrap();
        assert!(matches!(guest.try_receive(), Received::Message(message) if message == signal()));
        assert!(matches!(guest.try_receive(), Received::Nothing));
        host.write_all(second).unwrap();
        assert!(matches!(guest.try_receive(), Received::Message(message) if message == resize()));
        drop(host);
        assert!(matches!(guest.try_receive(), Received::Gone));
    }

    #[test]
    fn a_frame_over_the_limit_ends_the_connection_before_it_is_read() {
        let (mut guest, mut host) = pair();
        host.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(guest.try_receive(), Received::Gone));
    }

    #[test]
    fn an_answer_over_the_limit_becomes_one_that_says_so() {
        let (mut guest, host) = pair();
        let files = vec![("memory.stat".to_owned(), "x".repeat(MAX_FRAME_BYTES))];
        guest.send(&GuestMessage::Answer { number: 3, answer: Ok(Answer::Usage(files)) });
        let answer = frame::read::<GuestMessage>(&host).unwrap();
        assert!(matches!(answer, GuestMessage::Answer { number: 3, answer: Err(_) }), "{answer:?}");
    }

    #[test]
    fn stages_go_out_with_the_next_message_and_in_order() {
        let (mut guest, mut host) = pair();
        guest.stage_at(Some(ProcessId(2)), Stage::Planned, 7);
        host.set_nonblocking(true).unwrap();
        assert!(host.read(&mut [0; 1]).is_err(), "nothing is sent for a stage alone");
        guest.send(&GuestMessage::Started(ProcessId(2)));
        host.set_nonblocking(false).unwrap();
        let process = Some(ProcessId(2));
        let stage = GuestMessage::Stage { process, stage: Stage::Planned, monotonic_ns: 7 };
        assert_eq!(frame::read::<GuestMessage>(&host).unwrap(), stage);
        assert_eq!(frame::read::<GuestMessage>(&host).unwrap(), GuestMessage::Started(ProcessId(2)));
    }
}
