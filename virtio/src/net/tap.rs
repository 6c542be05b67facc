//! One queue of a tap: a descriptor that was looked at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
};

use super::{HEADER_BYTES, PlugError, sys};
use crate::slice::GuestSlice;

/// A queue of a tap.
#[derive(Debug)]
pub(super) struct Tap {
    fd: OwnedFd,
    /// Tests put a socket in a tap's place, to have it full.
    #[cfg(test)]
    is_socket: bool,
}

impl Tap {
    /// Checks that it is a tap with the right settings, and makes those that are the device's.
    ///
    /// # Errors
    /// It is another descriptor, or the kernel refused a setting.
    pub(super) fn new(fd: OwnedFd) -> Result<Self, PlugError> {
        let flags = sys::tap_flags(&fd).map_err(PlugError::NoTap)?;
        let wanted = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if flags & wanted != wanted {
            return Err(PlugError::Flags(flags));
        }
        sys::set_header_bytes(&fd, HEADER_BYTES).map_err(PlugError::Setting)?;
        let status = fcntl_getfl(&fd).map_err(|error| PlugError::Setting(error.into()))?;
        fcntl_setfl(&fd, status | OFlags::NONBLOCK).map_err(|error| PlugError::Setting(error.into()))?;
        Ok(Self {
            fd,
            #[cfg(test)]
            is_socket: false,
        })
    }

    /// A socket that keeps frames apart, in a tap's place.
    #[cfg(test)]
    pub(super) fn socket(fd: OwnedFd) -> Self {
        Self { fd, is_socket: true }
    }

    /// What frames the guest takes: bits as of the features VIRTIO_NET_F_GUEST_* (virtio 1.2, 5.1.6.5.6.1).
    ///
    /// # Errors
    /// As TUNSETOFFLOAD.
    pub(super) fn set_offloads(&self, guest: u64) -> io::Result<()> {
        #[cfg(test)]
        if self.is_socket {
            return Ok(());
        }
        sys::set_offloads(&self.fd, tap_offloads(guest))
    }

    /// Has frames come to this queue, or not; of a tap with several queues.
    ///
    /// # Errors
    /// As TUNSETQUEUE.
    pub(super) fn attach(&self, attached: bool) -> io::Result<()> {
        #[cfg(test)]
        if self.is_socket {
            return Ok(());
        }
        sys::attach_queue(&self.fd, attached)
    }

    /// Reads a frame; what does not fit goes to `rest`.
    ///
    /// # Errors
    /// As readv(2).
    pub(super) fn read<'a, 'm: 'a>(
        &self,
        into: impl Iterator<Item = &'a GuestSlice<'m>> + Clone,
        rest: &mut [u8],
    ) -> io::Result<usize> {
        sys::read_frame(self.fd.as_fd(), into, rest)
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// As writev(2).
    pub(super) fn write<'a, 'm: 'a>(
        &self,
        from: impl Iterator<Item = &'a GuestSlice<'m>>,
    ) -> io::Result<usize> {
        sys::write_frame(self.fd.as_fd(), from)
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// TUN_F_* of VIRTIO_NET_F_GUEST_*. The kernel refuses segments without checksums, and ECN without segments
/// (drivers/net/tun.c, set_offload).
fn tap_offloads(guest: u64) -> libc::c_uint {
    let has = |feature: u32| guest & 1 << feature != 0;
    let mut offloads = 0;
    if has(VIRTIO_NET_F_GUEST_CSUM) {
        offloads |= libc::TUN_F_CSUM;
        if has(VIRTIO_NET_F_GUEST_TSO4) {
            offloads |= libc::TUN_F_TSO4;
        }
        if has(VIRTIO_NET_F_GUEST_TSO6) {
            offloads |= libc::TUN_F_TSO6;
        }
        if offloads != libc::TUN_F_CSUM && has(VIRTIO_NET_F_GUEST_ECN) {
            offloads |= libc::TUN_F_TSO_ECN;
        }
    }
    offloads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_are_only_those_that_a_tap_takes_together() {
        let guest = |features: &[u32]| features.iter().fold(0, |all, feature| all | 1 << feature);
        assert_eq!(tap_offloads(0), 0);
        assert_eq!(tap_offloads(guest(&[VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6])), 0);
        let (csum, ecn) = (VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN);
        assert_eq!(tap_offloads(guest(&[csum, ecn])), libc::TUN_F_CSUM);
        assert_eq!(
            tap_offloads(guest(&[csum, ecn, VIRTIO_NET_F_GUEST_TSO6])),
            libc::TUN_F_CSUM | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN
        );
    }
}
