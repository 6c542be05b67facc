//! Networks that cannot be: one clear line, and nothing is left.

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, need};
use serde_json::json;

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
            json!([{"type": "network", "path": "/nowhere/net"}, {"type": "mount"}]);
    });
    named.run().expect_refused(&["config.json", "linux.namespaces[0].path", "/nowhere/net"]);
    bundle.command_with(&["--net", "wide"]).run().expect_refused(&["--net", "none, nat or ns:PATH"]);
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
