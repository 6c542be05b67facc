//! What a pod's network has, as requests to its kernel. No I/O.

use std::net::IpAddr;

use crx_proto::{Address, Neighbour, Route};

use super::netlink::{CREATE, EXCLUSIVE, REPLACE, Requests};

/// What a request is about: indices in the [`crx_proto::Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// An interface's name, hardware address or MTU, or that it is up.
    Interface(usize),
    /// An address of an interface.
    Address(usize, usize),
    /// A route.
    Route(usize),
    /// A neighbour.
    Neighbour(usize),
}

/// What changes of a network device.
#[derive(Clone, Copy, Default)]
pub(crate) struct Link<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: Option<u32>,
    pub(crate) link_local: Option<LinkLocal>,
    pub(crate) up: bool,
}

/// Which link-local IPv6 address the kernel gives to a device that comes up (IN6_ADDR_GEN_MODE_* of linux/if_link.h).
#[derive(Clone, Copy)]
pub(crate) enum LinkLocal {
    /// The one made of its hardware address, as usual.
    OfMac = 0,
    /// None.
    None = 1,
}

/// RTM_SETLINK, RTM_NEWADDR, RTM_NEWROUTE and RTM_NEWNEIGH of linux/rtnetlink.h.
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const NEW_NEIGHBOUR: u16 = 28;

impl<T> Requests<T> {
    /// Changes a network device. The kernel sets it up after everything else, whatever the order of the attributes.
    pub(crate) fn set_link(&mut self, about: T, index: u32, link: Link<'_>) {
        // IFLA_* of linux/if_link.h.
        const ADDRESS: u16 = 1;
        const NAME: u16 = 3;
        const MTU: u16 = 4;
        const OF_FAMILY: u16 = 26;
        // IFLA_INET6_ADDR_GEN_MODE.
        const GENERATION: u16 = 8;
        let up = if link.up { libc::IFF_UP as u32 } else { 0 }.to_ne_bytes();
        // struct ifinfomsg: ifi_family, a byte of padding, ifi_type, ifi_index, ifi_flags, ifi_change.
        self.begin(about, SET_LINK, 0, &[&[0; 4], &index.to_ne_bytes(), &up, &up]);
        if let Some(mac) = link.mac {
            self.attribute(ADDRESS, &[&mac]);
        }
        if let Some(mtu) = link.mtu {
            self.attribute(MTU, &[&mtu.to_ne_bytes()]);
        }
        if let Some(name) = link.name {
            self.attribute(NAME, &[name.as_bytes(), &[0]]);
        }
        if let Some(link_local) = link.link_local {
            // Nested: what IPv6 is told, of which this is one.
            let [inner, outer]: [u16; 2] = [5, 12];
            let header = |length: u16, kind: u16| [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            let value = [link_local as u8, 0, 0, 0];
            self.attribute(
                OF_FAMILY,
                &[&header(outer, libc::AF_INET6 as u16), &header(inner, GENERATION), &value],
            );
        }
    }
}

impl Requests<About> {
    /// Adds an address.
    pub(crate) fn add_address(&mut self, about: About, index: u32, address: &Address) {
        // IFA_* of linux/if_addr.h.
        const ADDRESS: u16 = 1;
        const LOCAL: u16 = 2;
        const BROADCAST: u16 = 4;
        const NO_DUPLICATE_DETECTION: u8 = 0x02;
        let Address { ip, prefix_bits, peer, broadcast, scope } = address;
        // The address is the pod's: whoever gave it knows that nobody else has it. Asking would take a second.
        let flags = if ip.is_ipv6() { NO_DUPLICATE_DETECTION } else { 0 };
        // An interface that is up has a link-local address by itself, and it may be this one.
        let how = if is_link_local(ip) { REPLACE } else { EXCLUSIVE };
        // struct ifaddrmsg: ifa_family, ifa_prefixlen, ifa_flags, ifa_scope, ifa_index.
        let structure: [&[u8]; 2] = [&[family(ip), *prefix_bits, flags, *scope], &index.to_ne_bytes()];
        self.begin(about, NEW_ADDRESS, CREATE | how, &structure);
        self.ip(LOCAL, ip);
        self.ip(ADDRESS, &peer.unwrap_or(*ip));
        if let Some(broadcast) = broadcast {
            self.ip(BROADCAST, &IpAddr::V4(*broadcast));
        }
    }

    /// Adds a route to the main table. `index`: the network device's, if the route has one.
    pub(crate) fn add_route(&mut self, about: About, index: Option<u32>, route: &Route) {
        // RTA_*, RT_TABLE_MAIN, RTPROT_STATIC and RTNH_F_ONLINK of linux/rtnetlink.h.
        const DESTINATION: u16 = 1;
        const DEVICE: u16 = 4;
        const GATEWAY: u16 = 5;
        const PRIORITY: u16 = 6;
        const PREFERRED_SOURCE: u16 = 7;
        const VIA: u16 = 18;
        const TABLE_MAIN: u8 = 254;
        const MADE_BY_ADMINISTRATOR: u8 = 4;
        const ON_LINK: u32 = 4;
        let family_of_route = family(&route.destination);
        let flags = if route.onlink { ON_LINK } else { 0 };
        // struct rtmsg: rtm_family, rtm_dst_len, rtm_src_len, rtm_tos, rtm_table, rtm_protocol, rtm_scope, rtm_type,
        // rtm_flags.
        let structure: [&[u8]; 3] = [
            &[family_of_route, route.prefix_bits, 0, 0],
            &[TABLE_MAIN, MADE_BY_ADMINISTRATOR, route.scope, route.kind],
            &flags.to_ne_bytes(),
        ];
        self.begin(about, NEW_ROUTE, CREATE | EXCLUSIVE, &structure);
        if route.prefix_bits > 0 {
            self.ip(DESTINATION, &route.destination);
        }
        match &route.gateway {
            Some(gateway) if family(gateway) == family_of_route => self.ip(GATEWAY, gateway),
            // struct rtvia: rtvia_family, rtvia_addr.
            Some(gateway) => {
                let family = u16::from(family(gateway)).to_ne_bytes();
                match gateway {
                    IpAddr::V4(gateway) => self.attribute(VIA, &[&family, &gateway.octets()]),
                    IpAddr::V6(gateway) => self.attribute(VIA, &[&family, &gateway.octets()]),
                }
            }
            None => {}
        }
        if let Some(index) = index {
            self.attribute(DEVICE, &[&index.to_ne_bytes()]);
        }
        if let Some(source) = &route.source {
            self.ip(PREFERRED_SOURCE, source);
        }
        if let Some(metric) = route.metric {
            self.attribute(PRIORITY, &[&metric.to_ne_bytes()]);
        }
    }

    /// Adds a permanent neighbour.
    pub(crate) fn add_neighbour(&mut self, about: About, index: u32, neighbour: &Neighbour) {
        // NDA_* and NUD_PERMANENT of linux/neighbour.h.
        const DESTINATION: u16 = 1;
        const HARDWARE_ADDRESS: u16 = 2;
        const PERMANENT: u16 = 0x80;
        // struct ndmsg: ndm_family, three bytes of padding, ndm_ifindex, ndm_state, ndm_flags, ndm_type.
        let structure: [&[u8]; 4] = [
            &[family(&neighbour.ip), 0, 0, 0],
            &index.to_ne_bytes(),
            &PERMANENT.to_ne_bytes(),
            &[0, libc::RTN_UNICAST],
        ];
        self.begin(about, NEW_NEIGHBOUR, CREATE | REPLACE, &structure);
        self.ip(DESTINATION, &neighbour.ip);
        self.attribute(HARDWARE_ADDRESS, &[&neighbour.mac]);
    }

    fn ip(&mut self, kind: u16, ip: &IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.attribute(kind, &[&ip.octets()]),
            IpAddr::V6(ip) => self.attribute(kind, &[&ip.octets()]),
        }
    }
}

/// AF_INET or AF_INET6.
fn family(ip: &IpAddr) -> u8 {
    if ip.is_ipv6() { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 }
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About = About::Interface(0);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The bytes of the one request, after its header, whose length and type are checked.
    fn body(kind: u16, flags: u16, add: impl FnOnce(&mut Requests<About>)) -> Vec<u8> {
        let mut requests = Requests::new();
        add(&mut requests);
        let bytes = requests.bytes();
        assert_eq!(bytes[..4], (bytes.len() as u32).to_le_bytes());
        assert_eq!(bytes[4..8], [kind.to_le_bytes(), flags.to_le_bytes()].concat());
        bytes[16..].to_vec()
    }

    #[test]
    fn a_link_as_the_kernel_reads_it() {
        let (mac, mtu) = (Some([2, 3, 4, 5, 6, 7]), Some(9000));
        let link = Link { name: Some("net1"), mac, mtu, link_local: Some(LinkLocal::None), up: true };
        #[rustfmt::skip]
        let expected = [
            0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,
            10, 0, 1, 0, 2, 3, 4, 5, 6, 7, 0, 0,
            8, 0, 4, 0, 0x28, 0x23, 0, 0,
            9, 0, 3, 0, b'n', b'e', b't', b'1', 0, 0, 0, 0,
            16, 0, 26, 0, 12, 0, 10, 0, 5, 0, 8, 0, 1, 0, 0, 0,
        ];
        assert_eq!(body(19, 1, |requests| requests.set_link(ABOUT, 5, link)), expected);
        let nothing = body(19, 1, |requests| requests.set_link(ABOUT, 5, Link::default()));
        assert_eq!(nothing, [0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn addresses_as_the_kernel_reads_them() {
        let mut address = Address {
            ip: ip("10.1.2.3"),
            prefix_bits: 24,
            peer: None,
            broadcast: Some("10.1.2.255".parse().unwrap()),
            scope: 253,
        };
        #[rustfmt::skip]
        let expected = [
            2, 24, 0, 253, 5, 0, 0, 0,
            8, 0, 2, 0, 10, 1, 2, 3,
            8, 0, 1, 0, 10, 1, 2, 3,
            8, 0, 4, 0, 10, 1, 2, 255,
        ];
        assert_eq!(body(20, 0x601, |requests| requests.add_address(ABOUT, 5, &address)), expected);
        address.peer = Some(ip("10.9.9.9"));
        address.broadcast = None;
        let bytes = body(20, 0x601, |requests| requests.add_address(ABOUT, 5, &address));
        assert_eq!(bytes[16..], [8, 0, 1, 0, 10, 9, 9, 9]);
        address.peer = None;
        for (text, flags) in [("fd00::1", 0x601), ("fe80::1", 0x501)] {
            address.ip = ip(text);
            let bytes = body(20, flags, |requests| requests.add_address(ABOUT, 5, &address));
            assert_eq!(bytes[..12], [10, 24, 2, 253, 5, 0, 0, 0, 20, 0, 2, 0]);
            assert_eq!(bytes.len(), 8 + 20 + 20);
        }
    }

    fn route() -> Route {
        Route {
            destination: ip("10.2.0.0"),
            prefix_bits: 16,
            kind: 1,
            gateway: Some(ip("10.1.2.1")),
            onlink: true,
            interface: Some(0),
            source: Some(ip("10.1.2.3")),
            metric: Some(77),
            scope: 253,
        }
    }

    #[test]
    fn a_route_as_the_kernel_reads_it() {
        #[rustfmt::skip]
        let expected = [
            2, 16, 0, 0, 254, 4, 253, 1, 4, 0, 0, 0,
            8, 0, 1, 0, 10, 2, 0, 0,
            8, 0, 5, 0, 10, 1, 2, 1,
            8, 0, 4, 0, 5, 0, 0, 0,
            8, 0, 7, 0, 10, 1, 2, 3,
            8, 0, 6, 0, 77, 0, 0, 0,
        ];
        assert_eq!(body(24, 0x601, |requests| requests.add_route(ABOUT, Some(5), &route())), expected);
    }

    #[test]
    fn a_route_has_only_what_it_is_given() {
        let mut route = Route {
            destination: ip("0.0.0.0"),
            prefix_bits: 0,
            kind: 7,
            gateway: None,
            onlink: false,
            source: None,
            metric: None,
            scope: 0,
            ..route()
        };
        let bytes = body(24, 0x601, |requests| requests.add_route(ABOUT, None, &route));
        assert_eq!(bytes, [2, 0, 0, 0, 254, 4, 0, 7, 0, 0, 0, 0]);
        route.gateway = Some(ip("fe80::1"));
        let bytes = body(24, 0x601, |requests| requests.add_route(ABOUT, None, &route));
        assert_eq!(bytes[12..20], [22, 0, 18, 0, 10, 0, 0xfe, 0x80], "IPv4 by way of IPv6");
        assert_eq!(bytes.len(), 12 + 24);
        route.destination = ip("::");
        let bytes = body(24, 0x601, |requests| requests.add_route(ABOUT, None, &route));
        assert_eq!(bytes[12..18], [20, 0, 5, 0, 0xfe, 0x80]);
    }

    #[test]
    fn a_neighbour_as_the_kernel_reads_it() {
        let neighbour = Neighbour { interface: 0, ip: ip("10.1.2.1"), mac: [2, 3, 4, 5, 6, 7] };
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, 5, 0, 0, 0, 0x80, 0, 0, 1,
            8, 0, 1, 0, 10, 1, 2, 1,
            10, 0, 2, 0, 2, 3, 4, 5, 6, 7, 0, 0,
        ];
        assert_eq!(body(28, 0x501, |requests| requests.add_neighbour(ABOUT, 5, &neighbour)), expected);
    }
}
