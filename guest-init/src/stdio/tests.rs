//! Relays between real sockets and pipes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use super::*;

/// Bytes of the large transfers: more than any pipe or socket buffers.
const LARGE_BYTES: usize = 8 << 20;

fn run(relay: &mut Relay) {
    while let Some((fd, flags)) = relay.interest() {
        poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None).unwrap();
        relay.pump();
    }
}

fn sockets() -> (OwnedFd, UnixStream) {
    let (guest, host) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    (guest.into(), host)
}

fn pattern() -> Vec<u8> {
    (0..LARGE_BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn output_arrives_whole_and_in_order_though_the_host_is_slow() {
    let (socket, mut host) = sockets();
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let writer = thread::spawn(move || File::from(write_end).write_all(&pattern()).unwrap());
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        host.read_to_end(&mut all).unwrap();
        all
    });
    run(&mut Relay::new(read_end, socket, Direction::ToHost));
    writer.join().unwrap();
    assert!(reader.join().unwrap() == pattern());
}

#[test]
fn input_arrives_whole_and_its_end_too() {
    let (socket, mut host) = sockets();
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let writer = thread::spawn(move || {
        host.write_all(&pattern()).unwrap();
        host.shutdown(std::net::Shutdown::Write).unwrap();
        host
    });
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        File::from(read_end).read_to_end(&mut all).unwrap();
        all
    });
    run(&mut Relay::new(socket, write_end, Direction::FromHost));
    writer.join().unwrap();
    assert!(reader.join().unwrap() == pattern());
}

#[test]
fn a_host_that_stopped_reading_closes_the_pipe() {
    let (socket, host) = sockets();
    drop(host);
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut writer = File::from(write_end);
    writer.write_all(b"to nobody").unwrap();
    run(&mut Relay::new(read_end, socket, Direction::ToHost));
    assert_eq!(writer.write(b"more").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn a_container_that_stopped_reading_ends_the_stream() {
    let (socket, mut host) = sockets();
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    drop(read_end);
    host.write_all(b"to nobody").unwrap();
    run(&mut Relay::new(socket, write_end, Direction::FromHost));
    assert!(host.write_all(&[0; 1 << 20]).is_err());
}

#[test]
fn a_full_stream_waits_for_room_and_not_for_bytes() {
    let (socket, _host) = sockets();
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
    let mut relay = Relay::new(read_end, socket, Direction::ToHost);
    let mut writer = File::from(write_end);
    let mut idle = 0;
    while idle < 2 {
        idle = if writer.write(&[1; 4096]).is_ok() { 0 } else { idle + 1 };
        relay.pump();
    }
    assert!(relay.interest().is_some_and(|(_, flags)| flags == PollFlags::OUT));
}

#[test]
fn output_is_stuck_while_the_host_does_not_read() {
    let (socket, mut host) = sockets();
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let writer = thread::spawn(move || File::from(write_end).write_all(&pattern()).unwrap());
    let mut relay = Relay::new(read_end, socket, Direction::ToHost);
    assert!(!relay.is_stuck());
    while !relay.is_stuck() {
        let (fd, flags) = relay.interest().unwrap();
        poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None).unwrap();
        relay.pump();
    }
    assert!(!relay.is_drained());
    let reader = thread::spawn(move || host.read_to_end(&mut Vec::new()).unwrap());
    run(&mut relay);
    assert!(!relay.is_stuck() && relay.is_drained());
    writer.join().unwrap();
    assert_eq!(reader.join().unwrap(), LARGE_BYTES);
}
