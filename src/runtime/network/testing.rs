//! Network namespaces for tests, with what CNI would put into them.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::netlink::Socket;
use super::{Namespace, link};

/// Bytes before each frame: `struct virtio_net_hdr` (linux/virtio_net.h), as long as nobody asks for more.
const HEADER: usize = 10;

/// A new network namespace; it is gone when this and all that is open in it is.
pub(super) struct TestNamespace {
    pub(super) namespace: Namespace,
}

impl TestNamespace {
    pub(super) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
        Self { namespace: Namespace::new_empty().unwrap() }
    }

    pub(super) fn file(&self) -> &File {
        &self.namespace.file
    }

    /// A path that leads to it.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file().as_raw_fd()).into()
    }

    /// Runs `work` in it.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.within(|| Ok(work())).unwrap()
    }

    /// A veth pair: `name` with this hardware address here, and `peer` in the other namespace; both up.
    pub(super) fn veth(&self, name: &str, mac: [u8; 6], other: &Self, peer: &str) {
        let mut end = LinkMessage::default();
        end.attributes =
            vec![LinkAttribute::IfName(peer.to_owned()), LinkAttribute::NetNsFd(other.file().as_raw_fd())];
        let data = Some(InfoData::Veth(InfoVeth::Peer(end)));
        self.link(InfoKind::Veth, data, name, vec![LinkAttribute::Address(mac.to_vec())]);
        // Not before it has its peer: it cannot be set up alone.
        other.change(peer, LinkFlags::Up, LinkFlags::Up, vec![]);
    }

    /// An interface that is up.
    pub(super) fn link(
        &self,
        kind: InfoKind,
        data: Option<InfoData>,
        name: &str,
        attributes: Vec<LinkAttribute>,
    ) {
        self.within(move || {
            let mut message = LinkMessage::default();
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
            message.attributes = attributes;
            message.attributes.push(LinkAttribute::IfName(name.to_owned()));
            let info = std::iter::once(LinkInfo::Kind(kind)).chain(data.map(LinkInfo::Data));
            message.attributes.push(LinkAttribute::LinkInfo(info.collect()));
            create(RouteNetlinkMessage::NewLink(message));
        });
    }

    /// Changes an interface: its flags and attributes.
    pub(super) fn change(
        &self,
        name: &str,
        flags: LinkFlags,
        mask: LinkFlags,
        attributes: Vec<LinkAttribute>,
    ) {
        self.within(move || {
            let mut message = LinkMessage::default();
            message.header.index = index(name);
            message.header.flags = flags;
            message.header.change_mask = mask;
            message.attributes = attributes;
            Socket::route().unwrap().request(RouteNetlinkMessage::SetLink(message), 0).unwrap();
        });
    }

    pub(super) fn delete(&self, name: &str) {
        self.within(move || {
            let mut message = LinkMessage::default();
            message.header.index = index(name);
            Socket::route().unwrap().request(RouteNetlinkMessage::DelLink(message), 0).unwrap();
        });
    }

    /// An address `IP/BITS`.
    pub(super) fn address(&self, name: &str, network: &str) {
        let (ip, bits) = parse(network);
        self.within(move || {
            let mut message = AddressMessage::default();
            message.header.family = family(ip);
            message.header.prefix_len = bits;
            message.header.scope = AddressScope::Universe;
            message.header.index = index(name);
            message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Local(ip)];
            create(RouteNetlinkMessage::NewAddress(message));
        });
    }

    /// A route to `IP/BITS` of this kind, with whatever else it has.
    pub(super) fn route(
        &self,
        network: &str,
        kind: RouteType,
        out: Option<&str>,
        change: impl FnOnce(&mut RouteMessage) + Send,
    ) {
        let (ip, bits) = parse(network);
        self.within(move || {
            let mut message = RouteMessage::default();
            message.header.address_family = family(ip);
            message.header.destination_prefix_length = bits;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.header.protocol = RouteProtocol::Static;
            message.header.kind = kind;
            message.attributes.push(RouteAttribute::Destination(route_address(ip)));
            message.attributes.extend(out.map(|name| RouteAttribute::Oif(index(name))));
            change(&mut message);
            create(RouteNetlinkMessage::NewRoute(message));
        });
    }

    pub(super) fn neighbour(&self, name: &str, ip: IpAddr, mac: [u8; 6], state: NeighbourState) {
        self.within(move || {
            let mut message = NeighbourMessage::default();
            message.header.family = family(ip);
            message.header.ifindex = index(name);
            message.header.state = state;
            let ip = match ip {
                IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
                IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
            };
            message.attributes =
                vec![NeighbourAttribute::Destination(ip), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
            create(RouteNetlinkMessage::NewNeighbour(message));
        });
    }

    /// Sets a kernel parameter.
    pub(super) fn sysctl(&self, name: &str, value: &str) {
        self.within(|| std::fs::write(format!("/proc/sys/{name}"), value).unwrap());
    }

    /// Names of its interfaces with their MTU, and whether they have an ingress qdisc.
    pub(super) fn interfaces(&self) -> Vec<(String, u32)> {
        let links = self.within(|| link::all(&mut Socket::route().unwrap()).unwrap());
        links.into_iter().map(|link| (link.name, link.mtu)).collect()
    }

    /// The index of an interface.
    pub(super) fn index(&self, name: &str) -> u32 {
        self.within(|| index(name))
    }
}

fn index(name: &str) -> u32 {
    link::index_of(&mut Socket::route().unwrap(), name).unwrap()
}

fn create(message: RouteNetlinkMessage) {
    let made = Socket::route().unwrap().request(message.clone(), NLM_F_CREATE | NLM_F_EXCL);
    made.unwrap_or_else(|error| panic!("{error}: {message:?}"));
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn parse(network: &str) -> (IpAddr, u8) {
    let (ip, bits) = network.split_once('/').unwrap();
    (ip.parse().unwrap(), bits.parse().unwrap())
}

pub(super) fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

/// Asks by ARP (RFC 826) for the hardware address of `target`, as a guest would through its tap, and waits for the answer in
/// any of the tap's queues. Nothing if none comes.
pub(super) fn ask(queues: &[OwnedFd], mac: [u8; 6], own: [u8; 4], target: [u8; 4]) -> Option<[u8; 6]> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(own);
    frame.extend([0; 6]);
    frame.extend(target);
    // The answer comes before write(2) returns, or shortly after it; but an interface that has just been set up drops what it is
    // to send until the kernel has looked at its link. The limit is for a test that fails.
    (0..100).find_map(|_| {
        send(queues, &frame);
        receive(queues, Duration::from_millis(100), |frame| {
            let answer = frame.get(12..14)? == [0x08, 0x06] && frame.get(20..22)? == [0, 2];
            (answer && frame.get(..6)? == mac).then(|| frame[22..28].try_into().unwrap())
        })
    })
}

/// Sends a frame as a guest would.
pub(super) fn send(queues: &[OwnedFd], frame: &[u8]) {
    let written = rustix::io::write(&queues[0], &[&[0; HEADER], frame].concat()).unwrap();
    assert_eq!(written, HEADER + frame.len());
}

/// Reads frames from a tap's queues until one is what is looked for, at most for `limit`.
pub(super) fn receive<T>(
    queues: &[OwnedFd],
    limit: Duration,
    look: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let start = Instant::now();
    let mut buffer = vec![0; 64 << 10];
    while let Some(rest) = limit.checked_sub(start.elapsed()) {
        let mut polled: Vec<PollFd<'_>> =
            queues.iter().map(|queue| PollFd::new(queue, PollFlags::IN)).collect();
        poll(&mut polled, Some(&Timespec::try_from(rest).unwrap())).unwrap();
        let ready: Vec<bool> = polled.iter().map(|queue| queue.revents().contains(PollFlags::IN)).collect();
        for (queue, _) in queues.iter().zip(ready).filter(|(_, ready)| *ready) {
            let length = rustix::io::read(queue, &mut buffer[..]).unwrap();
            if let Some(found) = look(&buffer[HEADER..length]) {
                return Some(found);
            }
        }
    }
    None
}
