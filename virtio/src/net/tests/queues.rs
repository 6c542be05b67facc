//! Several queue pairs, and interrupts.

use std::collections::BTreeSet;

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_VRING;

use super::guest::{CONTROL, rx, tx};
use super::*;

#[test]
fn every_pair_sends_and_receives() {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 3) else { return };
    assert!(guest.command(&[4, 0, 3, 0]));
    for pair in 0..3 {
        guest.give(rx(pair), &[1514; 60]);
        guest.send(tx(pair), &frame(pair, 100));
        assert_eq!(host.receive().unwrap(), frame(pair, 100));
    }
    // The kernel chooses the queue of each frame.
    let sent: BTreeSet<_> = (0..50).map(|number| frame(number, 80 + number)).collect();
    sent.iter().for_each(|frame| host.send(frame));
    let mut received = BTreeSet::new();
    for _ in 0..10_000 {
        for pair in 0..3 {
            while let Some(used) = guest.driver.poll_used(rx(pair)) {
                received.insert(guest.frame_of(rx(pair), used));
            }
        }
        if received.len() == sent.len() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(received, sent);
}

#[test]
fn with_fewer_pairs_than_queues_of_the_tap_everything_comes_to_those() {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 4) else { return };
    guest.give(rx(0), &[1514; 120]);
    for pairs in [1, 4, 1] {
        assert!(guest.command(&[4, 0, pairs, 0]));
        if pairs == 1 {
            for number in 0..50 {
                host.send(&frame(number, 60 + number));
            }
            for number in 0..50 {
                assert_eq!(guest.receive(rx(0)).unwrap().0, frame(number, 60 + number));
            }
        }
    }
}

#[test]
fn pairs_that_were_used_before_the_tap_came_send_over_the_queues_that_it_has() {
    let Some((host, taps)) = host(2) else { return };
    let (device, port) = net();
    let mut guest = Guest::started(device, u64::MAX);
    assert!(guest.command(&[4, 0, 4, 0]));
    port.plug(taps, Carriers::Workers(Limits::default())).unwrap();
    for pair in 0..4 {
        guest.send(tx(pair), &frame(pair, 100));
        assert_eq!(host.receive().unwrap(), frame(pair, 100));
    }
}

#[test]
fn interrupts_come_when_the_driver_asked_for_them() {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 1) else { return };
    // Behind the third frame; never for commands, whose answers say that what was before them is over.
    guest.driver.set_used_event(tx(0), 2);
    guest.driver.set_used_event(CONTROL, u16::MAX);
    for number in 0..2 {
        guest.send(tx(0), &frame(number, 60));
        guest.wait_sent(tx(0), 1);
        assert!(guest.command(&[0, 0, 1]) && guest.command(&[0, 0, 1]));
        assert_eq!(guest.driver.take_interrupt(), (0, false));
    }
    guest.send(tx(0), &frame(2, 60));
    guest.wait_sent(tx(0), 1);
    assert!(guest.command(&[0, 0, 1]) && guest.command(&[0, 0, 1]));
    assert_eq!(guest.driver.take_interrupt(), (VIRTIO_MMIO_INT_VRING, true));
    drop(host);
}

#[test]
fn a_frame_over_several_buffers_interrupts_for_any_of_them() {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 1) else { return };
    guest.give(rx(0), &[100; 20]);
    guest.driver.set_used_event(rx(0), 1);
    guest.driver.set_used_event(CONTROL, u16::MAX);
    host.send(&frame(1, 900));
    assert_eq!(guest.receive(rx(0)).unwrap(), (frame(1, 900), 10));
    assert!(guest.command(&[0, 0, 1]) && guest.command(&[0, 0, 1]));
    assert_eq!(guest.driver.take_interrupt(), (VIRTIO_MMIO_INT_VRING, true));
}
