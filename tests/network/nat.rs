//! Networks of the pods' own, behind the address of the host.

use std::time::Duration;

use crx_fixture::{Need, need};

use crate::interfaces::pinging;
use crate::place::{Place, ip};

#[test]
fn a_pod_behind_the_hosts_address_reaches_it_and_leaves_nothing() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _place = Place::enter();
    ip("addr add 192.0.2.1/32 dev lo");
    let bundle = pinging().script("ip -o -4 addr show dev eth0; ping -c 1 -W 20 192.0.2.1");
    let outcome = bundle.command_with(&["--net", "nat"]).run().expect(0);
    assert!(outcome.out().contains("inet 198.19."), "{}", outcome.all());
    assert!(outcome.out().contains("1 packets received"), "{}", outcome.all());
    // The kernel takes a namespace apart when nothing holds it any more, and not at once.
    let gone = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        !ip("link").contains("crx-nat")
    });
    assert!(gone, "{}", ip("link"));
}
