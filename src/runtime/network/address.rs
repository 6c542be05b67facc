//! Addresses and neighbours, from the kernel's messages.

use std::net::IpAddr;

use crx_proto::{Address, Neighbour};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

/// The address, unless the guest's kernel makes it itself: from the interface's MAC address, or from what a router says.
pub(super) fn address(message: &AddressMessage, mac: [u8; 6]) -> Option<Address> {
    let header = &message.header;
    let (mut ip, mut other, mut broadcast, mut link_local) = (None, None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => ip = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::Broadcast(address) => broadcast = Some(*address),
            AddressAttribute::Protocol(AddressProtocol::LinkLocal) => link_local = true,
            _ => {}
        }
    }
    // IFA_ADDRESS is the address itself, or the peer's if IFA_LOCAL is another (linux/if_addr.h).
    let ip = ip.or(other)?;
    let peer = other.filter(|other| *other != ip);
    if let IpAddr::V6(ip) = ip {
        let of_router = !header.flags.contains(AddressHeaderFlags::Permanent);
        // Kernels before 5.18 do not say whose an address is.
        if of_router || link_local || ip.octets() == eui64(mac) {
            return None;
        }
    }
    Some(Address { ip, prefix_bits: header.prefix_len, peer, broadcast, scope: header.scope.into() })
}

/// The link-local address of an interface (RFC 4291, appendix A).
fn eui64(mac: [u8; 6]) -> [u8; 16] {
    let [a, b, c, d, e, f] = mac;
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

/// The neighbour if it is a permanent one; `interface` is what it belongs to.
pub(super) fn neighbour(message: &NeighbourMessage, interface: u8) -> Option<Neighbour> {
    let header = &message.header;
    if header.state != NeighbourState::Permanent || header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                ip = Some(IpAddr::V4(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                ip = Some(IpAddr::V6(*address))
            }
            NeighbourAttribute::LinkLayerAddress(address) => mac = address.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour { interface, ip: ip?, mac: mac? })
}
