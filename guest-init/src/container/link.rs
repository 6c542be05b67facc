//! The socket between PID 1 and a process on its way to its program. From the process: its terminal, that it is
//! ready to go on, or why it cannot; from PID 1: that it may (the gate). Executing the program closes the process's
//! end, and so does its death.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crx_proto::StartError;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};

use crate::failure::failed;

/// Most bytes of an error's message; what is longer is cut.
const MAX_MESSAGE_BYTES: usize = 8 << 10;
/// Most bytes of orders: well below what a socket takes at once (net.core.wmem_default, 208 KiB).
pub(crate) const MAX_ORDERS_BYTES: usize = 128 << 10;
/// Descriptors beside them: three streams and a device program.
const MAX_ORDER_DESCRIPTORS: usize = 4;
/// First byte of a packet with the terminal's master.
const TERMINAL: u8 = 1;
/// Of the only packet that says that the process waits at the gate.
const READY: u8 = 2;
/// Of one with an error: the exit code and the message follow.
const FAILED: u8 = 3;

/// One end.
pub(crate) struct Link(OwnedFd);

/// What the process says.
#[derive(Debug)]
pub(crate) enum Said {
    /// This is the master of its terminal.
    Terminal(OwnedFd),
    /// It waits at the gate.
    Ready,
    /// It cannot go on, and ends.
    Failed(StartError),
    /// It has executed its program or has ended.
    Gone,
    /// Nothing for now.
    Nothing,
}

impl Link {
    /// Both ends: PID 1's, which does not block, and the process's.
    pub(crate) fn pair() -> Result<(Self, Self), StartError> {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map(|(ours, theirs)| (Self(ours), Self(theirs)))
            .map_err(|error| failed("process", "make a socket", error))
    }

    /// The process sends its terminal.
    pub(crate) fn send_terminal(&self, master: &OwnedFd) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [master.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.0, &[IoSlice::new(&[TERMINAL])], &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    /// The process says that it is ready, and waits until it may go on. read(2) and write(2) pass every seccomp
    /// filter that is of any use.
    pub(crate) fn wait_at_gate(&self) -> rustix::io::Result<()> {
        write(&self.0, &[READY])?;
        self.wait()
    }

    /// The process waits for PID 1's word.
    pub(crate) fn wait(&self) -> rustix::io::Result<()> {
        loop {
            match read(&self.0, &mut [0; 1]) {
                Err(Errno::INTR) => {}
                Ok(0) => return Err(Errno::CONNRESET),
                result => return result.map(drop),
            }
        }
    }

    /// The process says that it waits for its orders.
    pub(crate) fn say_ready(&self) -> rustix::io::Result<()> {
        write(&self.0, &[READY]).map(drop)
    }

    /// PID 1 waits until the process waits for its orders, or says why it cannot.
    pub(crate) fn wait_ready(&self) -> Result<(), StartError> {
        let fail = |error| failed("pod", "stage the first container", error);
        loop {
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None) {
                Err(Errno::INTR) => continue,
                polled => polled.map_err(fail)?,
            };
            match self.receive() {
                Said::Ready => return Ok(()),
                Said::Failed(error) => return Err(error),
                Said::Gone => return Err(fail(Errno::CONNRESET)),
                Said::Nothing | Said::Terminal(_) => {}
            }
        }
    }

    /// PID 1 gives orders: at most [`MAX_ORDERS_BYTES`], and a few descriptors.
    pub(crate) fn give_orders(
        &self,
        orders: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ORDER_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::TOOMANYREFS);
        }
        sendmsg(&self.0, &[IoSlice::new(orders)], &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    /// The process waits for its orders.
    pub(crate) fn take_orders(&self) -> rustix::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ORDER_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut orders = vec![0; MAX_ORDERS_BYTES];
        let length = loop {
            let mut slices = [std::io::IoSliceMut::new(&mut orders)];
            match recvmsg(&self.0, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                received => break received?.bytes,
            }
        };
        if length == 0 {
            return Err(Errno::CONNRESET);
        }
        orders.truncate(length);
        let descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        });
        Ok((orders, descriptors.collect()))
    }

    /// The process says why it cannot go on. If PID 1 does not listen there is nobody to tell.
    pub(crate) fn fail(&self, error: &StartError) {
        let mut packet = vec![FAILED, error.exit_code];
        packet.extend(error.message.bytes().take(MAX_MESSAGE_BYTES));
        let _ = write(&self.0, &packet);
    }

    /// PID 1 lets the process go on. One that has ended needs no word.
    pub(crate) fn go_on(&self) {
        let _ = send(&self.0, &[1], SendFlags::NOSIGNAL);
    }

    /// PID 1 takes what the process said.
    pub(crate) fn receive(&self) -> Said {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut packet = [0; MAX_MESSAGE_BYTES + 2];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut slices = [std::io::IoSliceMut::new(&mut packet)];
        let length = match recvmsg(&self.0, &mut slices, &mut control, flags) {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return Said::Nothing,
            Err(_) => return Said::Gone,
        };
        let mut terminal = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        match (&packet[..length], terminal.take()) {
            ([], _) => Said::Gone,
            ([TERMINAL, ..], Some(master)) => Said::Terminal(master),
            ([READY, ..], _) => Said::Ready,
            ([FAILED, exit_code, message @ ..], _) => Said::Failed(StartError {
                exit_code: *exit_code,
                message: String::from_utf8_lossy(message).into_owned(),
            }),
            _ => Said::Nothing,
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_arrives_by_itself_and_in_order() {
        let (ours, theirs) = Link::pair().unwrap();
        assert!(matches!(ours.receive(), Said::Nothing));
        let error = StartError { exit_code: 126, message: "why".to_owned() };
        theirs.send_terminal(&theirs.0).unwrap();
        theirs.fail(&error);
        ours.go_on();
        theirs.wait_at_gate().unwrap();
        assert!(matches!(ours.receive(), Said::Terminal(_)));
        assert!(matches!(ours.receive(), Said::Failed(said) if said == error));
        assert!(matches!(ours.receive(), Said::Ready));
        assert!(matches!(ours.receive(), Said::Nothing));
        drop(theirs);
        assert!(matches!(ours.receive(), Said::Gone));
    }

    #[test]
    fn orders_come_whole_with_their_descriptors_once_the_process_is_ready() {
        let (ours, theirs) = Link::pair().unwrap();
        theirs.say_ready().unwrap();
        ours.wait_ready().unwrap();
        let orders = vec![7; MAX_ORDERS_BYTES];
        let pipe = std::io::pipe().unwrap();
        ours.give_orders(&orders, &[pipe.0.as_fd(), pipe.1.as_fd()]).unwrap();
        let (taken, descriptors) = theirs.take_orders().unwrap();
        assert_eq!((taken, descriptors.len()), (orders, 2));
        drop(ours);
        assert_eq!(theirs.take_orders().unwrap_err(), Errno::CONNRESET);
    }

    #[test]
    fn a_process_that_cannot_get_ready_says_why() {
        let (ours, theirs) = Link::pair().unwrap();
        let error = StartError { exit_code: 1, message: "pod: mount proc: why".to_owned() };
        theirs.fail(&error);
        assert_eq!(ours.wait_ready().unwrap_err(), error);
        drop(theirs);
        assert!(ours.wait_ready().unwrap_err().message.contains("stage the first container"));
    }

    #[test]
    fn a_gate_whose_pid_1_is_gone_does_not_open() {
        let (ours, theirs) = Link::pair().unwrap();
        drop(ours);
        assert!(theirs.wait_at_gate().is_err());
    }
}
