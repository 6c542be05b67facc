//! The host's side of tests: a network namespace, a tap in it, and a packet socket on the tap's interface. No wrapper of
//! ours has these calls, hence unsafe.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Type of the tests' frames: for local experiments (IEEE 802).
pub(super) const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

/// Name of the tap.
const NAME: &[u8] = b"tap0";

/// Almost the largest there is.
const MTU: libc::c_int = 65_500;

#[repr(C)]
struct Ifreq {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

fn request(value: &[u8]) -> Ifreq {
    let mut request = Ifreq { name: [0; libc::IFNAMSIZ], value: [0; 24] };
    request.name[..NAME.len()].copy_from_slice(NAME);
    request.value[..value.len()].copy_from_slice(value);
    request
}

fn ioctl(fd: &OwnedFd, number: libc::Ioctl, request: &mut Ifreq) -> io::Result<()> {
    // SAFETY: a struct ifreq in, a struct ifreq out.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), number, &raw mut *request) }).map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A socket of the tap's interface.
pub(super) struct Host {
    socket: OwnedFd,
}

impl Host {
    /// Gives this thread a network namespace with a tap of so many queues that is up.
    pub(super) fn new(queues: usize) -> io::Result<(Self, Vec<OwnedFd>)> {
        // SAFETY: changes this thread's network namespace only.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        // No router solicitations between the frames; a kernel without IPv6 sends none.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let taps = (0..queues)
            .map(|_| tap(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several))
            .collect::<io::Result<_>>()?;
        let protocol = u16::from_be_bytes(ETHER_TYPE).to_be();
        // SAFETY: makes a descriptor that is ours.
        let socket = unsafe {
            OwnedFd::from_raw_fd(check(libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                protocol.into(),
            ))?)
        };
        ioctl(&socket, libc::SIOCSIFMTU, &mut request(&MTU.to_ne_bytes()))?;
        let up = (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_PROMISC) as u16;
        ioctl(&socket, libc::SIOCSIFFLAGS, &mut request(&up.to_ne_bytes()))?;
        let mut index = request(&[]);
        ioctl(&socket, libc::SIOCGIFINDEX, &mut index)?;
        // SAFETY: a C structure for which zeroes are a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = i32::from_ne_bytes([0, 1, 2, 3].map(|at| index.value[at]));
        let bytes = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the address is a sockaddr_ll of that size.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), bytes) })?;
        Ok((Self { socket }, taps))
    }

    /// Sends a frame to the guest.
    pub(super) fn send(&self, frame: &[u8]) {
        // SAFETY: reads the slice.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame of the guest; `None` when nothing comes within ten seconds, which no working device needs.
    pub(super) fn receive(&self) -> Option<Vec<u8>> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(frame) = self.poll() {
                return Some(frame);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        None
    }

    /// The next frame of the guest if there is one already.
    pub(super) fn poll(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 1 << 17];
        let (fd, flags) = (self.socket.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: writes into the vector, no further than its length.
        let got = unsafe { libc::recv(fd, frame.as_mut_ptr().cast(), frame.len(), flags) };
        frame.truncate(usize::try_from(got).ok()?);
        Some(frame)
    }

    /// Takes the interface down.
    pub(super) fn down(&self) -> io::Result<()> {
        ioctl(&self.socket, libc::SIOCSIFFLAGS, &mut request(&[0, 0]))
    }
}

/// A queue of the tap, made with `flags`.
pub(super) fn tap(flags: libc::c_int) -> io::Result<OwnedFd> {
    let tap = OwnedFd::from(std::fs::File::options().read(true).write(true).open("/dev/net/tun")?);
    ioctl(&tap, libc::TUNSETIFF, &mut request(&(flags as u16).to_ne_bytes()))?;
    Ok(tap)
}
