//! Taps that come and go, devices that stop and go on elsewhere.

use std::os::fd::OwnedFd;

use super::super::PlugError;
use super::super::tap::Tap;
use super::frames::sockets;
use super::guest::{rx, tx, wait_for};
use super::*;
use crate::testing::Driver;

#[test]
fn without_a_tap_frames_are_taken_and_dropped() {
    let (device, port) = net();
    let mut guest = Guest::started(device, u64::MAX);
    guest.give(rx(0), &[1514]);
    for number in 0..10 {
        guest.send(tx(0), &frame(number, 100));
    }
    guest.wait_sent(tx(0), 10);
    assert_eq!(port.counters().tx_dropped, 10);
    assert_eq!(guest.driver.poll_used(rx(0)), None);
}

#[test]
fn a_tap_works_plugged_in_before_and_after_the_driver_started() {
    for before in [true, false] {
        let Some((host, mut taps)) = host(1) else { return };
        let (device, port) = net();
        if before {
            port.plug(std::mem::take(&mut taps), Carriers::Workers(Limits::default())).unwrap();
        }
        let mut guest = Guest::started(device, u64::MAX);
        guest.give(rx(0), &[1514]);
        if !before {
            port.plug(taps, Carriers::Workers(Limits::default())).unwrap();
        }
        host.send(&frame(1, 100));
        assert_eq!(guest.receive(rx(0)).unwrap().0, frame(1, 100));
        guest.send(tx(0), &frame(2, 100));
        assert_eq!(host.receive().unwrap(), frame(2, 100));
    }
}

#[test]
fn a_hidden_device_is_none_until_it_has_a_tap() {
    const DEVICE_ID: u64 = 0x008;
    let Some((_host, taps)) = host(1) else { return };
    let port = NetPort::new();
    let hidden = NetConfig { mac: MAC, port: port.clone(), hidden: true };
    let mut driver = Driver::new(Box::new(Net::new(hidden)));
    assert_eq!(driver.read(DEVICE_ID), 0);
    port.plug(taps, Carriers::Workers(Limits::default())).unwrap();
    assert_eq!(driver.read(DEVICE_ID), 1);
}

#[test]
fn a_tap_can_be_taken_out_and_another_plugged_in() {
    let Some((mut guest, host, port)) = plugged(u64::MAX, 1) else { return };
    guest.give(rx(0), &[1514; 4]);
    guest.send(tx(0), &frame(1, 100));
    assert_eq!(host.receive().unwrap(), frame(1, 100));
    port.unplug();
    guest.send(tx(0), &frame(2, 100));
    guest.wait_sent(tx(0), 2);
    let Some((host, taps)) = super::host(1) else { return };
    port.plug(taps, Carriers::Workers(Limits::default())).unwrap();
    guest.send(tx(0), &frame(3, 100));
    assert_eq!(host.receive().unwrap(), frame(3, 100));
    host.send(&frame(4, 100));
    assert_eq!(guest.receive(rx(0)).unwrap().0, frame(4, 100));
}

#[test]
fn what_is_no_tap_of_ours_is_refused() {
    let Some((_host, taps)) = host(1) else { return };
    let (_device, port) = net();
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    assert!(matches!(
        port.plug(vec![null()], Carriers::Workers(Limits::default())),
        Err(PlugError::NoTap(_))
    ));
    let unset = OwnedFd::from(std::fs::File::open("/dev/net/tun").unwrap());
    assert!(matches!(port.plug(vec![unset], Carriers::Workers(Limits::default())), Err(PlugError::NoTap(_))));
    assert!(matches!(port.plug(Vec::new(), Carriers::Workers(Limits::default())), Err(PlugError::Count(0))));
    port.plug(taps, Carriers::Workers(Limits::default())).unwrap();
    let (_ours, theirs) = sockets();
    let again = port.plug_taps(vec![Tap::socket(theirs)], Carriers::Workers(Limits::default()));
    assert!(matches!(again, Err(PlugError::Occupied)));
    let Some((_other, other_taps)) = host(1) else { return };
    drop(other_taps);
    let plain = sys::tap(libc::IFF_TAP | libc::IFF_NO_PI).unwrap();
    assert!(matches!(port.plug(vec![plain], Carriers::Workers(Limits::default())), Err(PlugError::Flags(_))));
}

#[test]
fn a_reset_driver_starts_again_with_the_same_tap() {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 1) else { return };
    for number in 0..5 {
        guest.send(tx(0), &frame(number, 100));
        assert_eq!(host.receive().unwrap(), frame(number, 100));
        guest.driver.reset();
        guest.restart(u64::MAX);
    }
}

#[test]
fn a_device_goes_on_from_where_another_stopped() {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 2) else { return };
    assert!(guest.command(&[4, 0, 2, 0]));
    guest.give(rx(0), &[700; 40]);
    guest.send(tx(0), &frame(1, 100));
    guest.send(tx(1), &frame(2, 100));
    host.receive().unwrap();
    host.receive().unwrap();
    guest.wait_sent(tx(0), 1);
    guest.wait_sent(tx(1), 1);
    let (device, port) = net();
    let state = guest.driver.move_to(device);
    // Buffers that the device had at hand are in the ring again.
    let indices: Vec<_> = state.queues.iter().map(|ring| (ring.next_available, ring.next_used)).collect();
    assert_eq!(indices, [(0, 0), (1, 1), (0, 0), (1, 1), (0, 0), (0, 0), (0, 0), (0, 0), (1, 1)]);
    let Some((host, taps)) = super::host(2) else { return };
    port.plug(taps, Carriers::Workers(Limits::default())).unwrap();
    // Both pairs work without another word of the driver.
    for pair in 0..2 {
        guest.send(tx(pair), &frame(pair, 100));
        assert_eq!(host.receive().unwrap(), frame(pair, 100));
    }
    assert!(guest.command(&[4, 0, 1, 0]));
    for number in 0..20 {
        host.send(&frame(number, 1000));
        assert_eq!(guest.receive(rx(0)).unwrap(), (frame(number, 1000), 2));
    }
}

#[test]
fn a_frame_that_could_not_leave_is_sent_by_the_device_that_goes_on() {
    let (ours, theirs) = sockets();
    let (device, port) = net();
    let mut guest = Guest::started(device, u64::MAX);
    port.plug_taps(vec![Tap::socket(theirs)], Carriers::Workers(Limits::default())).unwrap();
    for number in 0..120 {
        guest.send(tx(0), &frame(number, 8000));
    }
    wait_for(&port, |counters| counters.tx_frames >= 10);
    let (device, next) = net();
    let state = guest.driver.move_to(device);
    assert_eq!(u64::from(state.queues[1].next_available), port.counters().tx_frames);
    drop(ours);
    guest.wait_sent(tx(0), 120);
    assert_eq!(next.counters().tx_dropped, 120 - port.counters().tx_frames);
}

#[test]
fn a_device_that_was_never_started_stops() {
    let (mut device, _port) = net();
    assert!(crate::VirtioDevice::stop(&mut *device).is_empty());
}
