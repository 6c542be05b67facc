//! Interfaces that come when the pod runs already, and containers that come to a namespace which a pod has.

use crx_fixture::runtime::crx;
use crx_fixture::{Bundle, Need, Outcome, Running, need};
use serde_json::{Value, json};

use crate::interfaces::{pinging, with_uplink};
use crate::place::{Namespace, Place, ip};

/// A container that waits, and may change its pod's interfaces.
fn waiting() -> Bundle {
    Bundle::busybox().capabilities(&["CAP_NET_RAW", "CAP_NET_ADMIN"]).script("echo ready; exec sleep 1000")
}

/// Starts it in a pod with the interfaces of the namespace.
fn start(pod: &Namespace, bundle: &Bundle) -> Running {
    let mut running = pod.run(bundle).start();
    running.wait_for("ready");
    running
}

fn stop(running: Running) {
    running.signal(rustix::process::Signal::KILL);
    let _ = running.wait();
}

/// `crx net VERB ID ...`.
fn net(verb: &str, bundle: &Bundle, words: &[&str]) -> Outcome {
    crx().args(["net", verb, bundle.id()]).args(words).run()
}

/// What a script prints in the container.
fn exec(bundle: &Bundle, script: &str) -> String {
    crx().args(["exec", bundle.id(), "sh", "-c", script]).run().expect(0).out()
}

/// One more interface of the namespace, `later<number>`, whose other end has the address 10.67.<number>.1.
fn add_later(place: &Place, pod: &Namespace, number: u8) {
    place.veth(pod, &format!("later{number}"), &format!("l{number}"));
    ip(&format!("addr add 10.67.{number}.1/24 dev l{number}"));
    pod.ip(&format!("addr add 10.67.{number}.2/24 dev later{number}"));
}

fn taps(pod: &Namespace) -> usize {
    pod.ip("-o link").matches("crx-tap").count()
}

fn expect_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
}

#[test]
fn interfaces_and_addresses_that_come_later_are_the_pods_when_asked_for() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let place = Place::enter();
    let pod = with_uplink(&place);
    let bundle = waiting();
    let running = start(&pod, &bundle);
    net("add", &bundle, &["later1"]).expect_refused(&["there is no interface later1"]);
    let _ = net("add", &bundle, &[]).expect(0);

    add_later(&place, &pod, 1);
    pod.ip("link set later1 mtu 1400");
    pod.ip("route add 10.68.0.0/16 via 10.67.1.1");
    pod.ip("addr add 10.66.9.2/24 dev uplink0");
    pod.ip("route add 10.69.0.0/16 via 10.66.0.1");
    ip("addr add 10.66.9.1/24 dev v0");
    let _ = net("add", &bundle, &["later1"]).expect(0);
    let seen = exec(&bundle, "ip link show dev later1; ip -o -4 addr; ip route");
    let routes = ["10.68.0.0/16 via 10.67.1.1 dev later1", "10.69.0.0/16 via 10.66.0.1 dev uplink0"];
    expect_words(&seen, &["mtu 1400", "inet 10.67.1.2/24", "inet 10.66.0.2/24", "inet 10.66.9.2/24"]);
    expect_words(&seen, &routes);
    for address in ["10.67.1.1", "10.66.0.1", "10.66.9.1"] {
        let answer = exec(&bundle, &format!("ping -c 1 -W 20 {address}"));
        expect_words(&answer, &["1 packets received"]);
    }

    // The pod has an interface of this name, which is not the namespace's.
    add_later(&place, &pod, 2);
    exec(&bundle, "ip link set uplink0 down && ip link set uplink0 name later2");
    net("add", &bundle, &[]).expect_refused(&["interface later2", "File exists"]);
    assert_eq!(taps(&pod), 2, "{}", pod.ip("link"));
    let listed: Value =
        serde_json::from_str(&net("list", &bundle, &["--format", "json"]).expect(0).out()).unwrap();
    let of = |name: &str| {
        let lines = listed.as_array().unwrap();
        lines.iter().find(|line| line["namespace"] == name).unwrap()["pod"].clone()
    };
    assert_eq!((&of("later1")["name"], &of("later1")["device"]), (&json!("later1"), &json!("virtio-mmio.4")));
    assert_eq!(of("later2"), Value::Null);
    exec(&bundle, "ip link set later2 name uplink0 && ip link set uplink0 up");
    let _ = net("add", &bundle, &[]).expect(0);
    expect_words(&exec(&bundle, "ping -c 1 -W 20 10.67.2.1"), &["1 packets received"]);

    for number in 3..5 {
        add_later(&place, &pod, number);
    }
    net("add", &bundle, &[]).expect_refused(&["5 interfaces", "at most 4"]);
    pod.ip("tuntap add mode tun name tun0");
    pod.ip("link set tun0 up");
    net("add", &bundle, &["tun0"]).expect_refused(&["interface tun0", "no hardware address"]);
    assert_eq!(taps(&pod), 3, "{}", pod.ip("link"));
    stop(running);
    net("add", &bundle, &[]).expect_refused(&["does not exist"]);
}

#[test]
fn a_pod_that_had_no_interface_can_get_one() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let place = Place::enter();
    let pod = Namespace::new();
    let bundle = waiting();
    let running = start(&pod, &bundle);
    assert_eq!(exec(&bundle, "ls /sys/class/net"), "lo\n");
    add_later(&place, &pod, 1);
    let _ = net("add", &bundle, &[]).expect(0);
    let seen = exec(&bundle, "ls /sys/class/net; ping -c 1 -W 20 10.67.1.1");
    expect_words(&seen, &["later1\nlo\n", "1 packets received"]);
    stop(running);
}

#[test]
fn a_pod_without_a_namespace_cannot_get_interfaces() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = waiting();
    let mut running = bundle.command().start();
    running.wait_for("ready");
    net("add", &bundle, &[]).expect_refused(&[bundle.id(), "no network namespace"]);
    let _ = net("list", &bundle, &[]).expect(0);
    net("add", &Bundle::busybox(), &[]).expect_refused(&["does not exist"]);
    stop(running);
}

#[test]
fn a_container_that_joins_finds_what_its_pods_namespace_has_got() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let place = Place::enter();
    let pod = with_uplink(&place);
    let bundle = waiting();
    let running = start(&pod, &bundle);
    add_later(&place, &pod, 1);
    let script = "ip -o -4 addr; ping -c 1 -W 20 10.67.1.1";
    // In the pod's network namespace, as whoever asks for no new one.
    let second = pinging().script(script).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
    });
    let second = second.command_with(&["--pod", bundle.id()]).run().expect(0);
    expect_words(&second.out(), &["inet 10.66.0.2/24", "inet 10.67.1.2/24", "1 packets received"]);
    // What cannot be had is a warning.
    pod.ip("tuntap add mode tun name tun0");
    pod.ip("link set tun0 up");
    let third = Bundle::busybox().args(&["true"]).command_with(&["--pod", bundle.id()]).run().expect(0);
    expect_words(&third.err(), &["warning", "tun0"]);
    stop(running);
}

#[test]
fn containers_that_name_one_namespace_are_in_one_pod() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let place = Place::enter();
    let pod = with_uplink(&place);
    let bundle = waiting();
    let running = start(&pod, &bundle);
    let named = |bundle: Bundle, others: Value| {
        bundle.edit(|config| {
            let network = json!({"type": "network", "path": pod.path()});
            config["linux"]["namespaces"] =
                json!([network, {"type": "mount"}, {"type": "pid"}, {"type": "uts"}, others]);
        })
    };
    let second = pinging().script("ip -o -4 addr; ping -c 1 -W 20 10.66.0.1");
    let second = named(second, json!({"type": "cgroup"})).run().expect(0);
    expect_words(&second.out(), &["inet 10.66.0.2/24", "1 packets received"]);
    assert_eq!(taps(&pod), 1, "{}", pod.ip("link"));

    let other = named(waiting(), json!({"type": "ipc", "path": "/proc/1/ns/ipc"}));
    other.run().expect_refused(&["linux.namespaces[0].path", bundle.id(), "/proc/1/ns/ipc"]);
    let kind = "/annotations/io.kubernetes.cri.container-type";
    let sandbox =
        named(waiting(), json!({"type": "cgroup"})).edit(|config| config["annotations"] = json!({}));
    sandbox.set(kind, json!("sandbox")).run().expect_refused(&[bundle.id(), "a pod of its own"]);
    let option = format!("ns:{}", pod.path().display());
    let again = pinging().script("ls /sys/class/net").command_with(&["--net", &option]).run().expect(0);
    assert_eq!(again.out(), "lo\nuplink0\n", "{}", again.all());
    stop(running);
}
