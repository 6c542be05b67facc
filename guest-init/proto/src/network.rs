//! The pod's network as its kernel is to have it: what was found in a network namespace of the host, or made for the pod.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// Interfaces and what belongs to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The interfaces, in the order in which they come up.
    pub interfaces: Vec<Interface>,
    /// Routes of the main table, in the order in which they can be added: none before the one to its gateway.
    pub routes: Vec<Route>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Kernel parameters: name as below /proc/sys with slashes, and value. Set when the interfaces have their names, before
    /// they come up.
    pub sysctl: Vec<(String, String)>,
}

/// An interface: a virtio-net device of the VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Number of the device's virtio-mmio window: the guest's platform device `virtio-mmio.N`.
    pub window: u8,
    /// Its name in the pod, at most 15 bytes, no slash, no white space.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Queue pairs in use: one for each virtual processor, as far as the device has them.
    pub queue_pairs: u8,
    /// The other side takes packets with checksums to be filled in and segments to be made: a tap does, a socket does not.
    pub offloads: bool,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network's part.
    pub prefix_bits: u8,
    /// The other end's, of a point-to-point address.
    pub peer: Option<IpAddr>,
    /// Broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// Scope (RT_SCOPE_* of linux/rtnetlink.h).
    pub scope: u8,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Network to which it leads; its family is the route's.
    pub destination: IpAddr,
    /// Bits of the network's part; 0 for the default route.
    pub prefix_bits: u8,
    /// Kind (RTN_* of linux/rtnetlink.h): RTN_UNICAST mostly.
    pub kind: u8,
    /// Where to send what goes there; none if it is on the link.
    pub gateway: Option<IpAddr>,
    /// The gateway is on the link although no address says so (RTNH_F_ONLINK).
    pub onlink: bool,
    /// Index of the interface in [`Network::interfaces`]; none for kinds without one.
    pub interface: Option<u8>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Metric; none for the kernel's default.
    pub metric: Option<u32>,
    /// Scope (RT_SCOPE_*).
    pub scope: u8,
}

/// A neighbour that is known without being asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Index of the interface in [`Network::interfaces`].
    pub interface: u8,
    /// Its address.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
}
