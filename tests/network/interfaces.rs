//! What a pod has of the interfaces of its namespace.

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, need};

use crate::place::{Namespace, Place, ip};

/// A bundle whose programs may open raw sockets.
pub(crate) fn pinging() -> Bundle {
    Bundle::busybox().capabilities(&["CAP_NET_RAW"])
}

/// A pod whose namespace has one interface, `uplink0`, whose other end is `v0`.
pub(crate) fn with_uplink(place: &Place) -> Namespace {
    let pod = Namespace::new();
    place.veth(&pod, "uplink0", "v0");
    ip("addr add 10.66.0.1/24 dev v0");
    ip("addr add fd66::1/64 dev v0 nodad");
    pod.ip("addr add 10.66.0.2/24 brd + dev uplink0");
    pod.ip("addr add fd66::2/64 dev uplink0 nodad");
    pod
}

#[test]
fn addresses_routes_neighbours_and_names_are_the_pods() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let place = Place::enter();
    let pod = with_uplink(&place);
    pod.ip("link set uplink0 down");
    pod.ip("link set uplink0 address 02:00:00:12:34:56 mtu 1400");
    pod.ip("link set uplink0 up");
    // They went with the interface.
    pod.ip("addr replace fd66::2/64 dev uplink0 nodad");
    pod.ip("route add default via 10.66.0.1 metric 50");
    pod.ip("route add 10.99.0.0/16 via 10.77.0.1 dev uplink0 onlink");
    pod.ip("route add unreachable 10.98.0.0/16");
    pod.ip("-6 route add default via fd66::1");
    pod.ip("neigh add 10.66.0.9 lladdr 02:00:00:00:00:09 dev uplink0 nud permanent");
    let script = "ip link; ip addr; ip route; ip -6 route; ip neigh; ping -c 1 -W 20 10.66.0.1; ping -c 1 -W 20 fd66::1";
    let outcome = pod.run(&pinging().script(script)).run().expect(0);
    let out = outcome.out();
    for words in [
        "uplink0: <BROADCAST,MULTICAST,UP",
        "mtu 1400",
        "link/ether 02:00:00:12:34:56",
        "inet 10.66.0.2/24 brd 10.66.0.255 scope global uplink0",
        "inet6 fd66::2/64 scope global",
        "default via 10.66.0.1 dev uplink0  metric 50",
        "10.66.0.0/24 dev uplink0 scope link  src 10.66.0.2",
        "10.99.0.0/16 via 10.77.0.1 dev uplink0 onlink",
        "unreachable 10.98.0.0/16",
        "default via fd66::1 dev uplink0",
        "10.66.0.9 dev uplink0 lladdr 02:00:00:00:00:09",
        "1 packets transmitted, 1 packets received",
    ] {
        assert!(out.contains(words), "{words:?} is not in\n{}", outcome.all());
    }
    assert_eq!(out.matches("1 packets received").count(), 2, "{}", outcome.all());
    drop((pod, place));
    before.expect_none_new("a pod with a network");
}

#[test]
fn a_pod_without_interfaces_has_loopback() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _place = Place::enter();
    let pod = Namespace::new();
    let outcome = pod.run(&pinging().script("ls /sys/class/net; ping -c 1 127.0.0.1")).run().expect(0);
    assert!(outcome.out().starts_with("lo\nPING"), "loopback alone: {}", outcome.all());
}

#[test]
fn several_interfaces_keep_their_names_and_order() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let place = Place::enter();
    let pod = Namespace::new();
    // Names that are each other's in the guest before they are theirs.
    for (name, other, net) in [("eth1", "v1", 1), ("eth0", "v0", 0)] {
        place.veth(&pod, name, other);
        ip(&format!("addr add 10.66.{net}.1/24 dev {other}"));
        pod.ip(&format!("addr add 10.66.{net}.2/24 dev {name}"));
    }
    let script = "for i in 0 1; do ip -o -4 addr show dev eth$i; ping -c 1 -W 20 10.66.$i.1; done";
    let outcome = pod.run(&pinging().script(script)).run().expect(0);
    for words in ["eth0    inet 10.66.0.2/24", "eth1    inet 10.66.1.2/24"] {
        assert!(outcome.out().contains(words), "{words:?} is not in\n{}", outcome.all());
    }
    assert_eq!(outcome.out().matches("1 packets received").count(), 2, "{}", outcome.all());
}

#[test]
fn large_packets_pass_where_the_interface_takes_them() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let place = Place::enter();
    let pod = with_uplink(&place);
    ip("link set v0 mtu 9000");
    pod.ip("link set uplink0 mtu 9000");
    // In one packet, and in fragments.
    let script = "ip link show dev uplink0; for s in 8900 20000; do ping -c 1 -W 20 -s $s 10.66.0.1; done";
    let outcome = pod.run(&pinging().script(script)).run().expect(0);
    assert!(outcome.out().contains("mtu 9000"), "{}", outcome.all());
    assert_eq!(outcome.out().matches("1 packets received").count(), 2, "{}", outcome.all());
}

#[test]
fn a_namespace_can_be_used_again_after_its_pod_was_killed() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let place = Place::enter();
    let pod = with_uplink(&place);
    let bundle = pinging().script("echo ready; sleep 1000");
    let mut running = pod.run(&bundle).start();
    running.wait_for("ready");
    running.signal(rustix::process::Signal::KILL);
    let _ = running.wait();
    let bundle = pinging().script("ping -c 1 -W 20 10.66.0.1");
    let _ = pod.run(&bundle).run().expect(0);
    assert!(!pod.ip("link").contains("crx"), "{}", pod.ip("link"));
}
