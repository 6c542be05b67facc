//! The device between a fake driver and real taps, in a network namespace of each test. Frames are of a type that is
//! nobody's, so that nothing but the tests talks.
#![allow(clippy::unwrap_used)]

mod broken;
mod commands;
mod frames;
mod guest;
mod life;
mod limits;
mod queues;
mod sys;
mod vhost;

use std::path::Path;

use guest::{Guest, frame};
use sys::Host;

use super::{Carriers, Limits, Net, NetConfig, NetPort};

/// The address that the device is made with.
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// A device and its port.
fn net() -> (Box<Net>, NetPort) {
    let port = NetPort::new();
    (Box::new(Net::new(NetConfig { mac: MAC, port: port.clone(), hidden: false })), port)
}

/// A started guest with all features of `features`, and the host's side of its tap; none where that cannot be made.
fn plugged(features: u64, queues: usize) -> Option<(Guest, Host, NetPort)> {
    let (host, taps) = host(queues)?;
    let (device, port) = net();
    let guest = Guest::started(device, features);
    port.plug(taps, Carriers::Workers(Limits::default())).unwrap();
    Some((guest, host, port))
}

/// A tap in a network namespace of this thread.
fn host(queues: usize) -> Option<(Host, Vec<std::os::fd::OwnedFd>)> {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root and /dev/net/tun");
        eprintln!("skipped: needs root and /dev/net/tun");
        return None;
    }
    Some(Host::new(queues).unwrap())
}
