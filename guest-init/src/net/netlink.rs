//! Requests to the kernel's routing tables as bytes (linux/netlink.h, linux/rtnetlink.h), and what it answers. Many requests
//! go in one system call, and only what fails is answered, but for the last.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// NLM_F_REQUEST and NLM_F_ACK of linux/netlink.h.
const REQUEST: u16 = 0x01;
const ACK: u16 = 0x04;
/// NLM_F_REPLACE, NLM_F_EXCL and NLM_F_CREATE of linux/netlink.h: what is to be done if the thing is there, or is not.
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
/// NLMSG_ERROR: an answer, also without an error.
const ANSWER: u16 = 2;
/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Everything in a request begins at a multiple of this many bytes (NLMSG_ALIGNTO, RTA_ALIGNTO).
const ALIGN_BYTES: usize = 4;
/// Requests in one system call, in bytes: if all of them fail the answers still fit into the socket's buffer (208 KiB,
/// of which the shortest request, 28 bytes, takes 768).
const CHUNK_BYTES: usize = 4 << 10;
/// An answer is a header, the error and the request's header; what the kernel repeats of the request after it is cut off.
const ANSWER_BYTES: usize = 64;

/// Requests in the order in which they are to be done. `T`: what each is about.
pub(crate) struct Requests<T> {
    bytes: Vec<u8>,
    /// Where each begins, and what it is about.
    starts: Vec<(usize, T)>,
}

impl<T> Requests<T> {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::with_capacity(512), starts: Vec::with_capacity(8) }
    }

    /// Begins a request: RTM_*, how it is meant, and the structure of its family, in the order of its bytes.
    pub(crate) fn begin(&mut self, about: T, kind: u16, flags: u16, structure: &[&[u8]]) {
        let number = self.starts.len() as u32;
        self.starts.push((self.bytes.len(), about));
        // struct nlmsghdr: nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid.
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&number.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        structure.iter().for_each(|field| self.bytes.extend_from_slice(field));
        self.end();
    }

    /// Adds an attribute (`struct rtattr`: rta_len, rta_type) to the last request.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[&[u8]]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        value.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.end();
    }

    /// The last request ends here.
    fn end(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN_BYTES), 0);
        if let Some((start, _)) = self.starts.last() {
            let length = (self.bytes.len() - start) as u32;
            self.bytes[*start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// What a request would add and is there already is replaced by it.
    pub(crate) fn replace(&mut self) {
        for (start, _) in &self.starts {
            let flags = &mut self.bytes[start + 6..start + 8];
            let set = u16::from_ne_bytes([flags[0], flags[1]]);
            if set & EXCLUSIVE != 0 {
                flags.copy_from_slice(&(set & !EXCLUSIVE | REPLACE).to_ne_bytes());
            }
        }
    }

    /// Has the kernel do them, and returns what the first was about that it could not do, with its reason.
    pub(crate) fn send(mut self, socket: &Socket) -> Result<(), (T, Errno)> {
        let failure = self.chunks().into_iter().find_map(|(first, last)| {
            self.set_flags(last, ACK);
            let end = self.starts.get(last + 1).map_or(self.bytes.len(), |(start, _)| *start);
            let chunk = &self.bytes[self.starts[first].0..end];
            match socket.exchange(chunk, last as u32) {
                Ok(None) => None,
                Ok(Some((number, error))) => Some(((number as usize).clamp(first, last), error)),
                Err(error) => Some((first, error)),
            }
        });
        failure.map_or(Ok(()), |(number, error)| Err((self.starts.swap_remove(number).1, error)))
    }

    /// The first and the last request of each system call.
    fn chunks(&self) -> Vec<(usize, usize)> {
        let mut chunks: Vec<(usize, usize)> = Vec::with_capacity(1);
        for number in 0..self.starts.len() {
            let end = self.starts.get(number + 1).map_or(self.bytes.len(), |(start, _)| *start);
            match chunks.last_mut() {
                Some((first, last)) if end - self.starts[*first].0 <= CHUNK_BYTES => *last = number,
                _ => chunks.push((number, number)),
            }
        }
        chunks
    }

    fn set_flags(&mut self, number: usize, flags: u16) {
        let at = self.starts[number].0 + 6;
        let set = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | flags;
        self.bytes[at..at + 2].copy_from_slice(&set.to_ne_bytes());
    }
}

/// A connection to the kernel's routing tables, those of the network namespace in which it was made.
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn new() -> io::Result<Self> {
        // No protocol is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self(socket))
    }

    /// For requests about network devices, which any socket takes.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Sends requests, the last of which has the number `last` and wants an answer, and returns the number and the
    /// reason of the first that failed.
    fn exchange(&self, requests: &[u8], last: u32) -> Result<Option<(u32, Errno)>, Errno> {
        // The kernel does all of it, and has answered, when this returns.
        retry_on_intr(|| send(&self.0, requests, SendFlags::empty()))?;
        let mut failure = None;
        loop {
            let mut answer = [0; ANSWER_BYTES];
            let (length, _) = retry_on_intr(|| recv(&self.0, &mut answer[..], RecvFlags::empty()))?;
            let Some((number, error)) = parse_answer(&answer[..length]) else { continue };
            if let Some(error) = error {
                failure = failure.or(Some((number, error)));
            }
            if number == last {
                return Ok(failure);
            }
        }
    }
}

/// The number of the request and the error, if it is an answer to one (`struct nlmsgerr`).
fn parse_answer(bytes: &[u8]) -> Option<(u32, Option<Errno>)> {
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let number = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let error = i32::from_ne_bytes(bytes.get(HEADER_BYTES..HEADER_BYTES + 4)?.try_into().ok()?);
    (kind == ANSWER).then(|| (number, (error != 0).then(|| Errno::from_raw_os_error(error.wrapping_neg()))))
}

#[cfg(test)]
impl<T> Requests<T> {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_lengths_and_its_parts_are_aligned() {
        let mut requests = Requests::new();
        requests.begin((), 0x1234, CREATE, &[&[1, 2], &[3]]);
        requests.attribute(0x0506, &[&[7, 8], &[9]]);
        requests.begin((), 0x4321, 0, &[]);
        requests.attribute(1, &[&[1, 2, 3, 4]]);
        let first =
            [28, 0, 0, 0, 0x34, 0x12, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 7, 0, 6, 5, 7, 8, 9, 0];
        let second = [24, 0, 0, 0, 0x21, 0x43, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 1, 0, 1, 2, 3, 4];
        assert_eq!(requests.bytes(), [&first[..], &second[..]].concat());
        requests.set_flags(1, ACK);
        assert_eq!(requests.bytes()[28 + 6], 5);
        assert_eq!(requests.chunks(), [(0, 1)]);
    }

    #[test]
    fn many_requests_go_in_several_system_calls() {
        let mut requests = Requests::new();
        assert_eq!(requests.chunks(), []);
        for _ in 0..5 {
            requests.begin((), 1, 0, &[&[0; CHUNK_BYTES / 2 - HEADER_BYTES]]);
        }
        requests.begin((), 1, 0, &[&[0; CHUNK_BYTES]]);
        requests.begin((), 1, 0, &[]);
        assert_eq!(requests.chunks(), [(0, 1), (2, 3), (4, 4), (5, 5), (6, 6)]);
    }

    #[test]
    fn an_answer_is_its_number_and_its_error() {
        let mut answer = vec![36, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0xef, 0xff, 0xff, 0xff];
        assert_eq!(parse_answer(&answer), Some((7, Some(Errno::EXIST))));
        answer[16..20].copy_from_slice(&[0; 4]);
        assert_eq!(parse_answer(&answer), Some((7, None)));
        assert_eq!(parse_answer(&answer[..19]), None);
        answer[4] = 16;
        assert_eq!(parse_answer(&answer), None, "news, not an answer");
    }
}
