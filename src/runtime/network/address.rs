//! Addresses and neighbours, from the kernel's messages.

use std::net::IpAddr;

use crx_proto::{Address, Neighbour};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

/// The address, unless the guest's kernel makes it itself from what a router says.
pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    let (mut ip, mut other, mut broadcast) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => ip = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::Broadcast(address) => broadcast = Some(*address),
            _ => {}
        }
    }
    // IFA_ADDRESS is the address itself, or the peer's if IFA_LOCAL is another (linux/if_addr.h).
    let ip = ip.or(other)?;
    let peer = other.filter(|other| *other != ip);
    if ip.is_ipv6() && !header.flags.contains(AddressHeaderFlags::Permanent) {
        return None;
    }
    Some(Address { ip, prefix_bits: header.prefix_len, peer, broadcast, scope: header.scope.into() })
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
