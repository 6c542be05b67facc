//! A network for a pod that nobody has prepared one for: a network namespace that nothing but descriptors keeps, with one
//! interface, the other end of which is in the host's namespace, as a router's that hides the pod behind the host's address.
//!
//! What is made in the host's namespace goes with the pod, however it ends: the end of the pair because the namespace of the other
//! is gone (the taps' descriptors hold it: tun_chr_open, drivers/net/tun.c), the table of nftables because its socket is closed. Only the parameter
//! `net.ipv4.ip_forward` stays set: others may have come to need it.
//!
//! The addresses are of 198.19.0.0/16: of the range for benchmarks of network devices (RFC 2544), which is routed nowhere, and unlike the private
//! networks is not what offices, VPNs and other container engines use, nor, unlike 100.64.0.0/10, what Tailscale filters.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, bail};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Socket;
use super::publish::Port;
use super::{Joined, Namespace, link, nftables};

/// First address of the pool.
const POOL: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
/// Pods that the pool is enough for.
const PODS: u32 = 1 << 14;
/// Bits of each pod's network: four addresses, the second for the host, the third for the pod.
const PREFIX_BITS: u8 = 30;
/// Routes with fewer bits say where everything else goes, not which networks there are: a VPN has 0.0.0.0/1 and 128.0.0.0/1.
const NETWORK_BITS: u8 = 8;
/// How the names of the host's ends begin; a pod's number follows. The name is also what claims the number.
const PREFIX: &str = "crx-nat";
/// The pod's interface.
const INTERFACE: &str = "eth0";
/// Largest packet of the interface, in bytes, if the host has no default route: Ethernet's.
const MTU: u32 = 1500;

/// Makes a network for a pod behind the address of `host`, with `ports` of it, which somebody has taken, before the pod's own, and joins it to a tap
/// as [`Namespace::join`] does. IPv4 only.
///
/// # Errors
/// The host has no nftables with masquerading, no free addresses, or this process no rights.
pub(crate) fn nat(host: &Namespace, ports: &[Port], queue_pairs: u8) -> anyhow::Result<Joined> {
    let pod = Namespace::new_empty()?;
    let (number, table) = host.within(|| {
        let number = claim(&pod).context("cannot make a pair of interfaces")?;
        let table = open_up(number, ports)?;
        Ok((number, table))
    })?;
    pod.within(|| furnish(number).context("cannot set the pod's interface up"))?;
    let mut found = pod.find()?;
    // They come from the host's own, in which nobody has set anything for this pod.
    found.network.sysctl.clear();
    let mut joined = pod.join(found, queue_pairs)?;
    joined.held.push(table);
    Ok(joined)
}

/// The host's and the pod's address.
fn addresses(number: u32) -> (Ipv4Addr, Ipv4Addr) {
    let first = POOL.to_bits() + number * 4;
    (Ipv4Addr::from_bits(first + 1), Ipv4Addr::from_bits(first + 2))
}

/// Makes the pair of interfaces, with the host's end in this thread's namespace, and says which pod's number it has.
fn claim(pod: &Namespace) -> anyhow::Result<u32> {
    let mut socket = Socket::route()?;
    let taken = Taken::list(&mut socket)?;
    for number in (0..PODS).filter(|number| !taken.has(*number)) {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(INTERFACE.to_owned()),
            LinkAttribute::Mtu(taken.mtu),
            LinkAttribute::NetNsFd(pod.file.as_raw_fd()),
        ];
        let mut pair = LinkMessage::default();
        pair.attributes = vec![
            LinkAttribute::IfName(format!("{PREFIX}{number}")),
            LinkAttribute::Mtu(taken.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        match socket.request(RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => return Ok(number),
            // Another launch was quicker.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("all networks of {POOL}/16 are taken, by {PREFIX}* or by routes of the host");
}

/// Lets the pod's packets out of this thread's namespace, and those for the published ports in. Returns what holds the table.
fn open_up(number: u32, ports: &[Port]) -> anyhow::Result<OwnedFd> {
    let name = format!("{PREFIX}{number}");
    let (host, pod) = addresses(number);
    let mut socket = Socket::route()?;
    let set_up = link::index_of(&mut socket, &name).and_then(|index| {
        link::silence(&mut socket, index)?;
        add_address(&mut socket, index, host)?;
        link::up(&mut socket, index)?;
        Ok(index)
    });
    let index = set_up.with_context(|| format!("cannot set up interface {name}"))?;
    // Packets under an address that is not the pod's would leave as they are: masquerading looks at the address.
    set(&format!("net/ipv4/conf/{name}/rp_filter"), "1")?;
    let pod = nftables::Pod { address: pod, interface: index, ports };
    let table = nftables::table(&name, &pod).with_context(|| {
        format!(
            "cannot make table ip {name} of nftables; the kernel needs nf_tables, nft_chain_nat, nft_masq and, for --publish, nft_nat and nft_fib_ipv4"
        )
    })?;
    // After the table, which keeps the pod itself away from 127.0.0.1.
    if ports.iter().any(Port::is_on_loopback) {
        set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    }
    // Last: a launch that fails above has not changed the host.
    set("net/ipv4/ip_forward", "1")?;
    Ok(table)
}

/// Sets a parameter of this thread's namespace, unless it is so already.
fn set(name: &str, value: &str) -> anyhow::Result<()> {
    let file = format!("/proc/sys/{name}");
    let is_so = std::fs::read_to_string(&file).is_ok_and(|now| now.trim() == value);
    if is_so {
        Ok(())
    } else {
        std::fs::write(&file, value).with_context(|| format!("cannot write {value} to {file}"))
    }
}

/// Gives the interface in this thread's namespace its address and the way out.
fn furnish(number: u32) -> io::Result<()> {
    let (host, pod) = addresses(number);
    let mut socket = Socket::route()?;
    let index = link::index_of(&mut socket, INTERFACE)?;
    add_address(&mut socket, index, pod)?;
    link::up(&mut socket, index)?;
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(host)), RouteAttribute::Oif(index)];
    socket.request(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL)
}

fn add_address(socket: &mut Socket, index: u32, ip: Ipv4Addr) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = PREFIX_BITS;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(IpAddr::V4(ip)), AddressAttribute::Address(IpAddr::V4(ip))];
    socket.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// What the host has already.
struct Taken {
    names: Vec<String>,
    /// First and last addresses of its networks.
    networks: Vec<(u32, u32)>,
    /// Largest packet on its way to the world, in bytes.
    mtu: u32,
}

impl Taken {
    fn list(socket: &mut Socket) -> io::Result<Self> {
        let links = link::all(socket)?;
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let (mut networks, mut mtu) = (Vec::new(), MTU);
        // Of all tables: policy routing has others.
        for answer in socket.list(&RouteNetlinkMessage::GetRoute(message))? {
            let RouteNetlinkMessage::NewRoute(route) = answer else { continue };
            let bits = route.header.destination_prefix_length;
            let destination = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(address.to_bits()),
                _ => None,
            });
            match destination {
                Some(first) if bits >= NETWORK_BITS => {
                    networks.push((first, first | u32::MAX.checked_shr(bits.into()).unwrap_or(0)));
                }
                None if bits == 0 && route.header.table == RouteHeader::RT_TABLE_MAIN => {
                    let out = route.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Oif(index) => Some(*index),
                        _ => None,
                    });
                    mtu = links.iter().find(|link| Some(link.index) == out).map_or(mtu, |link| link.mtu);
                }
                _ => {}
            }
        }
        Ok(Self { names: links.into_iter().map(|link| link.name).collect(), networks, mtu })
    }

    fn has(&self, number: u32) -> bool {
        let first = POOL.to_bits() + number * 4;
        let name = format!("{PREFIX}{number}");
        self.names.contains(&name)
            || self.networks.iter().any(|(from, to)| *from <= first + 3 && first <= *to)
    }
}

#[cfg(test)]
#[path = "nat_tests.rs"]
mod tests;
