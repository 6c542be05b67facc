//! The guest's side of tests.

use std::collections::VecDeque;

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;

use super::super::{HEADER_BYTES, NetPort};
use super::sys::ETHER_TYPE;
use crate::VirtioDevice;
use crate::testing::{Buffer, Driver, Request};

/// The control queue, with VIRTIO_NET_F_MQ.
pub(super) const CONTROL: usize = 8;

/// The receive queue of a pair.
pub(super) const fn rx(pair: usize) -> usize {
    2 * pair
}

/// The transmit queue of a pair.
pub(super) const fn tx(pair: usize) -> usize {
    2 * pair + 1
}

/// A frame of so many bytes that can be told from others.
pub(super) fn frame(number: usize, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9];
    frame.extend(ETHER_TYPE);
    frame.extend((0..bytes - 14).map(|at| (at * 7 + at / 251 + number * 13) as u8));
    frame
}

/// A driver of a network device.
pub(super) struct Guest {
    pub(super) driver: Driver,
    /// Receive buffers of each queue that are the device's.
    given: Vec<VecDeque<Request>>,
}

impl Guest {
    pub(super) fn started(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        Self { driver: Driver::started(device, features), given: vec![VecDeque::new(); CONTROL] }
    }

    /// Starts again after a reset.
    pub(super) fn restart(&mut self, features: u64) {
        self.driver.start(features);
        self.given = vec![VecDeque::new(); CONTROL];
    }

    /// Gives receive buffers to the device.
    pub(super) fn give(&mut self, queue: usize, sizes: &[usize]) {
        for bytes in sizes {
            let request = self.driver.add(queue, &[Buffer::In(*bytes)]);
            self.given[queue].push_back(request);
        }
        self.driver.kick(queue);
    }

    /// The next frame without its header, and its number of buffers.
    pub(super) fn receive(&mut self, queue: usize) -> Option<(Vec<u8>, usize)> {
        let first = self.driver.wait_used(queue)?;
        let mut bytes = self.buffer(queue, first);
        let count = usize::from(u16::from_le_bytes([bytes[10], bytes[11]]));
        for _ in 1..count {
            // All of a frame's buffers are there with the first.
            let next = self.driver.poll_used(queue)?;
            bytes.extend(self.buffer(queue, next));
        }
        Some((bytes.split_off(HEADER_BYTES), count))
    }

    /// The frame in one buffer, without its header.
    pub(super) fn frame_of(&mut self, queue: usize, used: (u16, u32)) -> Vec<u8> {
        self.buffer(queue, used).split_off(HEADER_BYTES)
    }

    fn buffer(&mut self, queue: usize, (head, bytes): (u16, u32)) -> Vec<u8> {
        let request = self.given[queue].pop_front().unwrap();
        assert_eq!(request.head, head, "buffers come back in order");
        self.driver.answer(&request, bytes)
    }

    /// Sends a frame with an empty header.
    pub(super) fn send(&mut self, queue: usize, frame: &[u8]) {
        self.send_raw(queue, &[0; HEADER_BYTES], frame);
    }

    /// Sends a header and a frame.
    pub(super) fn send_raw(&mut self, queue: usize, header: &[u8], frame: &[u8]) {
        self.driver.send(queue, &[Buffer::Out(header.to_vec()), Buffer::Out(frame.to_vec())]);
    }

    /// Waits until so many frames were taken.
    pub(super) fn wait_sent(&mut self, queue: usize, count: usize) {
        for _ in 0..count {
            assert_eq!(self.driver.wait_used(queue).unwrap().1, 0);
        }
    }

    /// Gives a command; true if it was carried out.
    pub(super) fn command(&mut self, bytes: &[u8]) -> bool {
        self.command_on(CONTROL, bytes)
    }

    /// As [`Guest::command`], on another queue.
    pub(super) fn command_on(&mut self, queue: usize, bytes: &[u8]) -> bool {
        let answer = self.driver.call(queue, &[Buffer::Out(bytes.to_vec()), Buffer::In(1)]).unwrap();
        answer[0] == 0
    }

    /// Waits until the device asks for a reset.
    pub(super) fn wait_for_needs_reset(&mut self) {
        for _ in 0..10_000 {
            if self.driver.status() & VIRTIO_CONFIG_S_NEEDS_RESET != 0 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the device never asked for a reset");
    }
}

/// Waits until `done` says so of the counters.
pub(super) fn wait_for(port: &NetPort, done: impl Fn(super::super::Counters) -> bool) {
    for _ in 0..10_000 {
        if done(port.counters()) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("it never happened: {:?}", port.counters());
}
