//! Networks in network namespaces of this machine, with pairs of virtual devices as the pod's: what is set up is read
//! back from the kernel. They need root.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use crx_proto::{Address, Neighbour, Route};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::*;
use crate::net::netlink::{CREATE, EXCLUSIVE};
use crate::net::nics::{nic, raised};
use crate::sys;

const MAC: [u8; 6] = [2, 0, 0, 0xab, 0xcd, 1];

/// An interface without addresses.
pub(crate) fn interface(window: u8, name: &str) -> Interface {
    Interface {
        window,
        name: name.to_owned(),
        mac: [MAC[0], MAC[1], MAC[2], MAC[3], MAC[4], window],
        mtu: 1500,
        queue_pairs: 1,
        offloads: true,
        addresses: Vec::new(),
    }
}

fn address(text: &str, prefix_bits: u8) -> Address {
    Address { ip: text.parse().unwrap(), prefix_bits, peer: None, broadcast: None, scope: 0 }
}

fn route(text: &str, prefix_bits: u8, gateway: Option<&str>) -> Route {
    Route {
        destination: text.parse().unwrap(),
        prefix_bits,
        kind: libc::RTN_UNICAST,
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        onlink: false,
        interface: Some(0),
        source: None,
        metric: None,
        scope: if gateway.is_none() && text.contains('.') { libc::RT_SCOPE_LINK } else { 0 },
    }
}

/// A network of these interfaces.
fn network(interfaces: Vec<Interface>) -> Network {
    Network { interfaces, ..Network::default() }
}

/// A message of the kernel: the structure after its header, and the attributes by kind.
struct Message {
    structure: Vec<u8>,
    attributes: BTreeMap<u16, Vec<u8>>,
}

impl Message {
    fn number(&self, kind: u16) -> Option<u32> {
        self.attributes.get(&kind).map(|bytes| u32::from_ne_bytes(bytes[..4].try_into().unwrap()))
    }

    fn ip(&self, kind: u16) -> Option<IpAddr> {
        self.attributes.get(&kind).map(|bytes| match bytes.len() {
            4 => Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[..]).unwrap()).into(),
            _ => Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).unwrap()).into(),
        })
    }
}

/// A network namespace of this thread's own.
struct Namespace {
    socket: Socket,
}

impl Namespace {
    /// `None`, with a word about it, where none can be made.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: making network namespaces needs root");
            return None;
        }
        sys::unshare_network().unwrap();
        Some(Self { socket: Socket::new().unwrap() })
    }

    /// Makes a device like a pod's: its other end is called `other` and is up.
    fn device(&self, name: &str, other: &str) -> Nic {
        const NEW_LINK: u16 = 16;
        // IFLA_IFNAME, IFLA_LINKINFO; IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER.
        let [name_kind, information_kind]: [u16; 2] = [3, 18];
        let [kind, data, peer]: [u16; 3] = [1, 2, 1];
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let name_of = |name: &str| attribute(name_kind, format!("{name}\0").as_bytes());
        let peer = attribute(peer, &[vec![0; 16], name_of(other)].concat());
        let information = [attribute(kind, b"veth\0"), attribute(data, &peer)].concat();
        let mut requests = Requests::new();
        requests.begin((), NEW_LINK, CREATE | EXCLUSIVE, &[&[0; 16], &name_of(name)]);
        requests.attribute(information_kind, &[&information]);
        requests.send(&self.socket).unwrap();
        let other = nic(&self.socket, other.to_owned()).unwrap();
        let mut requests = Requests::new();
        requests.set_link(About::Interface(0), other.index, Link { up: true, ..Link::default() });
        requests.send(&self.socket).unwrap();
        nic(&self.socket, name.to_owned()).unwrap()
    }

    fn apply(&self, devices: &[Nic], network: &Network) -> Result<(), StartError> {
        check(network).and_then(|()| apply_to(devices, network, &self.socket))
    }

    /// All messages of a kind, RTM_GET*.
    fn read(&self, get: u16, family: i32, structure_bytes: usize) -> Vec<Message> {
        const DUMP: u16 = 0x300;
        const DONE: u16 = 3;
        let mut structure = vec![0; structure_bytes];
        structure[0] = family as u8;
        let mut request = Requests::new();
        request.begin((), get, DUMP, &[&structure]);
        send(self.socket.fd(), request.bytes(), SendFlags::empty()).unwrap();
        let mut messages = Vec::new();
        loop {
            let mut buffer = vec![0; 64 << 10];
            let (length, _) = recv(self.socket.fd(), &mut buffer[..], RecvFlags::empty()).unwrap();
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
                if u16::from_ne_bytes([rest[4], rest[5]]) == DONE {
                    return messages;
                }
                let (structure, mut attributes) = rest[16..length].split_at(structure_bytes);
                let mut message = Message { structure: structure.to_vec(), attributes: BTreeMap::new() };
                while attributes.len() >= 4 {
                    let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
                    let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
                    message.attributes.insert(kind, attributes[4..length].to_vec());
                    attributes = &attributes[length.next_multiple_of(4).min(attributes.len())..];
                }
                messages.push(message);
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }

    /// Of each device but `lo` and the other ends: its name, hardware address, MTU, and whether it is up.
    fn links(&self) -> Vec<(String, Vec<u8>, u32, bool)> {
        let name = |link: &Message| {
            String::from_utf8(link.attributes[&3].split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
        };
        let links = self.read(18, libc::AF_UNSPEC, 16);
        let links = links.iter().filter(|link| name(link) != "lo" && !name(link).starts_with("other"));
        let mut links: Vec<_> = links
            .map(|link| {
                let up = link.structure[8] & libc::IFF_UP as u8 != 0;
                (name(link), link.attributes[&1].clone(), link.number(4).unwrap(), up)
            })
            .collect();
        links.sort();
        links
    }

    /// The addresses of a device, as text.
    fn addresses(&self, device: &Nic) -> Vec<String> {
        let mut texts = Vec::new();
        for message in self.read(22, libc::AF_UNSPEC, 8) {
            if message.structure[4..8] != device.index.to_ne_bytes() {
                continue;
            }
            let (bits, scope) = (message.structure[1], message.structure[3]);
            let (own, other) = (message.ip(2).or(message.ip(1)).unwrap(), message.ip(1).unwrap());
            let mut text = format!("{own}/{bits} scope {scope}");
            if own != other {
                text += &format!(" peer {other}");
            }
            if let Some(broadcast) = message.ip(4) {
                text += &format!(" broadcast {broadcast}");
            }
            // IFA_FLAGS: IFA_F_TENTATIVE.
            if message.number(8).unwrap() & 0x40 != 0 {
                text += " tentative";
            }
            texts.push(text);
        }
        texts
    }

    /// The routes of the main table that were not made by the kernel, as text.
    fn routes(&self, family: i32) -> Vec<String> {
        let mut texts = Vec::new();
        for message in self.read(26, family, 12) {
            let [_, bits, _, _, table, maker, scope, kind, flags, ..] = message.structure[..] else {
                panic!()
            };
            if table != 254 || maker != 4 {
                continue;
            }
            let mut text = message.ip(1).map_or("default".to_owned(), |to| format!("{to}/{bits}"));
            if let Some(gateway) = message.ip(5) {
                text += &format!(" via {gateway}");
            }
            if let Some(via) = message.attributes.get(&18) {
                text += &format!(" via {}", Ipv6Addr::from(<[u8; 16]>::try_from(&via[2..]).unwrap()));
            }
            if let Some(device) = message.number(4) {
                text += &format!(" dev {device}");
            }
            if let Some(source) = message.ip(7) {
                text += &format!(" src {source}");
            }
            if let Some(metric) = message.number(6) {
                text += &format!(" metric {metric}");
            }
            text += &format!(" scope {scope} kind {kind}");
            if flags & 4 != 0 {
                text += " onlink";
            }
            texts.push(text);
        }
        texts
    }
}

#[test]
fn an_interface_has_what_the_plan_says() {
    let Some(namespace) = Namespace::new() else { return };
    let device = namespace.device("found", "other");
    let mut wanted = interface(3, "eth0");
    wanted.mac = MAC;
    wanted.mtu = 9000;
    let mut first = address("10.1.2.3", 24);
    first.broadcast = Some(Ipv4Addr::new(10, 1, 2, 255));
    let mut to_peer = address("10.5.0.1", 32);
    to_peer.peer = Some("10.5.0.2".parse().unwrap());
    wanted.addresses = vec![first, to_peer, address("fd00:1::3", 64)];
    namespace.apply(std::slice::from_ref(&device), &network(vec![wanted])).unwrap();
    assert_eq!(namespace.links(), [("eth0".to_owned(), MAC.to_vec(), 9000, true)]);
    let mut addresses = namespace.addresses(&device);
    // The kernel's own comes when the link is ready, which takes as long as it takes.
    addresses.retain(|address| !address.starts_with("fe80::"));
    assert_eq!(
        addresses,
        [
            "10.1.2.3/24 scope 0 broadcast 10.1.2.255",
            "10.5.0.1/32 scope 0 peer 10.5.0.2",
            "fd00:1::3/64 scope 0"
        ],
        "usable at once"
    );
    std::net::UdpSocket::bind("[fd00:1::3]:0").unwrap();
}

#[test]
fn routes_and_neighbours_are_as_the_plan_says() {
    let Some(namespace) = Namespace::new() else { return };
    let device = namespace.device("eth0", "other");
    let mut wanted = network(vec![interface(3, "eth0")]);
    // As with Calico: a gateway that is on the link although no address says so.
    wanted.interfaces[0].addresses = vec![address("10.1.2.3", 32), address("fd00:1::3", 64)];
    let on_link = route("169.254.1.1", 32, None);
    let mut default = route("0.0.0.0", 0, Some("169.254.1.1"));
    default.metric = Some(100);
    default.source = Some("10.1.2.3".parse().unwrap());
    let mut backup = route("0.0.0.0", 0, Some("10.9.9.9"));
    (backup.onlink, backup.metric) = (true, Some(200));
    let mut nowhere = route("10.66.0.0", 16, None);
    (nowhere.interface, nowhere.kind, nowhere.scope) = (None, libc::RTN_UNREACHABLE, 0);
    let by_ipv6 = route("10.77.0.0", 16, Some("fe80::1"));
    let default_6 = route("::", 0, Some("fe80::1"));
    let mut narrow_6 = route("fd00:2::", 48, Some("fd00:1::1"));
    narrow_6.metric = Some(33);
    wanted.routes = vec![on_link, default, backup, nowhere, by_ipv6, default_6, narrow_6];
    let neighbour = |text: &str| Neighbour { interface: 0, ip: text.parse().unwrap(), mac: [0xee; 6] };
    wanted.neighbours = vec![neighbour("169.254.1.1"), neighbour("fe80::1")];
    namespace.apply(std::slice::from_ref(&device), &wanted).unwrap();
    let dev = device.index;
    let mut routes = namespace.routes(libc::AF_INET);
    routes.sort();
    assert_eq!(
        routes,
        [
            "10.66.0.0/16 scope 0 kind 7".to_owned(),
            format!("10.77.0.0/16 via fe80::1 dev {dev} scope 0 kind 1"),
            format!("169.254.1.1/32 dev {dev} scope 253 kind 1"),
            format!("default via 10.9.9.9 dev {dev} metric 200 scope 0 kind 1 onlink"),
            format!("default via 169.254.1.1 dev {dev} src 10.1.2.3 metric 100 scope 0 kind 1"),
        ]
    );
    let mut routes = namespace.routes(libc::AF_INET6);
    routes.sort();
    assert_eq!(
        routes,
        [
            format!("default via fe80::1 dev {dev} metric 1024 scope 0 kind 1"),
            format!("fd00:2::/48 via fd00:1::1 dev {dev} metric 33 scope 0 kind 1"),
        ]
    );
    let mut neighbours: Vec<_> = namespace
        .read(30, libc::AF_UNSPEC, 12)
        .iter()
        // ndm_state: NUD_PERMANENT.
        .filter(|message| message.structure[8] == 0x80)
        .map(|message| (message.ip(1).unwrap().to_string(), message.attributes[&2].clone()))
        .collect();
    neighbours.sort();
    assert_eq!(
        neighbours,
        [("169.254.1.1".to_owned(), vec![0xee; 6]), ("fe80::1".to_owned(), vec![0xee; 6])]
    );
}

#[test]
fn two_interfaces_swap_their_names() {
    let Some(namespace) = Namespace::new() else { return };
    let devices = [namespace.device("eth0", "other0"), namespace.device("eth1", "other1")];
    let wanted = network(vec![interface(3, "eth1"), interface(4, "eth0")]);
    namespace.apply(&devices, &wanted).unwrap();
    let mac = |window: usize| wanted.interfaces[window].mac.to_vec();
    assert_eq!(
        namespace.links(),
        [("eth0".to_owned(), mac(1), 1500, true), ("eth1".to_owned(), mac(0), 1500, true)]
    );
}

#[test]
fn kernel_parameters_are_set_when_the_name_is_there_and_before_the_interface_is_up() {
    let Some(namespace) = Namespace::new() else { return };
    let device = namespace.device("found", "other");
    let mut wanted = network(vec![interface(3, "net1")]);
    wanted.sysctl = vec![("net/ipv6/conf/net1/disable_ipv6".to_owned(), "1".to_owned())];
    wanted.interfaces[0].addresses = vec![address("10.1.2.3", 24)];
    namespace.apply(std::slice::from_ref(&device), &wanted).unwrap();
    assert_eq!(namespace.addresses(&device), ["10.1.2.3/24 scope 0"], "no link-local address");
    wanted.sysctl[0].0 = "net/ipv4/conf/net9/forwarding".to_owned();
    let error = namespace.apply(&[device], &wanted).unwrap_err();
    let line = "network: write /proc/sys/net/ipv4/conf/net9/forwarding: No such file or directory";
    assert_eq!(error.message, line);
}

#[test]
fn offloads_are_switched_off_where_the_other_side_takes_none() {
    let Some(namespace) = Namespace::new() else { return };
    let devices = [namespace.device("eth0", "other0"), namespace.device("eth1", "other1")];
    let mut wanted = network(vec![interface(3, "eth0"), interface(4, "eth1")]);
    wanted.interfaces[1].offloads = false;
    namespace.apply(&devices, &wanted).unwrap();
    let is_on = |name, command| ethtool(namespace.socket.fd().as_fd(), name, command, [0; 8]).unwrap()[0];
    for (name, on) in [("eth0", 1), ("eth1", 0)] {
        assert_eq!(is_on(name, EthtoolCommand::GetTxChecksum), on);
        assert_eq!(is_on(name, EthtoolCommand::GetTso), on);
    }
}

#[test]
fn a_device_that_is_up_before_its_interface_is_known_gets_all_of_it_and_no_address_more() {
    let Some(namespace) = Namespace::new() else { return };
    let found = namespace.device("eth0", "other");
    let device = raised(&namespace.socket, found.name).unwrap();
    let of_links = namespace.links();
    assert!(of_links.iter().any(|(name, _, _, up)| name == "eth0" && *up), "{of_links:?}");
    let mut wanted = network(vec![interface(3, "net1")]);
    wanted.interfaces[0].mtu = 9000;
    let mut link_local = address("fe80::77", 64);
    link_local.scope = libc::RT_SCOPE_LINK;
    wanted.interfaces[0].addresses = vec![address("10.1.2.3", 24), link_local];
    namespace.apply(std::slice::from_ref(&device), &wanted).unwrap();
    let mac = wanted.interfaces[0].mac.to_vec();
    assert_eq!(namespace.links(), [("net1".to_owned(), mac, 9000, true)]);
    assert_eq!(namespace.addresses(&device), ["10.1.2.3/24 scope 0", "fe80::77/64 scope 253"]);
    // Too small for IPv6, which takes its address away.
    wanted.interfaces[0].mtu = 1000;
    wanted.interfaces[0].addresses = vec![address("10.9.9.9", 24)];
    namespace
        .apply(std::slice::from_ref(&Nic { name: "net1".to_owned(), ..device.clone() }), &wanted)
        .unwrap();
    assert_eq!(namespace.addresses(&device), ["10.1.2.3/24 scope 0", "10.9.9.9/24 scope 0"]);
}

#[test]
fn link_local_addresses_that_the_kernel_makes_too_are_no_error() {
    let Some(namespace) = Namespace::new() else { return };
    let device = namespace.device("eth0", "other");
    let mut wanted = network(vec![interface(3, "eth0")]);
    wanted.interfaces[0].mac = MAC;
    let mut link_local = address("fe80::ff:fe00:0", 64);
    // As the kernel makes it of the hardware address (RFC 4291, appendix A).
    let end = [MAC[0] ^ 2, MAC[1], MAC[2], 0xff, 0xfe, MAC[3], MAC[4], MAC[5]];
    link_local.ip = Ipv6Addr::from(0xfe80 << 112 | u128::from(u64::from_be_bytes(end))).into();
    link_local.scope = libc::RT_SCOPE_LINK;
    wanted.interfaces[0].addresses = vec![link_local];
    namespace.apply(std::slice::from_ref(&device), &wanted).unwrap();
    assert_eq!(namespace.addresses(&device).len(), 1);
}

#[test]
fn what_the_kernel_refuses_is_named() {
    let Some(namespace) = Namespace::new() else { return };
    let device = [namespace.device("eth0", "other")];
    let fails = |change: &dyn Fn(&mut Network)| {
        let mut wanted = network(vec![interface(3, "eth0")]);
        change(&mut wanted);
        // It is up from the time before, and takes no other hardware address.
        wanted.interfaces[0].mac = MAC;
        namespace.apply(&device, &wanted).unwrap_err().message
    };
    let twice = |wanted: &mut Network| {
        wanted.interfaces[0].addresses = vec![address("10.1.2.3", 24), address("10.1.2.3", 24)];
    };
    assert_eq!(fails(&twice), "network: interface eth0: address 10.1.2.3/24: File exists");
    assert_eq!(
        fails(&|wanted| wanted.routes = vec![route("0.0.0.0", 0, Some("192.0.2.1"))]),
        "network: route to 0.0.0.0/0 via 192.0.2.1: Network is unreachable"
    );
    assert_eq!(
        fails(&|wanted| wanted.interfaces[0].addresses = vec![address("fd00::1", 200)]),
        "network: interface eth0: address fd00::1/200: Invalid argument"
    );
    assert_eq!(
        fails(&|wanted| wanted.interfaces[0].mtu = 1),
        "network: interface eth0: set it up: Invalid argument"
    );
    assert_eq!(
        fails(&|wanted| wanted.interfaces[0].name = "other".to_owned()),
        "network: interface other: set it up: File exists"
    );
    assert_eq!(
        fails(&|wanted| wanted.interfaces[0].queue_pairs = 7),
        "network: interface eth0: use 7 queue pairs: Invalid argument"
    );
    let zero = Neighbour { interface: 0, ip: "::".parse().unwrap(), mac: MAC };
    let message = fails(&|wanted| {
        wanted.neighbours = vec![zero.clone()];
        wanted.interfaces[0].mtu = 1;
    });
    assert_eq!(message, "network: interface eth0: set it up: Invalid argument", "the first error");
}

#[test]
fn more_routes_than_fit_into_one_system_call() {
    let Some(namespace) = Namespace::new() else { return };
    let device = [namespace.device("eth0", "other")];
    let mut wanted = network(vec![interface(3, "eth0")]);
    let to = |number: u16| {
        let [high, low] = number.to_be_bytes();
        route(&format!("10.{high}.{low}.0"), 24, None)
    };
    wanted.routes = (0..1000).map(to).collect();
    namespace.apply(&device, &wanted).unwrap();
    assert_eq!(namespace.routes(libc::AF_INET).len(), 1000);
    // All of them fail, and each failure is answered.
    let error = namespace.apply(&device, &wanted).unwrap_err();
    assert_eq!(error.message, "network: route to 10.0.0.0/24: File exists");
    wanted.routes.insert(0, to(1000));
    let error = namespace.apply(&device, &wanted).unwrap_err();
    assert_eq!(error.message, "network: route to 10.0.0.0/24: File exists", "not the first of its call");
}

/// What [`check`] says of a network with a change.
fn refused_with(change: impl FnOnce(&mut Network)) -> String {
    let mut network = network(vec![interface(3, "eth0"), interface(4, "eth1")]);
    check(&network).unwrap();
    change(&mut network);
    check(&network).unwrap_err().message
}

#[test]
fn what_cannot_be_asked_of_the_kernel_is_refused() {
    let bad = [
        "",
        "sixteen-bytes-xx",
        "a/b",
        "a b",
        "a\tb",
        "a\u{b}b",
        ".",
        "..",
        "eth%d",
        "a:b",
        &"x".repeat(70_000),
    ];
    for name in bad {
        let message = refused_with(|network| network.interfaces[1].name = name.to_owned());
        assert!(message.starts_with(&format!("network: interface {name}: no name of a network device")));
    }
    let line = "network: interface eth0: another interface has its name or its device";
    assert_eq!(refused_with(|network| network.interfaces[1].name = "eth0".to_owned()), line);
    let message = refused_with(|network| network.interfaces[1].window = 3);
    assert_eq!(message, "network: interface eth1: another interface has its name or its device");
    let mut mixed = address("10.1.2.3", 24);
    mixed.peer = Some("fd00::1".parse().unwrap());
    let message = refused_with(|network| network.interfaces[0].addresses = vec![mixed]);
    assert_eq!(message, "network: interface eth0: address 10.1.2.3/24: its peer is of another family");
    let mut beyond = route("10.0.0.0", 8, Some("10.1.2.1"));
    beyond.interface = Some(2);
    let message = refused_with(|network| network.routes = vec![beyond]);
    assert_eq!(message, "network: route to 10.0.0.0/8 via 10.1.2.1: there is no such interface");
    let mut mixed = route("10.0.0.0", 8, None);
    mixed.source = Some("fd00::1".parse().unwrap());
    let message = refused_with(|network| network.routes = vec![mixed]);
    assert_eq!(message, "network: route to 10.0.0.0/8: its source is of another family");
    let beyond = Neighbour { interface: 255, ip: "10.1.2.1".parse().unwrap(), mac: MAC };
    let message = refused_with(|network| network.neighbours = vec![beyond]);
    assert_eq!(message, "network: neighbour 10.1.2.1: there is no such interface");
}

#[test]
fn an_empty_network_needs_no_devices() {
    let mut none = Err(refused("network", "no sysfs"));
    let mut pod = Pod::this_machine("", "", "");
    apply(&Network::default(), &mut none, &mut pod).unwrap();
    let error = apply(&network(vec![interface(3, "eth0")]), &mut none, &mut pod).unwrap_err();
    assert_eq!(error.message, "network: no sysfs");
}

#[test]
fn an_interface_that_is_set_up_gets_what_is_new() {
    let Some(namespace) = Namespace::new() else { return };
    let first = namespace.device("eth0", "other0");
    let mut wanted = network(vec![interface(3, "eth0")]);
    wanted.interfaces[0].addresses = vec![address("10.1.2.3", 24), address("fd00:1::3", 64)];
    wanted.routes = vec![route("0.0.0.0", 0, Some("10.1.2.1")), route("::", 0, Some("fd00:1::1"))];
    namespace.apply(std::slice::from_ref(&first), &wanted).unwrap();

    // Another has come, the first has one more address and another gateway, and the pod has given it another MTU.
    let dev = first.index;
    let mut requests = Requests::new();
    requests.set_link(About::Interface(0), dev, Link { mtu: Some(1300), ..Link::default() });
    requests.send(&namespace.socket).unwrap();
    let second = namespace.device("eth1", "other1");
    wanted.interfaces[0].addresses.push(address("10.9.9.9", 24));
    wanted.routes[0] = route("0.0.0.0", 0, Some("10.1.2.2"));
    wanted.interfaces.push(interface(4, "net1"));
    wanted.interfaces[1].addresses = vec![address("10.2.2.3", 24)];
    let mut by_second = route("10.66.0.0", 16, Some("10.2.2.1"));
    by_second.interface = Some(1);
    wanted.routes.push(by_second);
    let devices = [Nic { is_set_up: true, ..first.clone() }, second.clone()];
    namespace.apply(&devices, &wanted).unwrap();
    let mut addresses = namespace.addresses(&first);
    addresses.retain(|address| !address.starts_with("fe80::"));
    assert_eq!(addresses, ["10.1.2.3/24 scope 0", "10.9.9.9/24 scope 0", "fd00:1::3/64 scope 0"]);
    assert_eq!(
        namespace.routes(libc::AF_INET),
        [
            format!("default via 10.1.2.2 dev {dev} scope 0 kind 1"),
            format!("10.66.0.0/16 via 10.2.2.1 dev {} scope 0 kind 1", second.index),
        ]
    );
    let of_links: Vec<_> = namespace.links().into_iter().map(|(name, _, mtu, up)| (name, mtu, up)).collect();
    assert_eq!(of_links, [("eth0".to_owned(), 1300, true), ("net1".to_owned(), 1500, true)]);
}
