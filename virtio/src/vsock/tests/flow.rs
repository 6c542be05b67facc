//! Connections that the guest opens: bytes both ways, credit, half-close, many at once.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use super::Noise;
use super::driver::RX;
use super::guest::{CREDIT_REQUEST, Guest, Packet, REQUEST, RST, RW};
use crate::VirtioDevice;
use crate::vsock::muxer::{BUFFER_BYTES, MAX_CONNECTIONS};

const MIB: usize = 1 << 20;

/// The guest sends and receives `bytes` over each of `count` connections, all at the same time.
fn bulk(event_idx: bool, count: u32, bytes: usize) {
    let mut guest = Guest::start(event_idx, None);
    let mut hosts = Vec::new();
    for port in 0..count {
        let ports = (1000 + port, 50 + port);
        let mut stream = guest.connected(ports);
        let up = Noise(1 + u64::from(port)).bytes(bytes);
        let down = Noise(1 << 40 | u64::from(port)).bytes(bytes);
        guest.sockets.get_mut(&ports).unwrap().to_send.extend(&up);
        guest.sockets.get_mut(&ports).unwrap().shut = 2;
        let mut reader = stream.try_clone().unwrap();
        let sent = down.clone();
        hosts.push((
            ports,
            down,
            thread::spawn(move || {
                stream.write_all(&sent).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            }),
            thread::spawn(move || {
                let mut read = Vec::new();
                reader.read_to_end(&mut read).unwrap();
                assert!(read == up, "what the guest sent");
            }),
        ));
    }
    guest.until(|guest| {
        guest.sockets.values().all(|socket| socket.host_shut & 2 != 0 && socket.to_send.is_empty())
    });
    for (ports, down, writer, reader) in hosts {
        writer.join().unwrap();
        // The guest may have sent its end, but credit is given only while it goes on.
        guest.until(|guest| guest.sockets[&ports].read.len() == bytes);
        reader.join().unwrap();
        assert!(guest.sockets[&ports].read == down, "what the host sent");
        assert!(!guest.sockets[&ports].reset);
    }
}

#[test]
fn bulk_both_ways_with_event_idx() {
    bulk(true, 1, 16 * MIB);
}

#[test]
fn bulk_both_ways_without_event_idx() {
    bulk(false, 1, 4 * MIB);
}

#[test]
fn bulk_over_many_connections() {
    bulk(true, 20, MIB);
}

#[test]
fn guest_half_closes_then_reads_on() {
    let mut guest = Guest::start(true, None);
    let ports = (1, 2);
    let mut stream = guest.connected(ports);
    guest.sockets.get_mut(&ports).unwrap().to_send.extend(b"question");
    guest.sockets.get_mut(&ports).unwrap().shut = 2;
    guest.until(|guest| guest.sockets[&ports].to_send.is_empty());
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    stream.write_all(b"answer").unwrap();
    drop(stream);
    guest.until(|guest| guest.sockets[&ports].host_shut == 3);
    assert_eq!(guest.sockets[&ports].read, b"answer");
    guest.sockets.get_mut(&ports).unwrap().shut = 3;
    guest.until(|guest| guest.sockets[&ports].reset);
}

#[test]
fn host_half_closes_then_reads_on() {
    let mut guest = Guest::start(true, None);
    let ports = (1, 2);
    let mut stream = guest.connected(ports);
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    guest.until(|guest| guest.sockets[&ports].host_shut != 0);
    assert_eq!(guest.sockets[&ports].host_shut, 2, "the host still reads");
    assert_eq!(guest.sockets[&ports].read, b"question");
    guest.sockets.get_mut(&ports).unwrap().to_send.extend(b"answer");
    guest.sockets.get_mut(&ports).unwrap().shut = 3;
    guest.until(|guest| guest.sockets[&ports].reset);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
}

#[test]
fn a_guest_that_receives_no_more_gives_writers_an_error() {
    let mut guest = Guest::start(true, None);
    let ports = (1, 2);
    let mut stream = guest.connected(ports);
    guest.sockets.get_mut(&ports).unwrap().to_send.extend(b"last");
    guest.sockets.get_mut(&ports).unwrap().shut = 1;
    let mut text = [0; 4];
    guest.until(|guest| guest.sockets[&ports].to_send.is_empty());
    stream.read_exact(&mut text).unwrap();
    // The data came before the shutdown; only the shutdown can end this loop.
    while stream.write_all(b"too late").is_ok() {
        guest.pump();
    }
}

#[test]
fn all_bytes_arrive_when_the_guest_closes_or_resets_at_once() {
    for abrupt in [false, true] {
        let mut guest = Guest::start(true, None);
        let ports = (1, 2);
        // Credit for less than the host writes: the rest stays in the socket.
        guest.connect(ports, 4);
        guest.sockets.get_mut(&ports).unwrap().stopped = true;
        let mut stream = guest.driver.connections.recv().unwrap().stream;
        stream.write_all(b"never read by the guest").unwrap();
        let sent = Noise(3).bytes(BUFFER_BYTES as usize);
        guest.sockets.get_mut(&ports).unwrap().to_send.extend(&sent);
        guest.until(|guest| {
            guest.sockets[&ports].to_send.is_empty() && guest.sockets[&ports].received.len() == 4
        });
        if abrupt {
            guest.send(ports, RST, 0, &[]);
        } else {
            guest.sockets.get_mut(&ports).unwrap().shut = 3;
            guest.pump();
        }
        let reader = thread::spawn(move || {
            let mut read = Vec::new();
            // An end, not ECONNRESET.
            stream.read_to_end(&mut read).unwrap();
            read
        });
        if !abrupt {
            guest.until(|guest| guest.sockets[&ports].reset);
        }
        assert!(reader.join().unwrap() == sent);
    }
}

#[test]
fn ports_can_be_used_again_while_old_bytes_wait() {
    let mut guest = Guest::start(true, None);
    let ports = (1, 2);
    let mut old = guest.connected(ports);
    let sent = Noise(4).bytes(BUFFER_BYTES as usize);
    guest.sockets.get_mut(&ports).unwrap().to_send.extend(&sent);
    guest.until(|guest| guest.sockets[&ports].to_send.is_empty());
    guest.send(ports, RST, 0, &[]);
    let mut new = guest.connected(ports);
    let mut read = Vec::new();
    old.read_to_end(&mut read).unwrap();
    assert!(read == sent);
    drop(old);
    // The end of the old one is not the end of the new one.
    for _ in 0..10 {
        new.write_all(b"ping").unwrap();
        guest.until(|guest| guest.sockets[&ports].read == b"ping" || guest.sockets[&ports].reset);
        guest.sockets.get_mut(&ports).unwrap().read.clear();
        guest.sockets.get_mut(&ports).unwrap().to_send.extend(b"pong");
        guest.until(|guest| guest.sockets[&ports].to_send.is_empty() || guest.sockets[&ports].reset);
        new.read_exact(&mut [0; 4]).unwrap();
    }
}

#[test]
fn a_question_for_credit_is_answered() {
    let mut guest = Guest::start(true, None);
    let mut stream = guest.connected((1, 2));
    guest.sockets.get_mut(&(1, 2)).unwrap().to_send.extend(b"four");
    guest.until(|guest| guest.sockets[&(1, 2)].to_send.is_empty());
    stream.read_exact(&mut [0; 4]).unwrap();
    guest.send((1, 2), CREDIT_REQUEST, 0, &[]);
    guest.until(|guest| guest.sockets[&(1, 2)].updates == 1);
    let socket = &guest.sockets[&(1, 2)];
    assert_eq!((socket.peer_fwd_cnt, socket.peer_buf_alloc), (4, BUFFER_BYTES));
}

#[test]
fn bytes_sent_just_before_the_device_stops_arrive() {
    let mut guest = Guest::start(true, None);
    let ports = (1, 2);
    let mut stream = guest.connected(ports);
    let sent = Noise(5).bytes(BUFFER_BYTES as usize);
    guest.sockets.get_mut(&ports).unwrap().to_send.extend(&sent);
    guest.pump();
    let reader = thread::spawn(move || {
        let mut read = Vec::new();
        stream.read_to_end(&mut read).unwrap();
        read
    });
    assert!(guest.sockets[&ports].to_send.is_empty());
    guest.driver.device.stop();
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn a_full_host_socket_blocks_only_its_connection() {
    let mut guest = Guest::start(true, None);
    let full = (1, 2);
    let stuck = guest.connected(full);
    let sent = Noise(9).bytes(2 * MIB);
    guest.sockets.get_mut(&full).unwrap().to_send.extend(&sent);
    let other = (3, 4);
    let mut stream = guest.connected(other);
    for _ in 0..100 {
        guest.sockets.get_mut(&other).unwrap().to_send.extend(b"ping");
        guest.until(|guest| guest.sockets[&other].to_send.is_empty());
        let mut ping = [0; 4];
        stream.read_exact(&mut ping).unwrap();
        stream.write_all(&ping).unwrap();
        guest.until(|guest| guest.sockets[&other].received.len() + guest.sockets[&other].read.len() >= 4);
        guest.sockets.get_mut(&other).unwrap().read.clear();
    }
    assert!(!guest.sockets[&full].to_send.is_empty(), "its socket and credit are full");
    guest.sockets.get_mut(&full).unwrap().shut = 2;
    let reader = thread::spawn(move || {
        let mut read = Vec::new();
        (&stuck).read_to_end(&mut read).unwrap();
        read
    });
    guest.until(|guest| guest.sockets[&full].to_send.is_empty());
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn an_empty_receive_ring_or_no_credit_stops_nothing_but_the_host() {
    let mut guest = Guest::start(true, None);
    let ports = (1, 2);
    let mut stream = guest.connected(ports);
    let down = Noise(11).bytes(MIB);
    let sent = down.clone();
    let mut writer = stream.try_clone().unwrap();
    let writer = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    guest.withhold = true;
    guest.until(|guest| guest.withheld.len() == 64);
    // Not one buffer is left, and the guest's bytes still come out.
    for round in 0..100_u32 {
        guest.send(ports, RW, 0, &round.to_le_bytes());
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), round);
    }
    guest.withhold = false;
    for slot in std::mem::take(&mut guest.withheld) {
        guest.driver.give_rx(slot);
    }
    guest.sockets.get_mut(&ports).unwrap().stopped = true;
    guest.until(|guest| guest.sockets[&ports].received.len() + guest.sockets[&ports].read.len() >= 1 << 18);
    guest.sockets.get_mut(&ports).unwrap().stopped = false;
    guest.until(|guest| guest.sockets[&ports].host_shut & 2 != 0);
    assert!(guest.sockets[&ports].read == down);
    writer.join().unwrap();
}

#[test]
fn as_many_connections_as_allowed_and_one_more() {
    let mut guest = Guest::start(true, None);
    let mut streams: Vec<UnixStream> = Vec::new();
    for port in 0..MAX_CONNECTIONS as u32 {
        streams.push(guest.connected((port, 9)));
    }
    guest.connect((5000, 9), 1 << 18);
    guest.until(|guest| guest.sockets[&(5000, 9)].reset);
    let promised: u64 = guest.sockets.values().map(|socket| u64::from(socket.peer_buf_alloc)).sum();
    assert!(promised <= 32 << 20, "{promised} bytes promised");
    for (port, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&port.to_le_bytes()).unwrap();
    }
    guest.until(|guest| guest.sockets.values().all(|socket| socket.reset || socket.read.len() == 8));
    for port in 0..MAX_CONNECTIONS as u32 {
        assert_eq!(guest.sockets[&(port, 9)].read, (port as usize).to_le_bytes());
    }
    // One goes, another may come.
    streams.pop();
    guest.sockets.get_mut(&(1022, 9)).unwrap().shut = 3;
    guest.until(|guest| guest.sockets[&(1022, 9)].reset);
    guest.connected((5000, 9));
}

#[test]
fn one_interrupt_for_a_batch() {
    let mut guest = Guest::start(true, None);
    let ports = (1, 2);
    let mut stream = guest.connected(ports);
    // The guest is asleep while the packets of one read come.
    let before = guest.driver.interrupts;
    stream.write_all(&vec![1; 48 << 10]).unwrap();
    guest.until(|guest| guest.sockets[&ports].read.len() == 48 << 10);
    let packets = (48 << 10) / 3700;
    let interrupts = guest.driver.interrupts - before;
    assert!(interrupts < packets, "{interrupts} interrupts for {packets} packets");
    assert!(guest.driver.rings[RX].avail > packets as u16);
}

#[test]
fn the_device_starts_again_after_a_reset() {
    let mut guest = Guest::start(true, None);
    let mut stream = guest.connected((1, 2));
    for _ in 0..3 {
        guest.driver.device.stop();
        // The host's end of what was open is over.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        guest.driver.activate();
        for slot in 0..64 {
            guest.driver.give_rx(slot);
        }
        stream = guest.connected((1, 2));
    }
}

#[test]
fn nobody_takes_connections_of_the_guest() {
    let mut guest = Guest::start(true, None);
    let (_, nobody) = std::sync::mpsc::channel();
    drop(std::mem::replace(&mut guest.driver.connections, nobody));
    guest.driver.send(&Packet::new((1, 2), REQUEST).bytes(), &[]);
    assert_eq!(guest.stray().op, RST);
}
