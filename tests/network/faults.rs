//! Networks that cannot be: one clear line, and nothing is left.

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, need};
use serde_json::json;

use crate::interfaces::with_uplink;
use crate::place::{Namespace, Place, ip};

#[test]
fn what_is_no_network_namespace_is_refused() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let bundle = Bundle::busybox().args(&["true"]);
    for (path, why) in [
        ("/nowhere/net", "No such file"),
        ("/etc/hostname", "no namespace"),
        ("/proc/self/ns/mnt", "namespace of another kind"),
    ] {
        bundle.command_with(&["--net", &format!("ns:{path}")]).run().expect_refused(&[path, why]);
    }
    let named = Bundle::busybox().args(&["true"]).edit(|config| {
        config["linux"]["namespaces"] =
            json!([{"type": "network", "path": "/nowhere/net"}, {"type": "mount"}, {"type": "uts"}]);
    });
    named.run().expect_refused(&["config.json", "linux.namespaces[0].path", "/nowhere/net"]);
    bundle.command_with(&["--net", "wide"]).run().expect_refused(&["--net", "none, nat, passt or ns:PATH"]);
    before.expect_none_new("a pod with a network");
}

#[test]
fn interfaces_that_cannot_be_a_pods_are_refused() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let place = Place::enter();
    let bundle = Bundle::busybox().args(&["true"]);
    let tunnel = Namespace::new();
    tunnel.ip("tuntap add mode tun name tun0");
    tunnel.ip("link set tun0 up");
    tunnel.run(&bundle).run().expect_refused(&["tun0"]);
    let many = Namespace::new();
    for number in 0..5 {
        place.veth(&many, &format!("eth{number}"), &format!("v{number}"));
    }
    many.run(&bundle).run().expect_refused(&["5 interfaces"]);
    assert!(!many.ip("link").contains("crx"), "{}", many.ip("link"));
    drop((tunnel, many));
    assert!(!ip("link").contains("crx"));
    drop(place);
    before.expect_none_new("a pod with a network");
}

#[test]
fn ports_that_cannot_be_published_are_refused() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let place = Place::enter();
    let bundle = Bundle::busybox().args(&["true"]);
    let only = ["--publish", "only with --net nat or passt"];
    bundle.command_with(&["--publish", "80:80"]).run().expect_refused(&only);
    for net in ["none", "ns:/proc/self/ns/net"] {
        bundle.command_with(&["--net", net, "--publish", "80:80"]).run().expect_refused(&only);
    }
    let refused = |port: &str, words: &[&str]| {
        for net in ["nat", "passt"] {
            bundle.command_with(&["--net", net, "--publish", port]).run().expect_refused(words);
        }
    };
    refused("80", &["--publish", "must be [HOSTIP:]HOST:POD"]);
    refused(
        "192.0.2.9:80:80",
        &["--publish 192.0.2.9:80:80/tcp", "no interface of the host has this address"],
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("{}:80", listener.local_addr().unwrap().port());
    refused(&port, &["--publish", &port, "the port is taken"]);
    assert!(!ip("link").contains("crx"), "{}", ip("link"));
    drop(place);
    before.expect_none_new("a pod with a network");
}

#[test]
fn a_host_without_room_or_rights_for_the_network_is_told() {
    if !need::met(&[Need::Pod, Need::Program("setpriv")]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let place = Place::enter();
    let bundle = Bundle::busybox().args(&["true"]);
    ip("route add blackhole 198.19.0.0/16");
    let refused = bundle.command_with(&["--net", "nat"]).run();
    refused.expect_refused(&["all networks of 198.19.0.0/16 are taken"]);
    let pod = Namespace::new();
    place.veth(&pod, "eth0", "v0");
    let refused = pod.run(&bundle).wrapped(&["setpriv", "--bounding-set", "-net_admin"]).run();
    refused.expect_refused(&["tap crx-tap", "cannot be made", "rights of root", "not permitted"]);
    assert!(!pod.ip("link").contains("crx"), "{}", pod.ip("link"));
    drop((pod, place));
    before.expect_none_new("a pod with a network");
}

#[test]
fn interfaces_that_a_user_namespace_would_hide_are_refused() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let place = Place::enter();
    let pod = with_uplink(&place);
    let bundle = Bundle::busybox().args(&["true"]).edit(|config| {
        config["linux"]["namespaces"] = json!([
            {"type": "network", "path": pod.path()}, {"type": "user"}, {"type": "mount"}, {"type": "ipc"},
            {"type": "uts"}, {"type": "pid"},
        ]);
        for mappings in ["uidMappings", "gidMappings"] {
            config["linux"][mappings] = json!([{"containerID": 0, "hostID": 1000, "size": 1000}]);
        }
    });
    bundle.run().expect_refused(&["linux.namespaces[0]", "linux.uidMappings", "interfaces"]);
    assert!(!pod.ip("link").contains("crx"), "{}", pod.ip("link"));
    drop((pod, place));
    before.expect_none_new("a pod with a network");
}
