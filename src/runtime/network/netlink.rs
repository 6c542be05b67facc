//! A netlink socket and its two ways to ask: for something to be done, and for a list (netlink(7)).

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
    socket_with,
};

/// Longest answer, in bytes: the kernel puts at most 32 KiB of a list into one (netlink_dump, af_netlink.c).
const MAX_ANSWER: usize = 64 << 10;
/// A list has changed while it was made (linux/netlink.h).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// How often to ask again for a list that changes while it is made.
const TRIES: usize = 16;

/// A netlink socket of the network namespace in which it was opened.
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket for routes, links, addresses and traffic control in this thread's namespace.
    ///
    /// # Errors
    /// Those of socket(2).
    pub(super) fn route() -> io::Result<Self> {
        // No protocol is NETLINK_ROUTE, which is 0.
        Self::open(None)
    }

    /// Opens a socket for nftables in this thread's namespace.
    ///
    /// # Errors
    /// Those of socket(2).
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; MAX_ANSWER] })
    }

    /// The socket alone, for things that live as long as it.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Has something done, with NLM_F_* `flags` beside those that every such request has.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, flags | NLM_F_ACK)?;
        self.acknowledged::<RouteNetlinkMessage>()
    }

    /// Asks for a list.
    ///
    /// # Errors
    /// The kernel's, or it says something that is not understood.
    pub(super) fn list(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..TRIES {
            if let Some(list) = self.list_once(message.clone())? {
                return Ok(list);
            }
        }
        Err(io::Error::other("what is there changes all the time"))
    }

    /// As [`Self::list`]; nothing if it changed meanwhile.
    fn list_once(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        self.send(message, NLM_F_DUMP)?;
        let (mut list, mut changed) = (Vec::new(), false);
        loop {
            for answer in self.receive::<RouteNetlinkMessage>()? {
                changed |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => list.push(message),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok((!changed).then_some(list)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// Has several things done at once: messages, each with its NLM_F_* flags, that count all or not at all. The first and the last
    /// only frame them.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn batch<M>(&mut self, messages: Vec<(M, u16)>) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        // One acknowledgement is enough: it comes from the last message inside, when the kernel has looked at all.
        let last = messages.len().saturating_sub(2);
        self.sequence += 1;
        let mut bytes = Vec::new();
        for (number, (message, flags)) in messages.into_iter().enumerate() {
            let flags = if number == last { flags | NLM_F_ACK } else { flags };
            bytes.extend(serialize(message, flags, self.sequence));
        }
        self.send_bytes(&bytes)?;
        self.acknowledged::<M>()
    }

    fn send<M: NetlinkSerializable>(&mut self, message: M, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        self.send_bytes(&serialize(message, flags, self.sequence))
    }

    fn send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        // Port 0 is the kernel.
        sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Waits until the kernel says that it is done.
    fn acknowledged<M: NetlinkDeserializable>(&mut self) -> io::Result<()> {
        loop {
            for answer in self.receive::<M>()? {
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// The messages of one answer. Those to earlier requests, which their reader has not awaited, are left out.
    fn receive<M: NetlinkDeserializable>(&mut self) -> io::Result<Vec<NetlinkMessage<M>>> {
        let (_, length) =
            rustix::io::retry_on_intr(|| recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC))?;
        let mut rest = self.buffer.get(..length).ok_or_else(|| io::Error::other("an answer is too long"))?;
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // Messages begin at multiples of four bytes (NLMSG_ALIGNTO).
            let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
            rest = &rest[length..];
            if message.header.sequence_number == self.sequence {
                messages.push(message);
            }
        }
        Ok(messages)
    }
}

fn serialize<M: NetlinkSerializable>(message: M, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
