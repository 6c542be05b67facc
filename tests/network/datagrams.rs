//! Datagrams that are larger than a packet.

use std::net::UdpSocket;
use std::time::Duration;

use crx_fixture::{Bundle, Need, need};

use crate::place::Place;
use crate::traffic::chunk;

/// Sends every datagram back, and ends after an empty one.
const ECHO: &str = r#"
use IO::Socket::INET; $| = 1;
my $socket = IO::Socket::INET->new(Proto => "udp", LocalPort => 7777) or die "socket: $!";
print "ready\n";
my $bytes;
while (defined $socket->recv($bytes, 65535) && length $bytes) {
    defined $socket->send($bytes) or die "send: $!";
}
"#;

/// Bytes of the IPv4 and UDP headers less than an Ethernet packet, one more, some fragments, and the most that there is.
const SIZES: [usize; 5] = [1472, 1473, 9000, 30_000, 65_507];

#[test]
fn datagrams_in_fragments_come_back_unchanged() {
    if !need::met(&[Need::Pod, Need::Debian]) {
        return;
    }
    let place = Place::enter();
    let pod = place.pod();
    let bundle = Bundle::debian().args(&["perl", "-e", ECHO]);
    let mut running = pod.run(&bundle).start();
    running.wait_for("ready");
    let socket = UdpSocket::bind("10.66.0.1:0").unwrap();
    // One that is lost never comes: the pod is given up.
    socket.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
    socket.connect("10.66.0.2:7777").unwrap();
    let mut back = vec![0; 1 << 16];
    for (number, size) in SIZES.into_iter().enumerate() {
        let bytes = &chunk(number as u64)[..size];
        assert_eq!(socket.send(bytes).unwrap(), size);
        let came = socket.recv(&mut back).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
        assert!(back[..came] == *bytes, "{came} bytes of {size} came back, or others");
    }
    let counters = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    socket.send(&[]).unwrap();
    let _ = running.wait().expect(0);
    // They did come in fragments, both ways.
    for counter in ["FragCreates", "ReasmOKs"] {
        assert!(snmp(&counters, counter) >= 4, "{counter} in\n{counters}");
    }
}

/// A counter of IP (RFC 2011) in /proc/net/snmp: a line of names, then one of numbers.
fn snmp(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let (_, number) = names.zip(numbers).find(|(found, _)| *found == name).unwrap();
    number.parse().unwrap()
}
