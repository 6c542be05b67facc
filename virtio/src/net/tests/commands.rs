//! The configuration space and the driver's commands.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_MTU,
};

use super::guest::tx;
use super::*;

fn pairs(count: u8) -> [u8; 4] {
    [4, 0, count, 0]
}

fn offloads(bits: u64) -> Vec<u8> {
    [&[5, 0][..], &bits.to_le_bytes()].concat()
}

#[test]
fn the_configuration_has_address_link_and_pairs() {
    let mut guest = Guest::started(net().0, u64::MAX);
    assert_eq!(guest.driver.config(0, 12), [2, 0, 0, 0, 0, 1, 1, 0, 4, 0, 0, 0]);
    assert_eq!(guest.driver.config(5, 4), [1, 1, 0, 4]);
    assert_eq!(guest.driver.config(u64::MAX - 0x200, 4), [0; 4]);
    assert_eq!(guest.driver.offered() & 1 << VIRTIO_NET_F_MTU, 0);
}

#[test]
fn an_address_that_the_driver_sets_is_shown_until_it_is_reset() {
    let mut guest = Guest::started(net().0, u64::MAX);
    assert!(guest.command(&[1, 1, 2, 9, 8, 7, 6, 5]));
    assert_eq!(guest.driver.config(0, 6), [2, 9, 8, 7, 6, 5]);
    guest.driver.reset();
    assert_eq!(guest.driver.config(0, 6), MAC);
}

#[test]
fn the_receive_filter_is_acknowledged_and_what_is_unknown_refused() {
    let mut guest = Guest::started(net().0, u64::MAX);
    assert!(guest.command(&[0, 0, 1]));
    assert!(guest.command(&[0, 1, 1]));
    let mut table = vec![1, 0, 0, 0, 0, 0];
    table.extend(1000_u32.to_le_bytes());
    table.extend([7; 6000]);
    assert!(guest.command(&table));
    for unknown in [&[2, 0, 1, 0][..], &[0, 0], &[1, 1, 2], &[9], &[77, 0, 1]] {
        assert!(!guest.command(unknown), "{unknown:?}");
    }
}

#[test]
fn any_pairs_can_be_used_before_a_tap_is_there_and_no_more_than_its_queues_afterwards() {
    let (device, port) = net();
    let mut guest = Guest::started(device, u64::MAX);
    assert!(guest.command(&pairs(4)) && guest.command(&pairs(1)));
    assert!(!guest.command(&pairs(0)) && !guest.command(&pairs(5)));
    let Some((host, taps)) = host(2) else { return };
    port.plug(taps, Carriers::Workers(Limits::default())).unwrap();
    assert!(guest.command(&pairs(2)) && guest.command(&pairs(1)));
    assert!(!guest.command(&pairs(3)));
    guest.send(tx(0), &frame(1, 60));
    assert_eq!(host.receive().unwrap(), frame(1, 60));
}

#[test]
fn offloads_are_those_that_were_negotiated_or_fewer() {
    let negotiated = 1 << VIRTIO_NET_F_CTRL_VQ
        | 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
        | 1 << VIRTIO_NET_F_GUEST_CSUM
        | 1 << VIRTIO_NET_F_GUEST_TSO4;
    let Some((mut guest, host, _port)) = plugged(negotiated, 1) else { return };
    // Without VIRTIO_NET_F_MQ commands are behind the first pair.
    assert!(guest.command_on(2, &offloads(1 << VIRTIO_NET_F_GUEST_CSUM)));
    assert!(guest.command_on(2, &offloads(0)));
    assert!(guest.command_on(2, &offloads(1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4)));
    assert!(!guest.command_on(2, &offloads(1 << 8)));
    assert!(!guest.command_on(2, &offloads(1 << 63)));
    assert!(!guest.command_on(2, &pairs(1)));
    drop(host);
}

#[test]
fn commands_are_answered_while_frames_flow() {
    let Some((mut guest, host, _port)) = plugged(u64::MAX, 1) else { return };
    for number in 0..50 {
        guest.send(tx(0), &frame(number, 100));
        assert!(guest.command(&[0, 0, 1]));
    }
    for number in 0..50 {
        assert_eq!(host.receive().unwrap(), frame(number, 100));
    }
}
