//! Networks of the pods' own, behind the address of the host.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crx_fixture::{Bundle, Need, Running, need};

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
    expect_gone();
}

#[test]
fn pods_of_one_template_have_different_hardware_addresses() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _place = Place::enter();
    let bundles =
        [(); 2].map(|()| Bundle::busybox().script("cat /sys/class/net/eth0/address; exec sleep 1000"));
    let mut pods = bundles.each_ref().map(|bundle| bundle.command_with(&["--net", "nat"]).start());
    let macs = pods.each_mut().map(|pod| {
        pod.wait_for(":");
        pod.wait_for("\n");
        pod.stdout_so_far()
    });
    assert!(macs.iter().all(|mac| mac.trim().len() == 17) && macs[0] != macs[1], "{macs:?}");
    for pod in pods {
        pod.signal(rustix::process::Signal::KILL);
        let _ = pod.wait();
    }
    expect_gone();
}

/// The kernel takes a namespace apart when nothing holds it any more, and not at once.
fn expect_gone() {
    let gone = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        !ip("link").contains("crx-nat")
    });
    assert!(gone, "{}", ip("link"));
}

#[test]
fn a_published_port_is_the_pods_until_its_pod_is_killed() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _place = Place::enter();
    ip("addr add 192.0.2.1/32 dev lo");
    let options = ["--net", "nat", "--publish", "8080:80", "--publish", "192.0.2.1:53:53/udp"];
    let bundle = Bundle::busybox().script("echo ready; while true; do nc -l -p 80 -e cat; done");
    let mut running = bundle.command_with(&options).start();
    running.wait_for("ready");
    for address in ["127.0.0.1:8080", "192.0.2.1:8080"] {
        expect_echo(address, &mut running);
    }
    // Taken, for others' pods too, and that is said before anything is made.
    for port in ["8080:1", "192.0.2.1:53:1/udp"] {
        let other = Bundle::busybox().args(&["true"]);
        let refused = other.command_with(&["--net", "nat", "--publish", port]).run();
        refused.expect_refused(&["--publish", port, "the port is taken"]);
    }
    assert!(!ip("link").contains("crx-nat1"), "{}", ip("link"));
    running.signal(rustix::process::Signal::KILL);
    let _ = running.wait();
    expect_gone();
    drop(TcpListener::bind("0.0.0.0:8080").unwrap());
}

/// A connection to this address ends in `cat`: tried until the pod listens.
pub(crate) fn expect_echo(address: &str, running: &mut Running) {
    for _ in 0..1000 {
        assert!(running.is_running(), "the pod is gone");
        if let Ok(mut stream) = TcpStream::connect(address)
            && stream.write_all(b"hello").is_ok()
            && stream.shutdown(Shutdown::Write).is_ok()
        {
            let mut text = String::new();
            if stream.read_to_string(&mut text).is_ok() && text == "hello" {
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no answer at {address}");
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
