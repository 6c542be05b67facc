//! Drivers that break the rules.

use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
use vm_memory::{Bytes, GuestAddress};

use super::super::MAX_FRAME_BYTES;
use super::guest::{CONTROL, rx, tx};
use super::*;
use crate::testing::Buffer;

/// Where the fake driver has the available ring of a queue.
fn available(queue: usize) -> u64 {
    0x1_0000 + 0x8000 * queue as u64 + 0x4000
}

/// Has a started guest break something; the device asks for a reset, and works after it.
fn needs_reset(what: &str, broken: impl Fn(&mut Guest)) {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 1) else { return };
    broken(&mut guest);
    host.send(&frame(9, 60));
    guest.wait_for_needs_reset();
    guest.restart(u64::MAX);
    guest.send(tx(0), &frame(1, 60));
    assert_eq!(host.receive().unwrap(), frame(1, 60), "{what}");
}

#[test]
fn chains_of_the_wrong_direction_need_a_reset() {
    needs_reset("frame to be written", |guest| {
        guest.driver.send(tx(0), &[Buffer::Out(vec![0; 80]), Buffer::In(80)]);
    });
    needs_reset("buffer to be read", |guest| {
        guest.driver.send(rx(0), &[Buffer::Out(vec![0; 80])]);
    });
    needs_reset("buffer half to be read", |guest| {
        guest.driver.send(rx(0), &[Buffer::In(80), Buffer::Out(vec![0; 80])]);
    });
}

#[test]
fn buffers_without_room_for_a_header_need_a_reset() {
    needs_reset("11 bytes", |guest| drop(guest.driver.send(rx(0), &[Buffer::In(11)])));
}

#[test]
fn chains_outside_memory_need_a_reset() {
    for address in [0x7fff_ffff, u64::MAX - 40, (16 << 20) - 30] {
        needs_reset("frame", |guest| {
            let request = guest.driver.add(tx(0), &[Buffer::Out(vec![0; 80])]);
            guest.driver.descriptor(tx(0), request.head, address, 80, 0, 0);
            guest.driver.kick(tx(0));
        });
        needs_reset("buffer", |guest| {
            let request = guest.driver.add(rx(0), &[Buffer::In(80)]);
            guest.driver.descriptor(rx(0), request.head, address, 80, VRING_DESC_F_WRITE as u16, 0);
            guest.driver.kick(rx(0));
        });
    }
}

#[test]
fn rings_that_name_impossible_entries_need_a_reset() {
    for queue in [rx(0), tx(0), CONTROL] {
        needs_reset("too many entries", |guest| {
            guest.driver.memory().write_obj(300_u16, GuestAddress(available(queue) + 2)).unwrap();
            guest.driver.kick(queue);
        });
        needs_reset("a head beyond the ring", |guest| {
            guest.driver.memory().write_obj(256_u16, GuestAddress(available(queue) + 4)).unwrap();
            guest.driver.memory().write_obj(1_u16, GuestAddress(available(queue) + 2)).unwrap();
            guest.driver.kick(queue);
        });
    }
}

#[test]
fn commands_without_an_answer_need_a_reset() {
    needs_reset("no room", |guest| drop(guest.driver.send(CONTROL, &[Buffer::Out(vec![0, 0, 1])])));
    needs_reset("too long", |guest| {
        guest.driver.send(CONTROL, &[Buffer::Out(vec![0; 70_000]), Buffer::In(1)]);
    });
}

#[test]
fn frames_that_are_none_are_dropped_and_counted() {
    let Some((mut guest, host, port)) = plugged(u64::MAX, 1) else { return };
    let pieces = vec![Buffer::Out(vec![0; 1]); 65];
    for chain in [
        &[Buffer::Out(vec![0; MAX_FRAME_BYTES + 1])][..],
        &[Buffer::Out(vec![0; 12])],
        &[Buffer::Out(vec![0; 3])],
        &pieces,
    ] {
        guest.driver.send(tx(0), chain);
    }
    guest.wait_sent(tx(0), 4);
    assert_eq!(port.counters().tx_dropped, 4);
    guest.send(tx(0), &frame(1, 60));
    assert_eq!(host.receive().unwrap(), frame(1, 60));
}

#[test]
fn a_chain_that_goes_round_in_circles_ends() {
    let Some((mut guest, host, port)) = plugged(u64::MAX, 1) else { return };
    let request = guest.driver.add(tx(0), &[Buffer::Out(vec![0; 80])]);
    // Its own next (VRING_DESC_F_NEXT).
    guest.driver.descriptor(tx(0), request.head, 0x20_0000, 80, 1, request.head);
    guest.driver.kick(tx(0));
    guest.wait_sent(tx(0), 1);
    assert_eq!(port.counters().tx_dropped, 1);
    guest.send(tx(0), &frame(1, 60));
    assert_eq!(host.receive().unwrap(), frame(1, 60));
}
