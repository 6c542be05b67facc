//! Networks of the pods' own, behind the address of the host.

use std::time::Duration;

use crx_fixture::{Bundle, Need, need};

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

#[test]
fn names_are_asked_of_the_hosts_servers_and_the_image_stays_as_it_is() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _place = Place::enter();
    let directory = tempfile::Builder::new().prefix("resolv-").tempdir().unwrap();
    let own = directory.path().join("resolv.conf");
    std::fs::write(&own, "search example.org\nnameserver 192.0.2.53\nnameserver fd00::53\n").unwrap();
    let own = own.to_str().unwrap();
    let bind = format!("mount --bind {own} /etc/resolv.conf && exec \"$@\"");
    let under = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &bind, "sh"];
    let expected = "nameserver 192.0.2.53\nsearch example.org\n";
    // A container that joins the pod asks the same.
    let pod = Bundle::busybox()
        .script("cat /etc/resolv.conf; echo x > /etc/resolv.conf; echo wrote $?; sleep 1000");
    let mut running = pod.command_with(&["--net", "nat"]).wrapped(&under).start();
    running.wait_for("wrote 1");
    assert!(running.stdout_so_far().starts_with(expected), "{}", running.stdout_so_far());
    let joining = Bundle::busybox().script("cat /etc/resolv.conf");
    assert_eq!(joining.command_with(&["--pod", pod.id()]).run().expect(0).out(), expected);
    // One that brings its own keeps it.
    let brings =
        Bundle::busybox().script("cat /etc/resolv.conf").mount("/etc/resolv.conf", "bind", own, &["bind"]);
    let out = brings.command_with(&["--net", "nat"]).wrapped(&under).run().expect(0).out();
    assert!(out.contains("fd00::53"), "{out}");
    running.signal(rustix::process::Signal::KILL);
    let _ = running.wait();
    let left = std::fs::read(pod.rootfs().join("etc/resolv.conf")).unwrap_or_default();
    assert!(left.is_empty(), "the image has {left:?}");
}
