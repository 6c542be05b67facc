#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::super::testing::{TestNamespace, ask, receive, send};
use netlink_packet_route::link::LinkFlags;

use super::*;

/// Addresses for documentation (RFC 5737): nothing routes back to a pod's.
const SERVER: [u8; 4] = [203, 0, 113, 1];

/// A host with an interface to the world, and the world, which knows the host alone.
fn host() -> (TestNamespace, TestNamespace) {
    let (host, world) = (TestNamespace::new(), TestNamespace::new());
    host.veth("uplink", [2, 0, 0, 0, 0, 1], &world, "server");
    host.address("uplink", "203.0.113.2/24");
    world.address("server", "203.0.113.1/24");
    (host, world)
}

fn names(host: &TestNamespace) -> Vec<String> {
    host.interfaces().into_iter().map(|(name, _)| name).collect()
}

/// Waits until nothing of the pods is left: the kernel takes namespaces apart when it has time.
fn wait_until_gone(host: &TestNamespace) {
    let start = Instant::now();
    while names(host).iter().any(|name| name.starts_with(PREFIX)) {
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", names(host));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An IPv4 packet with a UDP datagram from port 5000 (RFC 791, RFC 768).
fn datagram(source: [u8; 4], (address, port): ([u8; 4], u16), text: &[u8]) -> Vec<u8> {
    let length = 8 + text.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + length).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source);
    packet.extend(address);
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(5000_u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(length.to_be_bytes());
    // No checksum.
    packet.extend([0, 0]);
    packet.extend(text);
    packet
}

/// The pod's address and where it sends what it has for the world.
struct Pod<'a> {
    joined: &'a Joined,
    own: [u8; 4],
    gateway: [u8; 6],
}

impl<'a> Pod<'a> {
    fn new(joined: &'a Joined) -> Self {
        let interface = &joined.network.interfaces[0];
        let IpAddr::V4(own) = interface.addresses[0].ip else { panic!("{interface:?}") };
        let Some(IpAddr::V4(gateway)) = joined.network.routes[0].gateway else {
            panic!("{:?}", joined.network)
        };
        let gateway = ask(&joined.taps[0], interface.mac, own.octets(), gateway.octets()).unwrap();
        Self { joined, own: own.octets(), gateway }
    }

    /// To port 7 of the server.
    fn say(&self, source: [u8; 4], text: &[u8]) {
        self.say_to(source, (SERVER, 7), text);
    }

    fn say_to(&self, source: [u8; 4], to: ([u8; 4], u16), text: &[u8]) {
        let mac = self.joined.network.interfaces[0].mac;
        let frame = [&self.gateway[..], &mac, &[0x08, 0], &datagram(source, to, text)].concat();
        send(&self.joined.taps[0], &frame);
    }
}

impl Pod<'_> {
    /// Waits for a datagram with this text; says from whose address and port it comes, and for which port.
    fn hear(&self, text: &[u8]) -> ([u8; 4], u16, u16) {
        let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
        let heard = receive(&self.joined.taps[0], Duration::from_secs(10), |frame| {
            let ours = frame.get(30..34)? == self.own && frame.get(42..42 + text.len())? == text;
            let from = frame.get(26..30)?.try_into().ok()?;
            ours.then(|| (from, port(&frame[34..]), port(&frame[36..])))
        });
        heard.unwrap_or_else(|| panic!("{:?} does not arrive", String::from_utf8_lossy(text)))
    }
}

fn server(world: &TestNamespace) -> UdpSocket {
    let server = world.within(|| UdpSocket::bind("203.0.113.1:7").unwrap());
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    server
}

/// Sends a datagram from the pod to the server and says who the server takes for its sender; the answer comes back.
fn exchange(joined: &Joined, world: &TestNamespace) -> IpAddr {
    let (pod, server) = (Pod::new(joined), server(world));
    pod.say(pod.own, b"hello");
    let mut text = [0; 16];
    let (length, sender) = server.recv_from(&mut text).unwrap();
    assert_eq!(&text[..length], b"hello");
    server.send_to(b"welcome", sender).unwrap();
    let answer = receive(&joined.taps[0], Duration::from_secs(10), |frame| {
        let ours = frame.get(26..30)? == SERVER && frame.get(30..34)? == pod.own;
        (ours && frame.get(42..49)? == b"welcome").then_some(())
    });
    assert!(answer.is_some(), "no answer from the server");
    sender.ip()
}

#[test]
fn a_pod_reaches_the_world_under_the_host_s_address_and_leaves_nothing_behind() {
    let (host, world) = host();
    let joined = nat(&host.namespace, &[], 1).unwrap();
    assert_eq!(names(&host), ["lo", "uplink", "crx-nat0"]);
    let interface = &joined.network.interfaces[0];
    assert_eq!(interface.name, "eth0");
    assert_eq!(interface.addresses[0].ip, IpAddr::V4(Ipv4Addr::new(198, 19, 0, 2)));
    assert_eq!(joined.network.sysctl, []);
    assert_eq!(exchange(&joined, &world).to_string(), "203.0.113.2");
    drop(joined);
    wait_until_gone(&host);
    // And its table is gone: one of the same name can be made.
    let again = nat(&host.namespace, &[], 1).unwrap();
    assert_eq!(names(&host), ["lo", "uplink", "crx-nat0"]);
    assert_eq!(exchange(&again, &world).to_string(), "203.0.113.2");
}

#[test]
fn nothing_leaves_the_host_under_an_address_that_is_not_the_pod_s() {
    let (host, world) = host();
    let joined = nat(&host.namespace, &[], 1).unwrap();
    let (pod, server) = (Pod::new(&joined), server(&world));
    pod.say([10, 9, 9, 9], b"forged");
    pod.say(pod.own, b"honest");
    let mut text = [0; 16];
    let length = server.recv(&mut text).unwrap();
    assert_eq!(&text[..length], b"honest");
}

#[test]
fn pods_have_different_networks() {
    let (host, world) = host();
    let pods: Vec<Joined> = (0..3).map(|_| nat(&host.namespace, &[], 2).unwrap()).collect();
    let addresses: Vec<String> =
        pods.iter().map(|pod| pod.network.interfaces[0].addresses[0].ip.to_string()).collect();
    assert_eq!(addresses, ["198.19.0.2", "198.19.0.6", "198.19.0.10"]);
    for pod in &pods {
        assert_eq!(exchange(pod, &world).to_string(), "203.0.113.2");
    }
}

#[test]
fn networks_that_the_host_has_routes_to_are_left_alone() {
    let (host, world) = host();
    let gateway = RouteAttribute::Gateway(RouteAddress::Inet(SERVER.into()));
    for network in ["198.19.0.0/29", "198.19.0.9/32", "128.0.0.0/1"] {
        let gateway = gateway.clone();
        host.route(network, RouteType::Unicast, Some("uplink"), |route| route.attributes.push(gateway));
    }
    let joined = nat(&host.namespace, &[], 1).unwrap();
    assert_eq!(joined.network.interfaces[0].addresses[0].ip.to_string(), "198.19.0.14");
    assert_eq!(exchange(&joined, &world).to_string(), "203.0.113.2");
    drop(joined);
    host.route("198.19.0.0/16", RouteType::Unicast, Some("uplink"), |route| route.attributes.push(gateway));
    let error = format!("{:#}", nat(&host.namespace, &[], 1).unwrap_err());
    assert!(error.contains("all networks of 198.19.0.0/16 are taken"), "{error}");
}

#[test]
fn the_largest_packet_is_that_of_the_host_s_way_out() {
    let (host, _world) = host();
    assert_eq!(nat(&host.namespace, &[], 1).unwrap().network.interfaces[0].mtu, 1500);
    host.change("uplink", Default::default(), Default::default(), vec![LinkAttribute::Mtu(1400)]);
    host.route("0.0.0.0/0", RouteType::Unicast, Some("uplink"), |route| {
        route.attributes.remove(0);
        route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(SERVER.into())));
    });
    assert_eq!(nat(&host.namespace, &[], 1).unwrap().network.interfaces[0].mtu, 1400);
}

/// A pod behind `host` with this --publish, whose sender and receiver of datagrams has port 5000.
fn published(host: &TestNamespace, ports: &str) -> Joined {
    nat(&host.namespace, &super::super::publish::parse(ports).unwrap(), 1).unwrap()
}

const HOST: [u8; 4] = [203, 0, 113, 2];

#[test]
fn what_comes_to_a_published_port_goes_to_the_pod_and_the_answer_comes_from_there() {
    let (host, world) = host();
    let joined = published(&host, "53:5000/udp");
    let (pod, server) = (Pod::new(&joined), server(&world));
    server.send_to(b"question", (Ipv4Addr::from(HOST), 53)).unwrap();
    assert_eq!(pod.hear(b"question"), (SERVER, 7, 5000));
    pod.say(pod.own, b"answer");
    let mut text = [0; 16];
    let (length, sender) = server.recv_from(&mut text).unwrap();
    assert_eq!((&text[..length], sender.to_string().as_str()), (&b"answer"[..], "203.0.113.2:53"));
}

#[test]
fn the_host_itself_reaches_a_published_port_at_all_its_addresses() {
    let (host, _world) = host();
    let joined = published(&host, "53:5000/udp");
    let pod = Pod::new(&joined);
    for (address, source) in [("203.0.113.2", HOST), ("127.0.0.1", [198, 19, 0, 1])] {
        host.change("lo", LinkFlags::Up, LinkFlags::Up, vec![]);
        let client = host.within(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.connect((address, 53)).unwrap();
        client.send(address.as_bytes()).unwrap();
        let (from, port, _) = pod.hear(address.as_bytes());
        assert_eq!(from, source, "at {address}");
        pod.say_to(pod.own, (from, port), b"answer");
        let mut text = [0; 16];
        let length = client.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"answer", "at {address}");
    }
}

#[test]
fn a_pod_reaches_its_own_published_port() {
    let (host, _world) = host();
    let joined = published(&host, "53:5000/udp");
    let pod = Pod::new(&joined);
    pod.say_to(pod.own, (HOST, 53), b"myself");
    assert_eq!(pod.hear(b"myself"), ([198, 19, 0, 1], 5000, 5000));
}

#[test]
fn a_pod_with_published_ports_does_not_reach_the_host_s_loopback_interface() {
    let (host, _world) = host();
    host.change("lo", LinkFlags::Up, LinkFlags::Up, vec![]);
    let joined = published(&host, "53:5000/udp");
    let pod = Pod::new(&joined);
    let service = host.within(|| UdpSocket::bind("0.0.0.0:99").unwrap());
    service.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    pod.say_to(pod.own, ([127, 0, 0, 1], 99), b"forged");
    pod.say_to(pod.own, ([198, 19, 0, 1], 99), b"honest");
    let mut text = [0; 16];
    let length = service.recv(&mut text).unwrap();
    assert_eq!(&text[..length], b"honest");
}

#[test]
fn a_port_is_published_at_one_address_alone_if_that_is_asked_for() {
    let (host, world) = host();
    host.address("uplink", "203.0.113.3/24");
    let joined = published(&host, "203.0.113.3:53:5000/udp");
    let (pod, server) = (Pod::new(&joined), server(&world));
    let own = host.within(|| UdpSocket::bind("203.0.113.2:53").unwrap());
    own.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for (address, text) in [("203.0.113.2", b"for the host"), ("203.0.113.3", b"for the pod ")] {
        server.send_to(text, (address, 53)).unwrap();
    }
    assert_eq!(pod.hear(b"for the pod "), (SERVER, 7, 5000));
    let mut text = [0; 16];
    let length = own.recv(&mut text).unwrap();
    assert_eq!(&text[..length], b"for the host");
    // Not published at 127.0.0.1, so there is no need for this.
    let name = "/proc/sys/net/ipv4/conf/crx-nat0/route_localnet";
    assert_eq!(host.within(|| std::fs::read_to_string(name).unwrap()), "0\n");
}

#[test]
fn tcp_and_udp_of_the_same_number_are_two_ports() {
    let (host, world) = host();
    let _joined = published(&host, "53:5000/tcp");
    let server = server(&world);
    let own = host.within(|| UdpSocket::bind("203.0.113.2:53").unwrap());
    own.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    server.send_to(b"datagram", (Ipv4Addr::from(HOST), 53)).unwrap();
    assert_eq!(own.recv(&mut [0; 16]).unwrap(), 8);
}
