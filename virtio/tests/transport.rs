//! The transport and the entropy device, driven like a guest drives them.
#![allow(clippy::unwrap_used)]

use crx_virtio::rng::Rng;
use crx_virtio::testing::{Buffer, Driver};
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;

const STATUS: u64 = 0x70;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;

fn rng() -> Driver {
    Driver::started(Box::new(Rng::new()), 0)
}

#[test]
fn identifies_itself() {
    let mut driver = Driver::new(Box::new(Rng::new()));
    assert_eq!(driver.read(0x00).to_le_bytes(), *b"virt");
    assert_eq!(driver.read(0x04), 2);
    assert_eq!(driver.read(0x08), 4, "an entropy device");
    assert_eq!(driver.offered(), 1 << 32);
    assert_eq!([0xb0, 0xb4, 0xb8, 0xbc].map(|at| driver.read(at)), [u32::MAX; 4], "no shared memory");
}

#[test]
fn bad_accesses_read_zero_and_change_nothing() {
    let mut driver = rng();
    for (offset, bytes) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (0xf00, 4), (0x50, 4), (u64::MAX, 4)] {
        let mut data = vec![0xaa; bytes];
        driver.transport().read(offset, &mut data);
        assert!(data.iter().all(|byte| *byte == 0), "{offset:#x} {bytes}");
        driver.transport().write(offset, &vec![0xff; bytes]);
    }
    driver.transport().write(STATUS, &[0]);
    driver.transport().write(STATUS, &[0; 8]);
    assert_eq!(driver.status(), 15);
    assert!(driver.call(0, &[Buffer::In(16)]).is_some());
}

#[test]
fn a_legacy_driver_is_refused() {
    let mut driver = Driver::new(Box::new(Rng::new()));
    driver.write(STATUS, 3);
    driver.write(STATUS, 11);
    assert_eq!(driver.status(), 3, "FEATURES_OK without VERSION_1");
}

#[test]
fn unoffered_features_are_refused() {
    let mut driver = Driver::new(Box::new(Rng::new()));
    driver.write(STATUS, 3);
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(0x24, 0);
    driver.write(0x20, 1);
    driver.write(STATUS, 11);
    assert_eq!(driver.status(), 3);
}

#[test]
fn steps_cannot_be_skipped() {
    let mut driver = Driver::new(Box::new(Rng::new()));
    driver.write(STATUS, 4);
    assert_eq!(driver.status(), 0);
    driver.write(STATUS, 1 | 4);
    assert_eq!(driver.status(), 1);
}

#[test]
fn fills_every_buffer_with_different_bytes() {
    let mut driver = rng();
    let first = driver.call(0, &[Buffer::In(64)]).unwrap();
    let second = driver.call(0, &[Buffer::In(40), Buffer::In(600)]).unwrap();
    assert_eq!((first.len(), second.len()), (64, 640));
    assert!(first != second[..64] && second[..64] != second[64..128]);
    assert!(second[576..].iter().any(|byte| *byte != 0));
    assert_eq!(driver.take_interrupt(), (1, true));
    assert_eq!(driver.take_interrupt(), (0, false));
}

#[test]
fn works_again_after_a_reset_and_wraps_its_ring() {
    let mut driver = rng();
    for _ in 0..3 {
        for _ in 0..20 {
            assert_eq!(driver.call(0, &[Buffer::In(8)]).unwrap().len(), 8);
        }
        driver.reset();
        assert_eq!(driver.status(), 0);
        driver.start(0);
    }
}

#[test]
fn requests_that_no_driver_sends_need_a_reset() {
    let broken: [&[Buffer]; 3] =
        [&[Buffer::Out(vec![1; 8])], &[Buffer::In(8), Buffer::Out(vec![1; 8])], &[Buffer::In(65 * 1024)]];
    for buffers in broken {
        let mut driver = rng();
        driver.send(0, buffers);
        wait_for_needs_reset(&mut driver);
        driver.start(0);
        assert_eq!(driver.call(0, &[Buffer::In(8)]).unwrap().len(), 8, "usable after the reset");
    }
}

#[test]
fn a_buffer_outside_memory_needs_a_reset() {
    let mut driver = rng();
    let request = driver.add(0, &[Buffer::In(8)]);
    driver.descriptor(0, request.head, u64::MAX - 3, 8, 2, 0);
    driver.kick(0);
    wait_for_needs_reset(&mut driver);
}

#[test]
fn a_ring_outside_memory_needs_a_reset() {
    let mut driver = rng();
    driver.reset();
    driver.write(STATUS, 3);
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(STATUS, 11);
    driver.write(QUEUE_SEL, 0);
    driver.write(QUEUE_NUM, 8);
    driver.write(0x84, 0x1000);
    driver.write(QUEUE_READY, 1);
    driver.write(STATUS, 15);
    assert_ne!(driver.status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

#[test]
fn impossible_queue_sizes_need_a_reset() {
    for size in [0, 3, 16, 0x1_0008] {
        let mut driver = rng();
        driver.reset();
        driver.write(STATUS, 3);
        driver.write(0x24, 1);
        driver.write(0x20, 1);
        driver.write(STATUS, 11);
        driver.write(QUEUE_SEL, 0);
        driver.write(QUEUE_NUM, size);
        assert_ne!(driver.status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0, "{size}");
    }
}

#[test]
fn a_queue_that_does_not_exist_is_ignored() {
    let mut driver = Driver::new(Box::new(Rng::new()));
    driver.write(STATUS, 3);
    driver.write(QUEUE_SEL, 7);
    assert_eq!(driver.read(0x34), 0);
    driver.write(QUEUE_READY, 1);
    assert_eq!(driver.read(QUEUE_READY), 0);
    driver.write(0x50, 7);
}

#[test]
fn a_driver_without_queues_does_not_start_the_device() {
    let mut driver = Driver::new(Box::new(Rng::new()));
    driver.write(STATUS, 3);
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(STATUS, 11);
    driver.write(STATUS, 15);
    assert_eq!(driver.status(), 15 | VIRTIO_CONFIG_S_NEEDS_RESET);
}

fn wait_for_needs_reset(driver: &mut Driver) {
    for _ in 0..10_000 {
        if driver.status() & VIRTIO_CONFIG_S_NEEDS_RESET != 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("the device never asked for a reset");
}
