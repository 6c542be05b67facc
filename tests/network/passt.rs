//! Networks that passt makes.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crx_fixture::runtime::crx;
use crx_fixture::{Bundle, Need, need};
use rustix::process::{Pid, Signal, kill_process};

use crate::nat::expect_echo;
use crate::place::{Namespace, Place, accept, ip};

/// The world behind a host: 192.0.2.1 to its 192.0.2.2.
fn world(place: &Place) -> Namespace {
    let world = Namespace::new();
    place.veth(&world, "w0", "uplink");
    ip("addr add 192.0.2.2/24 dev uplink");
    ip("route add default via 192.0.2.1");
    world.ip("addr add 192.0.2.1/24 dev w0");
    world
}

/// Processes of passt that are in this thread's network namespace.
fn pastas() -> Vec<String> {
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let is_number = |path: &PathBuf| path.file_name().unwrap().as_encoded_bytes()[0].is_ascii_digit();
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).filter(is_number);
    let is_pasta = |process: &Path| {
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        let here = std::fs::read_link(process.join("ns/net")).is_ok_and(|namespace| namespace == own);
        here && (name.starts_with("pasta") || name.starts_with("passt"))
    };
    processes.filter(|process| is_pasta(process)).map(|process| process.display().to_string()).collect()
}

fn expect_no_pasta() {
    let start = Instant::now();
    while !pastas().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", pastas());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_pod_reaches_the_world_and_is_reached_and_pasta_ends_with_it_however_it_ends() {
    if !need::met(&[Need::Pod, Need::Program("pasta")]) {
        return;
    }
    let place = Place::enter();
    let world = world(&place);
    let listener = world.within(|| TcpListener::bind("192.0.2.1:7777").unwrap());
    let script = "cat /etc/resolv.conf; nc 192.0.2.1 7777 -e cat; while true; do nc -l -p 80 -e cat; done";
    let bundle = Bundle::busybox().script(script);
    let mut running = bundle.command_with(&["--net", "passt", "--publish", "8080:80"]).start();
    running.wait_for("nameserver 169.254.1.1");
    assert_eq!(pastas().len(), 1);
    let mut stream = accept(&listener, &mut running);
    // More than a packet, in both directions.
    let sent: Vec<u8> = (0..200_000_u32).map(|number| (number * 7 / 3) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let expected = sent.clone();
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut came = vec![0; expected.len()];
    stream.read_exact(&mut came).unwrap();
    writing.join().unwrap();
    assert!(came == expected);
    drop(stream);
    world.within(|| expect_echo("192.0.2.2:8080", &mut running));
    // The process that the network hangs on, without any chance to take leave.
    let state = crx().args(["state", bundle.id()]).run().expect(0).out();
    let pid = serde_json::from_str::<serde_json::Value>(&state).unwrap()["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    let _ = running.wait();
    expect_no_pasta();
    // The kernel closes what a process had open after nothing else of it is left to be seen.
    let start = Instant::now();
    while let Err(error) = TcpListener::bind("0.0.0.0:8080") {
        assert!(start.elapsed() < Duration::from_secs(60), "the port is still taken: {error}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn names_are_asked_of_the_hosts_server() {
    if !need::met(&[Need::Pod, Need::Program("pasta")]) {
        return;
    }
    let place = Place::enter();
    let world = world(&place);
    let directory = tempfile::Builder::new().prefix("resolv-").tempdir().unwrap();
    let own = directory.path().join("resolv.conf");
    std::fs::write(&own, "search example.org\nnameserver 192.0.2.1\n").unwrap();
    let bind = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", own.display());
    let under = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &bind, "sh"];
    let server = world.within(|| UdpSocket::bind("192.0.2.1:53").unwrap());
    server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let bundle = Bundle::busybox().script("nslookup pods.example 169.254.1.1; sleep 1000");
    let running = bundle.command_with(&["--net", "passt"]).wrapped(&under).start();
    let mut question = [0; 512];
    let length = server.recv(&mut question).unwrap();
    assert!(question[..length].windows(5).any(|bytes| bytes == b"\x04pods"), "{question:?}");
    running.signal(Signal::KILL);
    let _ = running.wait();
    expect_no_pasta();
}

#[test]
fn without_the_program_or_a_way_out_nothing_is_launched() {
    if !need::met(&[Need::Pod, Need::Program("pasta")]) {
        return;
    }
    let _place = Place::enter();
    let bundle = Bundle::busybox().args(&["true"]);
    let refused = bundle.command_with(&["--net", "passt"]).env("PATH", "/nowhere").run();
    refused.expect_refused(&["--net passt", "no program pasta", "install the package passt"]);
    bundle.command_with(&["--net", "passt"]).run().expect_refused(&["--net passt: pasta: "]);
    expect_no_pasta();
}
