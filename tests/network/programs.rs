//! Programs that people run: iperf3, nginx under wrk, nft.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crx_fixture::{Bundle, Command, Need, Running, need, scale};
use serde_json::Value;

use crate::cni::Bridge;
use crate::place::{Namespace, Place};

fn kill(running: Running) {
    running.signal(rustix::process::Signal::KILL);
    let _ = running.wait();
}

/// Starts iperf3's server in a pod.
fn iperf3_server(pod: &Namespace, options: &[&str]) -> (Bundle, Running) {
    let bundle = Bundle::debian().args(&["iperf3", "--server", "--forceflush"]);
    let mut running = pod.run_with(&bundle, options).start();
    running.wait_for("Server listening");
    (bundle, running)
}

/// MiB that iperf3 sends each way.
fn mebibytes() -> u64 {
    scale::count("MiB of iperf3 each way", 128, 1)
}

/// Reads what iperf3's client said of `mebibytes` sent over `streams` connections.
fn expect_passed(report: &str, mebibytes: u64, streams: usize) {
    let report: Value = serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {report}"));
    assert!(report["error"].is_null(), "{}", report["error"]);
    let end = &report["end"];
    assert_eq!(end["streams"].as_array().unwrap().len(), streams);
    let bytes = |sum: &str| end[sum]["bytes"].as_u64().unwrap();
    assert!(bytes("sum_sent") >= mebibytes << 20, "{end}");
    // The server stops counting when the client says that it has sent all: some may still be on their way.
    assert!(bytes("sum_received") > bytes("sum_sent") / 2, "{end}");
}

#[test]
fn iperf3_of_one_pod_reaches_another_over_a_bridge() {
    if !need::met(&[Need::Pod, Need::Debian, Need::Plugin("bridge")]) {
        return;
    }
    let _place = Place::enter();
    let bridge = Bridge::new();
    let pods = [Namespace::new(), Namespace::new()];
    let [address, _] = ["first", "second"].map(|id| bridge.add(id, &pods[usize::from(id == "second")]));
    let (_bundle, server) = iperf3_server(&pods[0], &[]);
    let mebibytes = mebibytes();
    let client = format!("iperf3 --client {address} --json --bytes {mebibytes}M");
    // The reports are told apart by the brace that ends one at the beginning of a line.
    let bundle = Bundle::debian().script(&format!("{client} && echo '---' && {client} --reverse"));
    let outcome = pods[1].run(&bundle).run().expect(0);
    let out = outcome.out();
    let (there, back) = out.split_once("---\n").unwrap();
    expect_passed(there, mebibytes, 1);
    expect_passed(back, mebibytes, 1);
    kill(server);
    for (id, pod) in ["first", "second"].into_iter().zip(&pods) {
        bridge.remove(id, pod);
    }
}

#[test]
fn several_queues_carry_several_streams_both_ways() {
    if !need::met(&[Need::Pod, Need::Debian, Need::Program("iperf3")]) {
        return;
    }
    for vcpus in ["2", "4"] {
        let place = Place::enter();
        let pod = place.pod();
        let (_bundle, server) = iperf3_server(&pod, &["--vcpus", vcpus]);
        let mebibytes = mebibytes();
        let bytes = format!("{mebibytes}M");
        let client = ["--client", "10.66.0.2", "--json", "--parallel", "4", "--bytes", &bytes];
        for direction in [&[][..], &["--reverse"]] {
            let outcome = Command::new("iperf3").args(client).args(direction).run().expect(0);
            expect_passed(&outcome.out(), mebibytes, 4);
        }
        kill(server);
    }
}

/// nginx as its package has it, but in the foreground, with files below /srv and nothing written.
const NGINX: &str = "
daemon off;
worker_processes auto;
error_log stderr;
pid /run/nginx.pid;
events { worker_connections 256; }
http {
    access_log off;
    server { listen 8080; root /srv; }
}
";

#[test]
fn nginx_answers_every_request_of_wrk() {
    if !need::met(&[Need::Pod, Need::Debian, Need::Program("wrk")]) {
        return;
    }
    let place = Place::enter();
    let pod = place.pod();
    let bundle = Bundle::debian().args(&["nginx", "-c", "/etc/nginx/test.conf"]).capabilities(&[
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_DAC_OVERRIDE",
        "CAP_CHOWN",
    ]);
    std::fs::write(bundle.rootfs().join("etc/nginx/test.conf"), NGINX).unwrap();
    for (name, bytes) in [("small", 200), ("large", 300_000)] {
        std::fs::write(bundle.rootfs().join("srv").join(name), vec![b'x'; bytes]).unwrap();
    }
    let mut server = pod.run(&bundle).start();
    while let Err(error) = TcpStream::connect("10.66.0.2:8080") {
        assert!(server.is_running(), "{error}; {}", server.wait().all());
        thread::sleep(Duration::from_millis(50));
    }
    let seconds = format!("-d{}s", scale::count("seconds of wrk", 60, 3));
    for name in ["small", "large"] {
        let url = format!("http://10.66.0.2:8080/{name}");
        let outcome = Command::new("wrk").args(["-t1", "-c8", &seconds, "--timeout", "200s", &url]).run();
        let report = outcome.expect(0).out();
        // wrk says these only where there are some.
        assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
        let requests = report.lines().find_map(|line| line.trim().split_once(" requests in"));
        let (requests, _) = requests.unwrap_or_else(|| panic!("{report}"));
        assert!(requests.parse::<u64>().unwrap() > 0, "{report}");
    }
    kill(server);
}

/// Serves one connection at port 8080; connections to 8081 could be made, too.
const SERVER: &str = r#"
use IO::Socket::INET; $| = 1;
my @sockets = map { IO::Socket::INET->new(LocalPort => $_, Listen => 5) or die "listen: $!" } 8080, 8081;
print "ready\n";
my $client = $sockets[0]->accept or die "accept: $!";
print $client "redirected\n";
close $client;
"#;

#[test]
fn rules_of_nft_inside_the_pod_apply_to_its_traffic() {
    if !need::met(&[Need::Pod, Need::Debian]) {
        return;
    }
    let place = Place::enter();
    let pod = place.pod();
    let rules = "table inet test {
        chain input {
            type filter hook input priority filter;
            tcp dport 8081 counter reject with tcp reset
        }
        chain ports {
            type nat hook prerouting priority dstnat;
            tcp dport 80 counter redirect to :8080
        }
    }";
    let bundle = Bundle::debian()
        .script("nft -f /rules && perl /server && nft list ruleset")
        .capabilities(&["CAP_NET_ADMIN"]);
    for (name, content) in [("rules", rules), ("server", SERVER)] {
        std::fs::write(bundle.rootfs().join(name), content).unwrap();
    }
    let mut running = pod.run(&bundle).start();
    running.wait_for("ready");
    let refused = TcpStream::connect("10.66.0.2:8081").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let mut answer = String::new();
    TcpStream::connect("10.66.0.2:80").unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "redirected\n");
    let outcome = running.wait().expect(0);
    for words in ["tcp dport 8081 counter packets 1 ", "tcp dport 80 counter packets 1 "] {
        assert!(outcome.out().contains(words), "{words:?} is not in\n{}", outcome.all());
    }
}
