//! A network that hooks make, as nerdctl's do: in the namespace of the process that they are told.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crx_fixture::{Bundle, Need, need};
use serde_json::json;

use crate::interfaces::pinging;
use crate::place::Place;

const HOOK: &str = r#"#!/bin/sh
set -e
pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
ip link add v0 type veth peer name eth0 netns "$pid"
ip addr add 10.66.0.1/24 dev v0
ip link set v0 up
nsenter -t "$pid" -n ip addr add 10.66.0.2/24 dev eth0
nsenter -t "$pid" -n ip link set eth0 up
"#;

/// The bundle with a createRuntime hook.
fn hooked(bundle: Bundle, script: &str) -> Bundle {
    let hook = bundle.path().join("hook");
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let hooks = json!({"createRuntime": [{"path": hook, "args": ["hook"], "env": [format!("PATH={path}")]}]});
    bundle.set("/hooks", hooks)
}

#[test]
fn a_pod_whose_hooks_make_no_interface_has_loopback_alone() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _place = Place::enter();
    let bundle = Bundle::busybox().script("ls /sys/class/net");
    let outcome = hooked(bundle, "#!/bin/sh\nexec cat > /dev/null\n").run().expect(0);
    assert_eq!(outcome.out(), "lo\n");
}

#[test]
fn interfaces_that_create_runtime_hooks_make_are_the_pods() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _place = Place::enter();
    let bundle = pinging().script("ip -o -4 addr show dev eth0; ping -c 1 -W 20 10.66.0.1");
    let outcome = hooked(bundle, HOOK).run().expect(0);
    assert!(outcome.out().contains("inet 10.66.0.2/24"), "{}", outcome.all());
    assert!(outcome.out().contains("1 packets received"), "{}", outcome.all());
}
