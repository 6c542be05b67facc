//! Networks that CNI plugins make: a bridge with two pods on it.

use std::io::Write;
use std::path::Path;
use std::process::{Command as Host, Stdio};

use crx_fixture::{Need, need};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::interfaces::pinging;
use crate::place::{Namespace, Place};

/// Where Debian's containernetworking-plugins has them.
const PLUGINS: &str = "/usr/lib/cni";

/// A network as CNI's configuration has it; addresses are remembered in a directory of the test's own.
struct Bridge {
    addresses: TempDir,
}

impl Bridge {
    fn new() -> Self {
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
    fn add(&self, id: &str, namespace: &Namespace) -> String {
        let added = plugin("bridge", "ADD", id, &namespace.path(), &self.config());
        let result: Value = serde_json::from_str(&added).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap();
        address.split('/').next().unwrap().to_owned()
    }

    fn remove(&self, id: &str, namespace: &Namespace) {
        let _ = plugin("bridge", "DEL", id, &namespace.path(), &self.config());
    }
}

fn plugin(name: &str, command: &str, id: &str, namespace: &Path, config: &Value) -> String {
    let mut child = Host::new(Path::new(PLUGINS).join(name))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", namespace)
        .env("CNI_IFNAME", "eth0")
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
