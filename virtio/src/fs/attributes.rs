//! Attributes as the guest sees them: the host's, under inode numbers that stay unique although the share is made of
//! several file systems. `server.rs` puts them into replies.

use std::sync::{Mutex, PoisonError};

use fuse_backend_rs::abi::fuse_abi::{Attr, stat64};
use rustix::fs::Statx;

/// Bits of an inode number that are the host's own; above them is the file system.
const HOST_BITS: u32 = 48;
/// Most file systems that get a number of their own.
const DEVICES_MAX: usize = 1 << 15;
/// Marks a number that is a digest: the host's does not fit.
const DIGEST_BIT: u64 = 1 << 63;

/// The file systems of a share, by the order in which the guest met them. That of the first container's root keeps
/// its inode numbers unchanged, also for programs with 32-bit ones: its place is the first.
pub(super) struct InodeNumbers {
    devices: Mutex<Vec<Option<(u32, u32)>>>,
}

impl InodeNumbers {
    /// The guest has met none yet.
    pub(super) fn new() -> Self {
        Self { devices: Mutex::new(vec![None]) }
    }

    /// The guest has met the root of a container: the numbers of the first one's file system stay as they are.
    pub(super) fn keep(&self, device: (u32, u32)) {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)[0].get_or_insert(device);
    }

    /// The number of inode `ino` of `device` within the share.
    pub(super) fn of(&self, device: (u32, u32), ino: u64) -> u64 {
        let index = {
            let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            devices.iter().position(|known| *known == Some(device)).or_else(|| {
                (devices.len() < DEVICES_MAX).then(|| {
                    devices.push(Some(device));
                    devices.len() - 1
                })
            })
        };
        match index {
            Some(index) if ino >> HOST_BITS == 0 => ino | (index as u64) << HOST_BITS,
            // Overlays and network file systems use all 64 bits. A digest needs no memory and is the same
            // whenever it is asked for; two files meet with a chance of 2^-63.
            _ => digest(device, ino) | DIGEST_BIT,
        }
    }

    /// A FUSE attribute block.
    pub(super) fn attributes(&self, stat: &Statx) -> stat64 {
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        Attr {
            ino: self.of(device, stat.stx_ino),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: stat.stx_atime.tv_sec as u64,
            mtime: stat.stx_mtime.tv_sec as u64,
            ctime: stat.stx_ctime.tv_sec as u64,
            atimensec: stat.stx_atime.tv_nsec,
            mtimensec: stat.stx_mtime.tv_nsec,
            ctimensec: stat.stx_ctime.tv_nsec,
            mode: stat.stx_mode.into(),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: encoded_device(stat.stx_rdev_major, stat.stx_rdev_minor),
            blksize: stat.stx_blksize,
            flags: 0,
        }
        .into()
    }
}

/// new_encode_dev of linux/kdev_t.h.
fn encoded_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The finalizer of SplitMix64 over both halves.
fn digest(device: (u32, u32), ino: u64) -> u64 {
    let mut mixed = ino;
    for word in [u64::from(device.0) << 32 | u64::from(device.1), 0x9e37_79b9_7f4a_7c15] {
        mixed = mixed.wrapping_add(word);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
    }
    mixed
}
