//! A guest that does everything wrong: it gets resets, or its device needs a reset, and nobody else notices.

use std::io::{Read, Write};

use super::Noise;
use super::driver::{Driver, GUEST_CID, MEMORY_BYTES, RX, TX};
use super::guest::{CREDIT_REQUEST, Guest, Packet, REQUEST, RESPONSE, RST, RW, SHUTDOWN};
use crate::VirtioDevice;

/// A connection works from end to end.
fn assert_alive(guest: &mut Guest, ports: (u32, u32)) {
    let mut stream = guest.connected(ports);
    guest.sockets.get_mut(&ports).unwrap().to_send.extend(b"ping");
    guest.until(|guest| guest.sockets[&ports].to_send.is_empty());
    let mut ping = [0; 4];
    stream.read_exact(&mut ping).unwrap();
    stream.write_all(b"pong").unwrap();
    guest.until(|guest| guest.sockets[&ports].read.len() == 4);
}

#[test]
fn packets_for_no_connection_are_reset_and_resets_are_not() {
    let mut guest = Guest::start(true, None);
    for op in [RESPONSE, SHUTDOWN, RW, 6, CREDIT_REQUEST, 0, 8, 99, u16::MAX] {
        guest.send((1, 2), op, 0, &[]);
        let answer = guest.stray();
        assert_eq!((answer.op, answer.dst_port, answer.src_port), (RST, 1, 2), "{op}");
    }
    guest.send((1, 2), RST, 0, &[]);
    let wrong = Packet { src_cid: GUEST_CID + 1, ..Packet::new((1, 3), REQUEST) };
    guest.driver.send(&wrong.bytes(), &[]);
    // Neither was answered: the next answer is that to what follows.
    guest.send((1, 4), RW, 0, &[]);
    assert_eq!(guest.stray().src_port, 4);
    assert!(guest.driver.connections.try_recv().is_err());
}

#[test]
fn wrong_addresses_types_and_lengths_are_reset() {
    let mut guest = Guest::start(true, None);
    let good = Packet::new((1, 2), REQUEST);
    let other_cid = Packet { dst_cid: 3, ..good.clone() };
    guest.driver.send(&other_cid.bytes(), &[]);
    let answer = guest.stray();
    assert_eq!((answer.op, answer.src_cid), (RST, 3), "from the address that the guest tried");
    let seqpacket = Packet { kind: 2, ..good.clone() };
    guest.driver.send(&seqpacket.bytes(), &[]);
    let answer = guest.stray();
    assert_eq!((answer.op, answer.kind), (RST, 2));
    for (op, len) in [(REQUEST, 1), (RW, 5), (RW, u32::MAX), (RW, 65537), (SHUTDOWN, 4)] {
        let packet = Packet { op, len, ..good.clone() };
        guest.driver.send(&packet.bytes(), &[0; 4]);
        assert_eq!(guest.stray().op, RST, "{op} {len}");
    }
    // Too short for a header: nobody to answer.
    guest.driver.send(&good.bytes()[..43], &[]);
    assert_alive(&mut guest, (8, 9));
}

#[test]
fn ports_in_use_are_not_opened_twice() {
    let mut guest = Guest::start(true, None);
    let mut stream = guest.connected((1, 2));
    guest.send((1, 2), REQUEST, 0, &[]);
    guest.until(|guest| guest.sockets[&(1, 2)].reset);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert!(guest.driver.connections.try_recv().is_err());
    assert_alive(&mut guest, (1, 2));
}

#[test]
fn more_than_the_credit_is_a_reset_and_what_was_granted_arrives() {
    let mut guest = Guest::start(true, None);
    let mut stream = guest.connected((1, 2));
    let mut sent = 0_usize;
    // The host does not read: its socket fills, then the credit does, then the line is crossed.
    while !guest.sockets[&(1, 2)].reset {
        guest.send((1, 2), RW, 0, &[7; 60_000]);
        sent += 60_000;
        guest.pump();
        assert!(sent < 16 << 20, "nothing stopped the guest");
    }
    let mut read = Vec::new();
    stream.read_to_end(&mut read).unwrap();
    assert!(read.len() >= 1 << 18 && read.len() < sent && read.iter().all(|byte| *byte == 7));
    assert_alive(&mut guest, (3, 4));
}

#[test]
fn data_and_ends_out_of_turn_are_reset() {
    let mut guest = Guest::start(true, None);
    // A response that nobody waits for.
    let _stream = guest.connected((1, 2));
    guest.send((1, 2), RESPONSE, 0, &[]);
    guest.until(|guest| guest.sockets[&(1, 2)].reset);
    // Data after the guest's own end.
    let _stream = guest.connected((3, 4));
    guest.send((3, 4), SHUTDOWN, 2, &[]);
    guest.send((3, 4), RW, 0, b"more");
    guest.until(|guest| guest.sockets[&(3, 4)].reset);
    assert_alive(&mut guest, (5, 6));
}

#[test]
fn a_storm_without_receive_buffers_is_held_back_and_nothing_is_lost() {
    let mut driver = Driver::start(true, 0, None);
    let packet = Packet::new((1, 2), RW);
    let mut sent = 0;
    // The device stops taking packets when it holds enough answers.
    'storm: loop {
        for _ in 0..1000 {
            if driver.can_send() {
                driver.send(&packet.bytes(), &[]);
                sent += 1;
                continue 'storm;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        break;
    }
    assert!((256..=256 + 64).contains(&sent), "{sent} packets");
    for slot in 0..64 {
        driver.give_rx(slot);
    }
    let mut answers = 0;
    while answers < sent {
        match driver.receive() {
            Some((slot, bytes)) => {
                assert_eq!(Packet::parse(&bytes).op, RST);
                answers += 1;
                driver.give_rx(slot);
            }
            None => driver.wait(),
        }
    }
}

#[test]
fn chains_of_the_wrong_kind_are_given_back() {
    let mut guest = Guest::start(true, None);
    let bad: [&[(u64, u32, bool)]; 6] = [
        &[(0x20_0000, 44, true)],
        &[(MEMORY_BYTES - 10, 44, false)],
        &[(u64::MAX, 44, false)],
        &[(0x20_0000, 0, false)],
        &[(0x20_0000, 44, false), (0x20_0000, u32::MAX, false)],
        &[(0x20_0000, 44, false), (0x30_0000, 100, true)],
    ];
    for parts in bad {
        // Descriptors of the last slot, which the driver uses last.
        guest.driver.offer(TX, 62, parts);
        guest.driver.kick(TX);
        while guest.driver.take_used(TX) != Some((62, 0)) {
            guest.driver.wait();
        }
    }
    assert_alive(&mut guest, (1, 2));
    assert!(!guest.driver.needs_reset());
}

#[test]
fn packets_in_pieces_are_put_together() {
    let mut guest = Guest::start(true, None);
    let mut stream = guest.connected((1, 2));
    let mut packet = Packet::new((1, 2), RW);
    packet.len = 5;
    let mut bytes = packet.bytes();
    bytes.extend(b"hello, and what is beyond the length");
    use vm_memory::{Bytes, GuestAddress};
    guest.driver.memory.write_slice(&bytes, GuestAddress(0x70_0000)).unwrap();
    // The header in two, the payload behind it and in two.
    let parts = [(0x70_0000, 10, false), (0x70_000a, 36, false), (0x70_002e, 30, false)];
    guest.driver.offer(TX, 60, &parts);
    guest.driver.kick(TX);
    let mut text = [0; 5];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
}

#[test]
fn broken_rings_need_a_reset_and_get_it() {
    for case in 0..5 {
        let mut driver = Driver::start(true, 0, None);
        match case {
            // More chains than the ring has.
            0 => driver.rings[TX].avail = 1000,
            1 => driver.rings[RX].avail = 1000,
            // Receive buffers that are none.
            2 => driver.offer(RX, 0, &[(0x10_0000, 43, true)]),
            3 => driver.offer(RX, 0, &[(0x10_0000, 4096, false)]),
            _ => driver.offer(RX, 0, &[(MEMORY_BYTES - 100, 4096, true)]),
        }
        if case < 2 {
            driver.offer(case ^ 1, 0, &[(0x10_0000, 4096, case == 0)]);
        } else {
            // Something to say makes the device look at its buffers.
            driver.send(&Packet::new((1, 2), RW).bytes(), &[]);
        }
        driver.kick(RX);
        driver.kick(TX);
        if case == 1 {
            driver.send(&Packet::new((1, 2), RW).bytes(), &[]);
        }
        driver.wait_needs_reset();
        driver.device.stop();
        driver.activate();
        let mut guest = Guest { driver, ..Guest::start(true, None) };
        for slot in 0..64 {
            guest.driver.give_rx(slot);
        }
        assert_alive(&mut guest, (1, 2));
    }
}

#[test]
fn random_packets_never_stop_the_device() {
    for seed in 1..=4 {
        let mut noise = Noise(seed);
        let mut guest = Guest::start(seed % 2 == 0, None);
        let mut streams = Vec::new();
        for _ in 0..4000 {
            let mut packet = Packet::new((noise.below(4) as u32, noise.below(4) as u32), 0);
            packet.op = noise.below(9) as u16;
            packet.flags = noise.below(5) as u32;
            packet.buf_alloc = [0, 100, 1 << 18, u32::MAX][noise.below(4) as usize];
            packet.fwd_cnt = [0, 1, 1 << 31, u32::MAX][noise.below(4) as usize];
            let count = noise.below(3) as usize * noise.below(20_000) as usize;
            let payload = if packet.op == RW { noise.bytes(count) } else { Vec::new() };
            packet.len = payload.len() as u32;
            match noise.below(50) {
                0 => packet.len = noise.next() as u32,
                1 => packet.src_cid = noise.next(),
                2 => packet.dst_cid = noise.next(),
                3 => packet.kind = noise.next() as u16,
                4 => packet.op = noise.next() as u16,
                _ => {}
            }
            let mut bytes = packet.bytes();
            if noise.below(50) == 0 {
                bytes.truncate(noise.below(44) as usize);
            }
            guest.driver.send(&bytes, &payload);
            // Answers go unread: they are about sockets that never were.
            while let Some((slot, _)) = guest.driver.receive() {
                guest.driver.give_rx(slot);
            }
            streams.extend(guest.driver.connections.try_iter());
            if noise.below(20) == 0 && !streams.is_empty() {
                let index = noise.below(streams.len() as u64) as usize;
                let stream = streams.swap_remove(index).stream;
                stream.set_nonblocking(true).unwrap();
                let _ = (&stream).write(&[1; 5000]);
            }
        }
        assert!(!guest.driver.needs_reset());
        drop(streams);
        assert_alive(&mut guest, (100, 100));
        guest.driver.device.stop();
    }
}

#[test]
fn random_rings_never_panic() {
    for seed in 1..=50 {
        let mut noise = Noise(seed);
        let mut driver = Driver::start(true, 0, None);
        for _ in 0..100 {
            let ring = noise.below(2) as usize;
            let parts: Vec<_> = (0..=noise.below(4))
                .map(|_| (noise.below(MEMORY_BYTES + 4096), noise.below(6000) as u32, noise.below(2) == 0))
                .collect();
            driver.offer(ring, noise.below(60) as u16, &parts);
            driver.kick(ring);
        }
        // A panic in the worker would lose its parts, and the device could not start again.
        driver.device.stop();
        driver.activate();
    }
}
