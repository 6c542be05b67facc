//! Terminals of detached containers: the console socket, as conmon and containerd use it.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use crx_fixture::{Bundle, Need, need};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use crate::detached::Detached;

/// Accepts one connection and takes the terminal that comes over it.
fn receive(listener: &UnixListener) -> OwnedFd {
    let (socket, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 256];
    recvmsg(&socket, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.expect("a terminal came")
}

fn listen(path: &Path) -> UnixListener {
    UnixListener::bind(path).unwrap()
}

/// Reads until `text` came, as terminals give it.
fn read_until(terminal: &mut std::fs::File, text: &str) -> String {
    let mut screen = String::new();
    let mut buffer = [0; 4096];
    while !screen.contains(text) {
        let got = terminal.read(&mut buffer).unwrap_or_else(|error| panic!("{error} after {screen:?}"));
        assert!(got > 0, "the terminal ended after {screen:?}");
        screen.push_str(&String::from_utf8_lossy(&buffer[..got]));
    }
    screen
}

#[test]
fn a_detached_terminal_goes_to_the_console_socket() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = Bundle::busybox().script("tty; read line; stty size; echo \"got $line\"; exit 4");
    let container = Detached::new(bundle.set("/process/terminal", json!(true)));
    let listener = listen(&container.file("console"));
    let socket = container.file("console");
    let create = std::thread::scope(|scope| {
        let launched =
            scope.spawn(|| container.launch(&["create", "--console-socket", socket.to_str().unwrap()]));
        let terminal = receive(&listener);
        let _ = launched.join().unwrap().expect(0);
        terminal
    });
    let mut terminal = std::fs::File::from(create);
    container.start();
    read_until(&mut terminal, "/dev/pts/0");
    tcsetwinsize(&terminal, Winsize { ws_row: 33, ws_col: 111, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    // The size has to reach the container before it asks.
    std::thread::sleep(std::time::Duration::from_secs(2));
    terminal.write_all(b"words\n").unwrap();
    let screen = read_until(&mut terminal, "got words");
    assert!(screen.contains("33 111"), "{screen:?}");
    assert_eq!(container.wait_code(), 4);
}

#[test]
fn a_terminal_without_a_place_to_go_is_refused() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let container = Detached::new(Bundle::busybox().script("true").set("/process/terminal", json!(true)));
    let outcome = container.launch(&["create"]);
    assert_ne!(outcome.code(), 0, "{}", outcome.all());
    let socket = container.file("nobody");
    let outcome = container.launch(&["create", "--console-socket", socket.to_str().unwrap()]);
    assert_ne!(outcome.code(), 0, "{}", outcome.all());
    let _ = container.verb(&["state"]).expect(1);
}
