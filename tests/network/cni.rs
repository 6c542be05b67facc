//! Networks that CNI plugins make: a bridge with two pods on it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command as Host, Stdio};
use std::thread;
use std::time::Duration;

use crx_fixture::{Bundle, Need, Running, need};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::interfaces::pinging;
use crate::place::{Namespace, Place};

/// Where Debian's containernetworking-plugins has them.
const PLUGINS: &str = "/usr/lib/cni";

/// A network as CNI's configuration has it; addresses are remembered in a directory of the test's own.
pub(crate) struct Bridge {
    addresses: TempDir,
}

impl Bridge {
    pub(crate) fn new() -> Self {
        Self { addresses: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": self.addresses.path(),
                "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        })
    }

    /// Adds a namespace; its first address.
    pub(crate) fn add(&self, id: &str, namespace: &Namespace) -> String {
        address(&self.result(id, namespace))
    }

    /// Adds a namespace; the plugin's whole answer.
    fn result(&self, id: &str, namespace: &Namespace) -> Value {
        let added = plugin("bridge", "ADD", id, &namespace.path(), &self.config());
        serde_json::from_str(&added).unwrap()
    }

    pub(crate) fn remove(&self, id: &str, namespace: &Namespace) {
        let _ = plugin("bridge", "DEL", id, &namespace.path(), &self.config());
    }
}

/// The first address in a plugin's answer.
fn address(result: &Value) -> String {
    let address = result["ips"][0]["address"].as_str().unwrap();
    address.split('/').next().unwrap().to_owned()
}

fn plugin(name: &str, command: &str, id: &str, namespace: &Path, config: &Value) -> String {
    let interface = if name == "loopback" { "lo" } else { "eth0" };
    let mut child = Host::new(Path::new(PLUGINS).join(name))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", namespace)
        .env("CNI_IFNAME", interface)
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name} {command}: {text}");
    text
}

/// What the configuration of portmap is after another plugin's answer: the host's port 8081 is the pod's 8080.
fn port_mapping(after: &Value) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "portmap",
        "runtimeConfig": {"portMappings": [{"hostPort": 8081, "containerPort": 8080, "protocol": "tcp"}]},
        "prevResult": after,
    })
}

#[test]
fn a_port_of_the_host_is_the_pods_behind_portmap() {
    if !need::met(&[Need::Pod, Need::Plugin("portmap"), Need::Plugin("loopback"), Need::Program("iptables")])
    {
        return;
    }
    let _place = Place::enter();
    let bridge = Bridge::new();
    let pod = Namespace::new();
    let loopback = json!({"cniVersion": "1.0.0", "name": "pods", "type": "loopback"});
    let _ = plugin("loopback", "ADD", "only", &pod.path(), &loopback);
    let result = bridge.result("only", &pod);
    let mapping = port_mapping(&result);
    let _ = plugin("portmap", "ADD", "only", &pod.path(), &mapping);
    let script = "echo ready; (echo content | nc -l -p 8080); nc -l -p 8080 -e cat";
    let bundle = Bundle::busybox().script(script);
    let mut running = pod.run(&bundle).start();
    running.wait_for("ready");
    // Through the mapped port, then straight; each answer means that nc listened, whatever came before.
    let mapped = answer(&mut running, "10.77.0.1:8081");
    assert_eq!(mapped, "content\n");
    let straight = answer(&mut running, &format!("{}:8080", address(&result)));
    assert_eq!(straight, "asked\n");
    let _ = running.wait().expect(0);
    let _ = plugin("portmap", "DEL", "only", &pod.path(), &mapping);
    assert!(TcpStream::connect("10.77.0.1:8081").is_err(), "the port is still mapped");
    bridge.remove("only", &pod);
}

/// Asks a server of the pod that may not listen yet; everything that it says until it closes the connection.
fn answer(pod: &mut Running, address: &str) -> String {
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(error) => assert!(pod.is_running(), "{address}: {error}; {}", pod.stdout_so_far()),
        }
        thread::sleep(Duration::from_millis(20));
    };
    let _ = stream.write_all(b"asked\n");
    let _ = stream.shutdown(Shutdown::Write);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn two_pods_on_a_bridge_reach_each_other_and_the_host() {
    if !need::met(&[Need::Pod, Need::Plugin("bridge")]) {
        return;
    }
    let _place = Place::enter();
    let bridge = Bridge::new();
    let pods = [Namespace::new(), Namespace::new()];
    let addresses = ["first", "second"].map(|id| {
        let number = usize::from(id == "second");
        bridge.add(id, &pods[number])
    });
    // The namespace is in config.json, as containerd and CRI-O have it.
    let bundle = |namespace: &Namespace, script: &str| {
        pinging().script(script).edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "network");
            namespaces.push(json!({"type": "network", "path": namespace.path()}));
        })
    };
    let serving = bundle(&pods[0], "echo ready; echo content | nc -l -p 8080; sleep 1000");
    let mut server = serving.command().start();
    server.wait_for("ready");
    let script = format!(
        "ping -c 1 -W 20 {0} && ping -c 1 -W 20 10.77.0.1 && ping -c 1 -W 20 fd77::1 && nc {0} 8080 < /dev/null",
        addresses[0]
    );
    let client = bundle(&pods[1], &script).run().expect(0);
    assert!(client.out().contains("content"), "what the other pod serves: {}", client.all());
    // From the host into the pod.
    let pinged = Host::new("ping").args(["-c", "1", "-W", "20", &addresses[0]]).output();
    if let Ok(pinged) = pinged {
        assert!(pinged.status.success(), "{}", String::from_utf8_lossy(&pinged.stdout));
    }
    server.signal(rustix::process::Signal::KILL);
    let _ = server.wait();
    for (id, pod) in ["first", "second"].into_iter().zip(&pods) {
        bridge.remove(id, pod);
    }
}
