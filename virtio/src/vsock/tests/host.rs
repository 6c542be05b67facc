//! Connections that clients on the host open through the listener.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::guest::{Guest, RST};
use crate::vsock::listener::MAX_WAITING;
use crate::vsock::{Vsock, VsockConfig, VsockError};

struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn start(name: &str) -> (Guest, Place) {
    let path = std::env::temp_dir().join(format!("crx-vsock-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    (Guest::start(true, Some(listener)), Place(path))
}

/// Reads up to the end of the line, byte by byte: what follows is the guest's.
fn read_line(client: &mut UnixStream) -> String {
    let mut line = String::new();
    let mut byte = [0];
    while client.read(&mut byte).unwrap() == 1 {
        line.push(char::from(byte[0]));
        if byte[0] == b'\n' {
            break;
        }
    }
    line
}

#[test]
fn a_client_reaches_a_port_of_the_guest() {
    let (mut guest, place) = start("reach");
    guest.listening.push(52);
    for round in 0..3 {
        let mut client = UnixStream::connect(&place.0).unwrap();
        // Bytes right behind the line belong to the guest.
        client.write_all(b"CONNECT 52\nearly").unwrap();
        let port = (1 << 30) + round;
        guest.until(|guest| guest.sockets.get(&(52, port)).is_some_and(|socket| socket.read.len() == 5));
        assert_eq!(read_line(&mut client), format!("OK {port}\n"));
        assert_eq!(guest.sockets[&(52, port)].read, b"early");
        guest.sockets.get_mut(&(52, port)).unwrap().to_send.extend(b"hello");
        guest.sockets.get_mut(&(52, port)).unwrap().shut = 3;
        guest.until(|guest| guest.sockets[&(52, port)].reset);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}

#[test]
fn a_client_of_a_closed_port_is_closed() {
    let (mut guest, place) = start("closed");
    let mut client = UnixStream::connect(&place.0).unwrap();
    client.write_all(b"CONNECT 53\n").unwrap();
    assert_eq!(guest.stray().dst_port, 53);
    guest.pump();
    assert_eq!(read_line(&mut client), "");
}

#[test]
fn a_client_that_goes_before_the_guest_answered_is_reset() {
    let (mut guest, place) = start("gone");
    guest.withhold = true;
    let mut client = UnixStream::connect(&place.0).unwrap();
    client.write_all(b"CONNECT 54\n").unwrap();
    // The request is in the ring when the client goes.
    let packet = loop {
        match guest.driver.receive() {
            Some((_, bytes)) => break super::guest::Packet::parse(&bytes),
            None => guest.driver.wait(),
        }
    };
    drop(client);
    let reset = guest.stray();
    assert_eq!((reset.op, reset.src_port), (RST, packet.src_port));
}

#[test]
fn clients_that_dawdle_or_lie_are_in_nobodys_way() {
    let (mut guest, place) = start("slow");
    guest.listening.push(52);
    let mut slow: Vec<_> = (0..MAX_WAITING + 10).map(|_| UnixStream::connect(&place.0).unwrap()).collect();
    for client in &mut slow {
        // Those that were the oldest may be gone already.
        let _ = client.write_all(b"CONNE");
    }
    for bad in [&b"CONNECT x\n"[..], b"CONNECT 99999999999\n", &[b'C'; 64], b"\n"] {
        let mut liar = UnixStream::connect(&place.0).unwrap();
        liar.write_all(bad).unwrap();
        let mut rest = Vec::new();
        // Closed with unread bytes, so an error is as good as an end.
        let _ = liar.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    let mut client = UnixStream::connect(&place.0).unwrap();
    client.write_all(b"CONNECT 52\n").unwrap();
    guest.until(|guest| !guest.sockets.is_empty());
    guest.pump();
    assert!(read_line(&mut client).starts_with("OK "));
    // The newest of the slow ones is still welcome, the oldest had to go.
    let mut patient = slow.pop().unwrap();
    patient.write_all(b"CT 52\n").unwrap();
    guest.until(|guest| guest.sockets.len() == 2);
    assert!(read_line(&mut patient).starts_with("OK "));
    assert!(slow[0].read(&mut [0]).unwrap_or(0) == 0);
}

#[test]
fn a_cid_that_is_no_guests_is_refused() {
    for guest_cid in [0, 2, u64::from(u32::MAX), 1 << 32] {
        let (guest_connections, _receiver) = std::sync::mpsc::channel();
        let config = VsockConfig { guest_cid, host_listener: None, guest_connections };
        assert!(matches!(Vsock::new(config), Err(VsockError::GuestCid(_))));
    }
}
