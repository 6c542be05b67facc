//! The tap whose descriptors are the other side of one of the VM's network devices.

use std::os::fd::OwnedFd;

use anyhow::Context;

use super::{link, netlink::Socket, sys};

/// How the names of our taps begin.
pub(super) const PREFIX: &str = "crx-tap";

/// The name of the tap of the interface with this index: whoever sees it in a list of interfaces knows that a pod has that one.
/// At most 15 bytes, as names of interfaces have.
pub(super) fn name(index: u32) -> String {
    format!("{PREFIX}{index:x}")
}

/// A tap of this thread's namespace.
pub(super) struct Tap {
    /// Its interface index.
    pub(super) index: u32,
    /// A descriptor for each queue pair.
    pub(super) queues: Vec<OwnedFd>,
}

impl Tap {
    /// Makes the tap for the interface with index `of` and sets it up, with `queue_pairs` descriptors; frames in them have a
    /// virtio-net header before them. It is gone when they are closed.
    ///
    /// # Errors
    /// There is such a tap, or the host has none.
    pub(super) fn new(of: u32, queue_pairs: u8, mtu: u32) -> anyhow::Result<Self> {
        let name = name(of);
        let queues = open(&name, queue_pairs)?;
        let index = configure(&name, mtu).with_context(|| format!("tap {name} cannot be set up"))?;
        Ok(Self { index, queues })
    }
}

fn open(name: &str, queue_pairs: u8) -> anyhow::Result<Vec<OwnedFd>> {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if queue_pairs > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let queue = |number: u8| {
        // The first makes the tap; one that is there already is another pod's.
        let flags = if number == 0 { flags | libc::IFF_TUN_EXCL } else { flags };
        sys::open_tap(name, flags).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => anyhow::anyhow!("tap {name} is there already: another pod uses the namespace"),
            _ => anyhow::Error::new(error).context(format!(
                "tap {name} cannot be made: the host needs /dev/net/tun (CONFIG_TUN), and crx the rights of root"
            )),
        })
    };
    (0..queue_pairs).map(queue).collect()
}

fn configure(name: &str, mtu: u32) -> std::io::Result<u32> {
    let mut socket = Socket::route()?;
    let index = link::index_of(&mut socket, name)?;
    link::silence(&mut socket, index)?;
    link::set_mtu(&mut socket, index, mtu)?;
    link::up(&mut socket, index)?;
    Ok(index)
}
