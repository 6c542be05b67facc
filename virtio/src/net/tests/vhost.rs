//! Pairs that the host's kernel carries, and their way there and back. Skipped where it has no vhost-net; the lab has it.

use std::fs::OpenOptions;

use super::super::{Counters, Vhost};
use super::guest::{rx, tx};
use super::*;

/// What carries a tap with so many queues.
fn kernel(queues: usize) -> Option<Carriers> {
    let open = || OpenOptions::new().read(true).write(true).open("/dev/vhost-net");
    if open().is_err() {
        assert!(!std::path::Path::new("/lab/in").exists(), "the lab has /dev/vhost-net");
        eprintln!("skipped: needs /dev/vhost-net");
        return None;
    }
    Some(Carriers::Vhost((0..queues).map(|_| Vhost::new(open().unwrap().into()).unwrap()).collect()))
}

/// A started guest whose tap the kernel carries.
fn carried(features: u64, queues: usize) -> Option<(Guest, Host, NetPort)> {
    let carriers = kernel(queues)?;
    let (host, taps) = host(queues)?;
    let (device, port) = net();
    let guest = Guest::started(device, features);
    port.plug(taps, carriers).unwrap();
    Some((guest, host, port))
}

fn exchange(guest: &mut Guest, host: &Host, pair: usize, number: usize) {
    guest.send(tx(pair), &frame(number, 100));
    assert_eq!(host.receive().unwrap(), frame(number, 100));
    guest.wait_sent(tx(pair), 1);
}

#[test]
fn frames_go_both_ways_and_no_worker_sees_them() {
    for features in [0, u64::MAX] {
        let Some((mut guest, host, port)) = carried(features, 1) else { return };
        guest.give(rx(0), &[2000; 40]);
        let large = if features == 0 { 1900 } else { 20_000 };
        for (number, bytes) in [60, 61, 1514, large].into_iter().enumerate() {
            guest.send(tx(0), &frame(number, bytes));
            assert_eq!(host.receive().unwrap(), frame(number, bytes));
            host.send(&frame(number, bytes));
            assert_eq!(guest.receive(rx(0)).unwrap().0, frame(number, bytes));
        }
        guest.wait_sent(tx(0), 4);
        assert_eq!(port.counters(), Counters::default());
        // Every interrupt of the kernel's can be told by the register.
        let mut raised = false;
        for _ in 0..10_000 {
            let (status, now) = guest.driver.take_interrupt();
            assert_eq!(status & 1, 1);
            raised |= now;
            if raised {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(raised);
    }
}

#[test]
fn the_tap_of_another_carrier_goes_on_with_the_same_rings() {
    let Some((mut guest, host, port)) = carried(u64::MAX, 1) else { return };
    guest.give(rx(0), &[1514; 60]);
    let mut host = host;
    for round in 0..6 {
        for number in 0..5 {
            exchange(&mut guest, &host, 0, number);
            host.send(&frame(number, 200));
            assert_eq!(guest.receive(rx(0)).unwrap().0, frame(number, 200));
        }
        let by_workers = 5 * (round as u64).div_ceil(2);
        assert_eq!((port.counters().rx_frames, port.counters().tx_frames), (by_workers, by_workers));
        port.unplug();
        let Some((next, taps)) = super::host(1) else { return };
        let workers = Carriers::Workers(Limits::default());
        port.plug(taps, if round % 2 == 0 { workers } else { kernel(1).unwrap() }).unwrap();
        host = next;
    }
}

#[test]
fn a_reset_driver_and_a_device_that_goes_on_have_the_rings_as_they_stand() {
    let Some((mut guest, host, _port)) = carried(u64::MAX, 1) else { return };
    for number in 0..3 {
        exchange(&mut guest, &host, 0, number);
        guest.driver.reset();
        guest.restart(u64::MAX);
    }
    guest.give(rx(0), &[1514; 10]);
    exchange(&mut guest, &host, 0, 1);
    exchange(&mut guest, &host, 0, 2);
    host.send(&frame(3, 100));
    guest.receive(rx(0)).unwrap();
    let (device, port) = net();
    let state = guest.driver.move_to(device);
    let indices: Vec<_> = state.queues.iter().map(|ring| (ring.next_available, ring.next_used)).collect();
    assert_eq!(indices[..2], [(1, 1), (2, 2)]);
    // Nobody writes the line for its rings any more.
    guest.driver.take_interrupt();
    assert_eq!(guest.driver.take_interrupt().0, 0);
    let Some((host, taps)) = super::host(1) else { return };
    port.plug(taps, kernel(1).unwrap()).unwrap();
    exchange(&mut guest, &host, 0, 4);
    host.send(&frame(5, 100));
    assert_eq!(guest.receive(rx(0)).unwrap().0, frame(5, 100));
}

#[test]
fn pairs_come_and_go() {
    let Some((mut guest, host, port)) = carried(u64::MAX, 3) else { return };
    for pairs in [3, 1, 2] {
        assert!(guest.command(&[4, 0, pairs, 0]));
        (0..usize::from(pairs)).for_each(|pair| exchange(&mut guest, &host, pair, pair));
    }
    assert_eq!(port.counters(), Counters::default());
}

#[test]
fn a_ring_that_the_kernel_gives_up_on_needs_a_reset() {
    let Some((mut guest, host, _port)) = carried(u64::MAX, 1) else { return };
    let request = guest.driver.add(tx(0), &[crate::testing::Buffer::Out(vec![0; 80])]);
    guest.driver.descriptor(tx(0), request.head, 0x7fff_ffff, 80, 0, 0);
    guest.driver.kick(tx(0));
    guest.wait_for_needs_reset();
    guest.restart(u64::MAX);
    exchange(&mut guest, &host, 0, 1);
}

#[test]
fn each_queue_of_a_tap_needs_its_own() {
    let Some(carriers) = kernel(1) else { return };
    let Some((_host, taps)) = host(2) else { return };
    let (_device, port) = net();
    assert!(matches!(port.plug(taps, carriers), Err(super::super::PlugError::Vhosts(1, 2))));
}
