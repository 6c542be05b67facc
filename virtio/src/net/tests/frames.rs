//! Frames in both directions.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

use super::super::MAX_FRAME_BYTES;
use super::super::tap::Tap;
use super::guest::{rx, tx, wait_for};
use super::*;

const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;

#[test]
fn frames_of_the_guest_leave_byte_for_byte() {
    let Some((mut guest, host, port)) = plugged(u64::MAX, 1) else { return };
    for (number, bytes) in [60, 61, 1514, 9000, 65_514].into_iter().enumerate() {
        guest.send(tx(0), &frame(number, bytes));
        assert_eq!(host.receive().unwrap(), frame(number, bytes));
    }
    guest.wait_sent(tx(0), 5);
    assert_eq!(port.counters().tx_frames, 5);
}

#[test]
fn frames_of_many_pieces_leave_as_one() {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 1) else { return };
    let whole = frame(1, 3000);
    let mut bytes = vec![0; 12];
    bytes.extend(&whole);
    let pieces: Vec<_> = bytes.chunks(50).map(|piece| crate::testing::Buffer::Out(piece.to_vec())).collect();
    guest.driver.send(tx(0), &pieces);
    assert_eq!(host.receive().unwrap(), whole);
}

#[test]
fn frames_for_the_guest_arrive_byte_for_byte() {
    for features in [0, MERGEABLE] {
        let Some((mut guest, host, port)) = plugged(features, 1) else { return };
        guest.give(rx(0), &[MAX_FRAME_BYTES; 5]);
        let sizes = [60, 61, 1514, 9000, 65_514];
        for (number, bytes) in sizes.into_iter().enumerate() {
            host.send(&frame(number, bytes));
        }
        for (number, bytes) in sizes.into_iter().enumerate() {
            assert_eq!(guest.receive(rx(0)).unwrap(), (frame(number, bytes), 1));
        }
        assert_eq!(port.counters().rx_frames, 5);
    }
}

#[test]
fn a_frame_takes_as_many_small_buffers_as_it_needs_and_leaves_the_others() {
    let Some((mut guest, host, _port)) = plugged(MERGEABLE, 1) else { return };
    // Also one that ends with the header, and a header across two would be shorter than allowed.
    guest.give(rx(0), &[12, 100, 200, 400, 1000, 64, 64, 64, 64, 64, 4000]);
    host.send(&frame(1, 800));
    host.send(&frame(2, 60));
    host.send(&frame(3, 250));
    assert_eq!(guest.receive(rx(0)).unwrap(), (frame(1, 800), 5));
    assert_eq!(guest.receive(rx(0)).unwrap(), (frame(2, 60), 2));
    assert_eq!(guest.receive(rx(0)).unwrap(), (frame(3, 250), 4));
}

#[test]
fn a_frame_larger_than_the_buffers_waits_for_more() {
    let Some((mut guest, host, port)) = plugged(MERGEABLE, 1) else { return };
    guest.give(rx(0), &[500, 500]);
    host.send(&frame(1, 4000));
    host.send(&frame(2, 100));
    for _ in 0..7 {
        assert_eq!(guest.driver.poll_used(rx(0)), None);
        guest.give(rx(0), &[500]);
    }
    assert_eq!(guest.receive(rx(0)).unwrap(), (frame(1, 4000), 9));
    guest.give(rx(0), &[500]);
    assert_eq!(guest.receive(rx(0)).unwrap(), (frame(2, 100), 1));
    assert_eq!(port.counters().rx_dropped, 0);
}

#[test]
fn a_frame_larger_than_a_buffer_is_lost_without_mergeable_buffers() {
    let Some((mut guest, host, port)) = plugged(0, 1) else { return };
    guest.give(rx(0), &[1526, 1526]);
    host.send(&frame(1, 1515));
    host.send(&frame(2, 1514));
    assert_eq!(guest.receive(rx(0)).unwrap(), (frame(2, 1514), 1));
    assert_eq!(port.counters().rx_dropped, 1);
}

#[test]
fn a_frame_larger_than_a_full_ring_is_lost() {
    let Some((mut guest, host, port)) = plugged(MERGEABLE, 1) else { return };
    guest.give(rx(0), &[32; 256]);
    host.send(&frame(1, 8192));
    host.send(&frame(2, 60));
    assert_eq!(guest.receive(rx(0)).unwrap(), (frame(2, 60), 3));
    assert_eq!(port.counters().rx_dropped, 1);
}

#[test]
fn frames_wait_in_the_tap_until_the_guest_has_buffers() {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 1) else { return };
    for number in 0..20 {
        host.send(&frame(number, 1000));
    }
    for number in 0..20 {
        guest.give(rx(0), &[1514]);
        assert_eq!(guest.receive(rx(0)).unwrap().0, frame(number, 1000));
    }
}

#[test]
fn a_thousand_frames_each_way_stay_in_order() {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 1) else { return };
    guest.give(rx(0), &[700; 200]);
    for number in 0..1000 {
        guest.send(tx(0), &frame(number, 200));
        host.send(&frame(number, 300));
        assert_eq!(guest.receive(rx(0)).unwrap().0, frame(number, 300));
        assert_eq!(host.receive().unwrap(), frame(number, 200));
        guest.wait_sent(tx(0), 1);
        guest.give(rx(0), &[700]);
    }
}

#[test]
fn frames_that_the_tap_refuses_are_dropped_and_counted() {
    let Some((mut guest, host, port)) = plugged(u64::MAX, 1) else { return };
    // A segment type that does not exist, and a checksum beyond the frame.
    guest.send_raw(tx(0), &[0, 0x55, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], &frame(1, 60));
    guest.send_raw(tx(0), &[1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], &frame(2, 60));
    guest.send(tx(0), &frame(3, 60));
    assert_eq!(host.receive().unwrap(), frame(3, 60));
    host.down().unwrap();
    guest.send(tx(0), &frame(4, 60));
    guest.wait_sent(tx(0), 4);
    assert_eq!((port.counters().tx_dropped, port.counters().tx_frames), (3, 1));
}

#[test]
fn a_full_tap_keeps_frames_back_until_it_has_room() {
    let (ours, theirs) = sockets();
    let (device, port) = net();
    let mut guest = Guest::started(device, u64::MAX);
    port.plug_taps(vec![Tap::socket(theirs)], Carriers::Workers(Limits::default())).unwrap();
    const FRAMES: usize = 120;
    for number in 0..FRAMES {
        guest.send(tx(0), &frame(number, 8000));
    }
    // More than a socket holds: the default is 208 KiB.
    wait_for(&port, |counters| counters.tx_frames >= 10);
    assert!(port.counters().tx_frames < FRAMES as u64);
    // The other direction goes on meanwhile.
    guest.give(rx(0), &[1514]);
    let mut packet = vec![0; 12];
    packet.extend(frame(7, 100));
    send(&ours, &packet, SendFlags::empty()).unwrap();
    assert_eq!(guest.receive(rx(0)).unwrap().0, frame(7, 100));
    for number in 0..FRAMES {
        let mut packet = vec![0; 9000];
        let (bytes, _) = recv(&ours, &mut packet[..], rustix::net::RecvFlags::empty()).unwrap();
        assert_eq!(packet[12..bytes], frame(number, 8000));
    }
    guest.wait_sent(tx(0), FRAMES);
    assert_eq!(port.counters().tx_dropped, 0);
}

/// Two ends of a connection that keeps frames apart; the second does not block.
pub(super) fn sockets() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let status = rustix::fs::fcntl_getfl(&theirs).unwrap();
    rustix::fs::fcntl_setfl(&theirs, status | rustix::fs::OFlags::NONBLOCK).unwrap();
    (ours, theirs)
}
