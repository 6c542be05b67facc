#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use crx_proto::{Address, Neighbour, Route};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, MacVlanMode,
};
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteNextHop, RouteScope, RouteType};

use super::testing::{TestNamespace, ask, receive, route_address, send};
use super::*;

const MAC: [u8; 6] = [0x02, 0xc0, 0, 0, 0, 1];
const GATEWAY: [u8; 4] = [10, 0, 0, 1];
const OWN: [u8; 4] = [10, 0, 0, 2];

/// How long to wait for what must come, and for what must not.
const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A namespace with eth0 (10.0.0.2/24), whose other end (10.0.0.1/24) is in another.
fn pod() -> (TestNamespace, TestNamespace) {
    let (pod, host) = (TestNamespace::new(), TestNamespace::new());
    pod.veth("eth0", MAC, &host, "peer");
    pod.address("eth0", "10.0.0.2/24");
    host.address("peer", "10.0.0.1/24");
    (pod, host)
}

fn open(test: &TestNamespace) -> Namespace {
    Namespace::open(&test.path()).unwrap()
}

fn find(test: &TestNamespace) -> crx_proto::Network {
    open(test).find().unwrap().network
}

fn refused(test: &TestNamespace) -> String {
    format!("{:#}", open(test).find().unwrap_err())
}

/// The hardware address of the other end, as the guest learns it through the tap.
fn gateway_seen_by(joined: &Joined) -> Option<[u8; 6]> {
    ask(&joined.taps[0], MAC, OWN, GATEWAY)
}

fn names(test: &TestNamespace) -> Vec<String> {
    test.interfaces().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn an_interface_is_found_with_its_addresses() {
    let (pod, _host) = pod();
    pod.address("eth0", "fd00::2/64");
    pod.change("eth0", LinkFlags::empty(), LinkFlags::empty(), vec![LinkAttribute::Mtu(9000)]);
    let network = find(&pod);
    let [interface] = network.interfaces.as_slice() else { panic!("{network:?}") };
    assert_eq!((interface.name.as_str(), interface.mac, interface.mtu), ("eth0", MAC, 9000));
    let address =
        |text, prefix_bits| Address { ip: ip(text), prefix_bits, peer: None, broadcast: None, scope: 0 };
    // Not the routes to these networks, which the guest's kernel makes itself.
    let (link_local, others): (Vec<Address>, Vec<_>) =
        interface.addresses.iter().cloned().partition(|address| address.scope != 0);
    assert_eq!(others, [address("10.0.0.2", 24), address("fd00::2", 64)]);
    // That comes when the kernel has seen that the link is ready.
    let [a, b, c, d, e, f] = MAC.map(u16::from);
    let of_mac = Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f);
    assert!(
        link_local.iter().all(|address| address.ip == of_mac && address.prefix_bits == 64),
        "{link_local:?}"
    );
    assert_eq!(network.routes, []);
}

#[test]
fn an_empty_namespace_has_nothing_for_a_pod() {
    let network = find(&TestNamespace::new());
    assert_eq!((network.interfaces, network.routes, network.neighbours), (vec![], vec![], vec![]));
}

#[test]
fn routes_are_found_in_an_order_in_which_they_can_be_added() {
    let (pod, _host) = pod();
    pod.address("eth0", "fd00::2/64");
    let via = |gateway| RouteAttribute::Gateway(route_address(ip(gateway)));
    pod.route("169.254.1.1/32", RouteType::Unicast, Some("eth0"), |route| {
        route.header.scope = RouteScope::Link
    });
    pod.route("0.0.0.0/0", RouteType::Unicast, Some("eth0"), |route| {
        route.attributes.push(via("169.254.1.1"))
    });
    pod.route("10.1.0.0/16", RouteType::Unicast, Some("eth0"), |route| {
        route.attributes.extend([via("10.9.9.9"), RouteAttribute::Priority(77)]);
        route.header.flags = RouteFlags::Onlink;
    });
    pod.route("10.2.0.0/16", RouteType::Unicast, Some("eth0"), |route| {
        route.attributes.push(via("10.0.0.1"));
        route.attributes.push(RouteAttribute::PrefSource(route_address(ip("10.0.0.2"))));
    });
    pod.route("10.3.0.0/16", RouteType::BlackHole, None, |_| {});
    pod.route("::/0", RouteType::Unicast, Some("eth0"), |route| route.attributes.push(via("fd00::1")));

    let route = |destination, prefix_bits, gateway: Option<&str>| Route {
        destination: ip(destination),
        prefix_bits,
        kind: RouteType::Unicast.into(),
        gateway: gateway.map(ip),
        onlink: false,
        interface: Some(0),
        source: None,
        metric: None,
        scope: 0,
    };
    let expected = [
        Route { scope: RouteScope::Link.into(), ..route("169.254.1.1", 32, None) },
        Route { onlink: true, metric: Some(77), ..route("10.1.0.0", 16, Some("10.9.9.9")) },
        Route { kind: RouteType::BlackHole.into(), interface: None, ..route("10.3.0.0", 16, None) },
        route("0.0.0.0", 0, Some("169.254.1.1")),
        Route { source: Some(ip("10.0.0.2")), ..route("10.2.0.0", 16, Some("10.0.0.1")) },
        // The kernel's default metric of IPv6 routes, which it tells.
        Route { metric: Some(1024), ..route("::", 0, Some("fd00::1")) },
    ];
    assert_eq!(find(&pod).routes, expected);
}

#[test]
fn a_route_that_a_pod_cannot_have_is_an_error() {
    let (pod, _host) = pod();
    let index = pod.index("eth0");
    pod.route("10.4.0.0/16", RouteType::Unicast, None, |route| {
        let hop = |gateway| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop.attributes = vec![RouteAttribute::Gateway(route_address(ip(gateway)))];
            hop
        };
        route.attributes.push(RouteAttribute::MultiPath(vec![hop("10.0.0.1"), hop("10.0.0.3")]));
    });
    assert!(refused(&pod).contains("the route to 10.4.0.0/16 has several gateways"), "{}", refused(&pod));
}

#[test]
fn permanent_neighbours_are_found_and_others_are_not() {
    let (pod, _host) = pod();
    let mac = [2, 0, 0, 0, 0, 9];
    pod.neighbour("eth0", ip("169.254.1.1"), mac, NeighbourState::Permanent);
    pod.neighbour("eth0", ip("fd00::9"), mac, NeighbourState::Permanent);
    pod.neighbour("eth0", ip("10.0.0.9"), mac, NeighbourState::Reachable);
    let mut found = find(&pod).neighbours;
    found.sort_by_key(|neighbour| neighbour.ip);
    let expected = ["169.254.1.1", "fd00::9"].map(|text| Neighbour { interface: 0, ip: ip(text), mac });
    assert_eq!(found, expected);
}

#[test]
fn parameters_that_were_set_are_found() {
    let (pod, _host) = pod();
    for name in ["net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter", "net/ipv4/ip_forward"] {
        pod.sysctl(name, "0");
    }
    assert_eq!(find(&pod).sysctl, []);
    pod.sysctl("net/ipv4/ip_unprivileged_port_start", "0");
    pod.sysctl("net/ipv4/conf/eth0/arp_ignore", "1");
    pod.sysctl("net/ipv6/conf/eth0/accept_ra", "0");
    let expected = [
        ("net/ipv4/ip_unprivileged_port_start", "0"),
        ("net/ipv4/conf/eth0/arp_ignore", "1"),
        ("net/ipv6/conf/eth0/accept_ra", "0"),
    ];
    assert_eq!(find(&pod).sysctl, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn frames_go_through_the_tap_both_ways_and_again_after_it_is_gone() {
    let (pod, _host) = pod();
    pod.change("eth0", LinkFlags::empty(), LinkFlags::empty(), vec![LinkAttribute::Mtu(9000)]);
    let namespace = open(&pod);
    for _ in 0..2 {
        let joined = namespace.join(namespace.find().unwrap(), 1).unwrap();
        let interface = &joined.network.interfaces[0];
        assert_eq!((interface.queue_pairs, interface.offloads), (1, true));
        assert!(pod.interfaces().contains(&(tap::name(pod.index("eth0")), 9000)));
        assert!(gateway_seen_by(&joined).is_some());
        // The tap is no part of what a pod in this namespace has.
        assert_eq!(find(&pod).interfaces.len(), 1);
        // As when the VMM process is killed: nobody parts anything.
    }
    assert_eq!(names(&pod), ["lo", "eth0"]);
}

#[test]
fn a_tap_has_as_many_queues_as_are_asked_for() {
    let (pod, _host) = pod();
    let namespace = open(&pod);
    let joined = namespace.join(namespace.find().unwrap(), 4).unwrap();
    assert_eq!((joined.taps[0].len(), joined.network.interfaces[0].queue_pairs), (4, 4));
    assert!(gateway_seen_by(&joined).is_some());
}

#[test]
fn the_tap_itself_says_nothing_to_the_guest() {
    let (pod, _host) = pod();
    let namespace = open(&pod);
    let joined = namespace.join(namespace.find().unwrap(), 1).unwrap();
    let index = pod.index(&tap::name(pod.index("eth0")));
    let found = pod.within(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
    let index = format!("{index:02x}");
    assert!(!found.lines().any(|line| line.split_whitespace().nth(1) == Some(index.as_str())), "{found}");
    drop(joined);
}

#[test]
fn every_interface_has_a_tap_in_the_order_of_their_indexes() {
    let (pod, host) = (TestNamespace::new(), TestNamespace::new());
    for number in 0..4_u8 {
        let mac = [2, 0, 0, 0, 0, number];
        pod.veth(&format!("net{}", 9 - number), mac, &host, &format!("peer{number}"));
        pod.address(&format!("net{}", 9 - number), &format!("10.0.{number}.2/24"));
        host.address(&format!("peer{number}"), &format!("10.0.{number}.1/24"));
    }
    let namespace = open(&pod);
    let joined = namespace.join(namespace.find().unwrap(), 1).unwrap();
    let seen: Vec<&str> = joined.network.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!(seen, ["net9", "net8", "net7", "net6"]);
    for number in 0..4_u8 {
        let queues = &joined.taps[usize::from(number)];
        assert!(ask(queues, [2, 0, 0, 0, 0, number], [10, 0, number, 2], [10, 0, number, 1]).is_some());
    }
    drop(joined);
    pod.veth("net5", [2, 0, 0, 0, 0, 5], &host, "peer5");
    assert!(refused(&pod).contains("5 interfaces; a pod has at most 4"), "{}", refused(&pod));
}

#[test]
fn what_comes_later_is_joined_beside_what_a_pod_has() {
    let (pod, host) = pod();
    let namespace = open(&pod);
    assert!(namespace.has_new().unwrap());
    let first = namespace.join(namespace.find().unwrap(), 1).unwrap();
    assert!(!namespace.has_new().unwrap());
    for number in 1..3_u8 {
        pod.veth(&format!("net{number}"), [2, 0, 0, 0, 1, number], &host, &format!("other{number}"));
        pod.address(&format!("net{number}"), &format!("10.0.{number}.2/24"));
        host.address(&format!("other{number}"), &format!("10.0.{number}.1/24"));
        pod.sysctl(&format!("net/ipv4/conf/net{number}/arp_ignore"), "1");
    }
    pod.sysctl("net/ipv4/conf/eth0/arp_ignore", "1");
    assert!(namespace.has_new().unwrap());

    let found = namespace.find_later(&["net2".to_owned()]).unwrap();
    let names = |found: &Found| -> Vec<String> {
        found.network.interfaces.iter().map(|interface| interface.name.clone()).collect()
    };
    assert_eq!(
        (names(&found), &found.joined),
        (vec!["eth0".to_owned(), "net2".to_owned()], &vec![true, false])
    );
    // What the pod's processes have made of the first is theirs.
    assert_eq!(found.network.sysctl, [("net/ipv4/conf/net2/arp_ignore".to_owned(), "1".to_owned())]);
    let named = namespace.join(found, 1).unwrap();
    assert!(named.taps[0].is_empty());
    assert!(ask(&named.taps[1], [2, 0, 0, 0, 1, 2], [10, 0, 2, 2], [10, 0, 2, 1]).is_some());
    assert!(gateway_seen_by(&first).is_some());

    let rest = namespace.find_later(&[]).unwrap();
    assert_eq!(rest.joined.iter().filter(|joined| !**joined).count(), 1, "net1");
    let (_, joints, taps) = namespace.join(rest, 1).unwrap().into_parts();
    assert_eq!(joints.iter().map(|joint| joint.taps).sum::<u8>(), 1);
    assert!(!namespace.has_new().unwrap());
    // A pod that does not take them.
    namespace.part_from(&joints).unwrap();
    drop(taps);
    assert!(namespace.has_new().unwrap());
    assert!(
        pod.within(|| redirect::add(index_of("net1"), index_of("net2"))).is_ok(),
        "nothing is left on net1"
    );
}

fn index_of(name: &str) -> u32 {
    link::index_of(&mut netlink::Socket::route().unwrap(), name).unwrap()
}

#[test]
fn only_what_can_be_a_pod_s_is_found_by_its_name() {
    let (pod, _host) = pod();
    let namespace = open(&pod);
    for (name, why) in [("eth7", "there is no interface eth7"), ("lo", "interface lo is none for a pod")] {
        let error = format!("{:#}", namespace.find_later(&[name.to_owned()]).unwrap_err());
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_macvlan_interface_is_joined() {
    let (pod, host) = (TestNamespace::new(), TestNamespace::new());
    let lower = TestNamespace::new();
    lower.veth("up0", [2, 0, 0, 0, 0, 7], &host, "peer");
    host.address("peer", "10.0.0.1/24");
    let attributes = vec![
        LinkAttribute::Link(lower.index("up0")),
        LinkAttribute::Address(MAC.to_vec()),
        LinkAttribute::NetNsFd(pod.file().as_raw_fd()),
    ];
    let data = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
    lower.link(InfoKind::MacVlan, Some(data), "eth0", attributes);
    // It went down when it changed its namespace.
    pod.change("eth0", LinkFlags::Up, LinkFlags::Up, vec![]);
    pod.address("eth0", "10.0.0.2/24");
    let namespace = open(&pod);
    let joined = namespace.join(namespace.find().unwrap(), 1).unwrap();
    assert!(gateway_seen_by(&joined).is_some());
}

#[test]
fn a_bridge_is_joined_and_its_ports_are_not() {
    let (pod, host) = pod();
    pod.link(InfoKind::Bridge, Some(InfoData::Bridge(Vec::<InfoBridge>::new())), "br0", vec![]);
    let bridge = LinkAttribute::Controller(pod.index("br0"));
    pod.veth("port0", [2, 0, 0, 0, 0, 8], &host, "other");
    pod.change("port0", LinkFlags::empty(), LinkFlags::empty(), vec![bridge]);
    let found: Vec<String> = find(&pod).interfaces.into_iter().map(|interface| interface.name).collect();
    assert_eq!(found, ["eth0", "br0"]);
}

#[test]
fn interfaces_of_no_use_for_a_vm_are_errors() {
    let test = TestNamespace::new();
    let tun = test.within(|| sys::open_tap("tun0", libc::IFF_TUN | libc::IFF_NO_PI).unwrap());
    test.change("tun0", LinkFlags::Up, LinkFlags::Up, vec![]);
    let error = refused(&test);
    assert!(error.contains("interface tun0 has no hardware address"), "{error}");
    drop(tun);

    let (pod, _host) = pod();
    pod.change("eth0", LinkFlags::empty(), LinkFlags::Up, vec![]);
    assert!(refused(&pod).contains("interface eth0 has addresses but is down"), "{}", refused(&pod));
}

#[test]
fn an_interface_that_vanishes_is_an_error_and_no_tap_remains() {
    let (pod, host) = pod();
    pod.veth("eth1", [2, 0, 0, 0, 0, 8], &host, "other");
    let namespace = open(&pod);
    let found = namespace.find().unwrap();
    pod.delete("eth1");
    let error = format!("{:#}", namespace.join(found, 1).unwrap_err());
    assert!(error.contains("interface eth1 has vanished"), "{error}");
    assert_eq!(names(&pod), ["lo", "eth0"]);
    // Nothing of it is left on the other interface either.
    assert!(hears(&pod, &host, LONG));
}

/// True if the namespace's own kernel hears what comes in on its interface within `limit`.
fn hears(pod: &TestNamespace, host: &TestNamespace, limit: Duration) -> bool {
    let socket = pod.within(|| std::net::UdpSocket::bind("10.0.0.2:7").unwrap());
    socket.set_read_timeout(Some(limit)).unwrap();
    host.within(|| std::net::UdpSocket::bind("10.0.0.1:0").unwrap().send_to(b"x", "10.0.0.2:7").unwrap());
    socket.recv(&mut [0; 1]).is_ok()
}

#[test]
fn parting_gives_the_interfaces_back_but_not_those_of_a_living_pod() {
    let (pod, host) = pod();
    assert!(hears(&pod, &host, LONG));
    let namespace = open(&pod);
    let joined = namespace.join(namespace.find().unwrap(), 1).unwrap();
    part(&pod.path()).unwrap();
    assert!(!hears(&pod, &host, SHORT));
    assert!(gateway_seen_by(&joined).is_some());
    drop(joined);
    assert!(!hears(&pod, &host, SHORT));
    part(&pod.path()).unwrap();
    assert!(hears(&pod, &host, LONG));
    part(&pod.path()).unwrap();
    part(Path::new("/run/netns/crx-there-is-no-such-namespace")).unwrap();
}

#[test]
fn a_namespace_of_a_living_pod_is_refused() {
    let (pod, _host) = pod();
    let namespace = open(&pod);
    let joined = namespace.join(namespace.find().unwrap(), 2).unwrap();
    let error = format!("{:#}", namespace.join(namespace.find().unwrap(), 2).unwrap_err());
    assert!(error.contains("another pod uses the namespace"), "{error}");
    assert!(gateway_seen_by(&joined).is_some());
}

#[test]
fn somebody_else_s_ingress_qdisc_is_left_alone() {
    let (pod, host) = pod();
    pod.veth("eth1", [2, 0, 0, 0, 0, 8], &host, "other");
    let (from, to) = (pod.index("eth0"), pod.index("eth1"));
    pod.within(|| redirect::add(from, to).unwrap());
    let namespace = open(&pod);
    let error = format!("{:#}", namespace.join(namespace.find().unwrap(), 1).unwrap_err());
    assert!(error.contains("interface eth0 has an ingress qdisc already"), "{error}");
    assert_eq!(names(&pod), ["lo", "eth0", "eth1"]);
}

#[test]
fn what_is_no_network_namespace_is_refused_by_its_path() {
    let error = |path: &str| format!("{:#}", Namespace::open(Path::new(path)).unwrap_err());
    for (path, why) in [
        ("/run/netns/crx-there-is-no-such-namespace", "cannot open it"),
        ("/proc/self/ns/mnt", "a namespace of another kind"),
        ("/etc/passwd", "no namespace"),
    ] {
        let error = error(path);
        assert!(error.contains(path) && error.contains(why), "{error}");
    }
}

#[test]
fn the_calling_thread_stays_in_its_namespace() {
    let own = || File::open("/proc/thread-self/ns/net").unwrap().metadata().unwrap();
    let inode = |metadata: std::fs::Metadata| std::os::unix::fs::MetadataExt::ino(&metadata);
    let before = inode(own());
    let (pod, _host) = pod();
    let namespace = open(&pod);
    drop(namespace.join(namespace.find().unwrap(), 1).unwrap());
    assert_eq!(inode(own()), before);
}

#[test]
fn a_tap_of_somebody_else_is_joined_as_slirp4netns_and_pasta_have_it() {
    let pod = TestNamespace::new();
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let other = [pod.within(move || sys::open_tap("tap0", flags).unwrap())];
    pod.change("tap0", LinkFlags::Up, LinkFlags::Up, vec![]);
    let namespace = open(&pod);
    let joined = namespace.join(namespace.find().unwrap(), 1).unwrap();
    let frame = |last: u8| [[2_u8; 60].as_slice(), &[last]].concat();
    for (from, to, last) in [(&other[..], &joined.taps[0][..], 1), (&joined.taps[0], &other, 2)] {
        send(from, &frame(last));
        let came = receive(to, Duration::from_secs(5), |came| (came == frame(last)).then_some(()));
        assert!(came.is_some(), "the frame {last}");
    }
}
