//! Who carries a pod's frames: the host's kernel where it has vhost-net, our own workers where not or within limits.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crx_fixture::runtime::crx;
use crx_fixture::{Bundle, Need, Running, need};
use serde_json::{Value, json};

use crate::place::{Namespace, Place, accept};
use crate::traffic::chunk;

/// Bytes that go to the pod and come back, one after the other: at least a wake-up of whoever carries them for each.
const EXCHANGES: u64 = 100;

/// A pod whose only program sends back what it gets; its connection, and the process of the host that is the pod.
struct Echo {
    running: Running,
    stream: TcpStream,
    process: u64,
    _namespace: Namespace,
    _place: Place,
}

impl Echo {
    fn start(annotations: Value, options: &[&str]) -> Self {
        let place = Place::enter();
        let namespace = place.pod();
        let listener = TcpListener::bind("10.66.0.1:7777").unwrap();
        let bundle =
            Bundle::busybox().script("exec nc 10.66.0.1 7777 -e cat").set("/annotations", annotations);
        let mut running = namespace.run_with(&bundle, options).start();
        let stream = accept(&listener, &mut running);
        stream.set_nodelay(true).unwrap();
        let state: Value =
            serde_json::from_str(&crx().args(["state", bundle.id()]).run().expect(0).out()).unwrap();
        Self {
            running,
            stream,
            process: state["pid"].as_u64().unwrap(),
            _namespace: namespace,
            _place: place,
        }
    }

    fn exchange(&mut self) {
        for number in 0..EXCHANGES {
            let sent = &chunk(number)[..4096];
            self.stream.write_all(sent).unwrap();
            let mut received = [0; 4096];
            self.stream.read_exact(&mut received).unwrap();
            assert_eq!(received, sent, "exchange {number}");
        }
    }

    /// Descriptors of /dev/vhost-net that the pod has.
    fn vhosts(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.process)).unwrap();
        let is_vhost = |file: &fs::DirEntry| {
            fs::read_link(file.path()).is_ok_and(|target| target.ends_with("vhost-net"))
        };
        files.flatten().filter(is_vhost).count()
    }

    /// How often the threads have slept that move frames between rings and taps.
    fn sleeps(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process)).unwrap().flatten();
        let workers = threads.filter(|thread| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.starts_with("crx-net"))
        });
        let sleeps = |thread: fs::DirEntry| -> u64 {
            let status = fs::read_to_string(thread.path().join("status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse().unwrap()
        };
        workers.map(sleeps).sum()
    }

    fn stop(self) {
        drop(self.stream);
        self.running.signal(rustix::process::Signal::KILL);
        let _ = self.running.wait();
    }
}

/// With memory and processors that the template had not: buffers are in what was added, and there are two queue pairs.
#[test]
fn the_hosts_kernel_carries_the_frames_if_it_has_vhost_net() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let has_vhost = Path::new("/dev/vhost-net").exists();
    assert!(has_vhost || !Path::new("/lab/in").exists(), "the lab has /dev/vhost-net");
    let mut echo = Echo::start(json!({}), &["--memory", "512", "--vcpus", "2"]);
    assert_eq!(echo.vhosts(), if has_vhost { 2 } else { 0 });
    echo.exchange();
    let before = echo.sleeps();
    echo.exchange();
    let slept = echo.sleeps() - before;
    // The driver's commands still come to the worker.
    assert_eq!(slept < EXCHANGES / 4, has_vhost, "the workers slept {slept} times");
    echo.stop();
}

#[test]
fn within_limits_the_pod_carries_its_frames_itself() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let mut echo = Echo::start(json!({"dev.crx.net.rx-bytes-per-second": "1000000000"}), &[]);
    assert_eq!(echo.vhosts(), 0);
    echo.exchange();
    let before = echo.sleeps();
    echo.exchange();
    let slept = echo.sleeps() - before;
    assert!(slept >= EXCHANGES, "the workers slept {slept} times");
    echo.stop();
}
