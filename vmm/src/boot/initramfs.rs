//! The initramfs goes to the top of low memory, as boot loaders do: Linux reads it in place and frees it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crx_virtio::GuestMem;

use super::file::{self, PAGE_BYTES};
use crate::layout;

/// An initramfs that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// The file system says no.
    #[error("cannot read initramfs {0}")]
    Read(PathBuf, #[source] io::Error),
    /// Nothing in it.
    #[error("initramfs {0}: is empty")]
    Empty(PathBuf),
    /// It became shorter or memory became unreachable.
    #[error("cannot load initramfs {0}")]
    Load(PathBuf, #[source] vm_memory::GuestMemoryError),
    /// It does not fit beside the kernel.
    #[error(
        "memory of {memory_mib} MiB is too small: kernel and initramfs {path} need {needed_mib} MiB at least"
    )]
    TooBig {
        /// The file.
        path: PathBuf,
        /// What the guest has.
        memory_mib: u64,
        /// What it must have for the two files alone.
        needed_mib: u64,
    },
}

/// Reads the file into the guest's memory behind `kernel_end`; returns address and size.
pub(crate) fn load(
    memory: &GuestMem,
    memory_bytes: u64,
    file: &mut File,
    path: &Path,
    kernel_end: u64,
) -> Result<(u64, u64), InitramfsError> {
    let bytes = file.metadata().map_err(|source| InitramfsError::Read(path.into(), source))?.len();
    if bytes == 0 {
        return Err(InitramfsError::Empty(path.into()));
    }
    let address = highest(memory_bytes, kernel_end, bytes).map_err(|needed| InitramfsError::TooBig {
        path: path.into(),
        memory_mib: memory_bytes >> 20,
        needed_mib: needed.div_ceil(1 << 20),
    })?;
    file::place(memory, file, 0, address, bytes)
        .map_err(|source| InitramfsError::Load(path.into(), source))?;
    Ok((address, bytes))
}

/// The highest page where it fits, or how much memory it would take.
fn highest(memory_bytes: u64, kernel_end: u64, bytes: u64) -> Result<u64, u64> {
    let top = memory_bytes.min(layout::LOW_MEMORY_END);
    let needed = kernel_end.saturating_add(bytes).next_multiple_of(PAGE_BYTES);
    top.checked_sub(bytes).map(|at| at & !(PAGE_BYTES - 1)).filter(|at| *at >= kernel_end).ok_or(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn ends_at_the_top_of_low_memory() {
        assert_eq!(highest(128 * MIB, 32 * MIB, 5000), Ok(128 * MIB - 8192));
        assert_eq!(highest(128 * MIB, 32 * MIB, 4096), Ok(128 * MIB - 4096));
        assert_eq!(highest(8 << 30, 32 * MIB, 4096), Ok(layout::LOW_MEMORY_END - 4096));
    }

    #[test]
    fn does_not_touch_the_kernel() {
        assert_eq!(highest(64 * MIB, 32 * MIB, 32 * MIB), Ok(32 * MIB));
        assert_eq!(highest(64 * MIB, 32 * MIB, 32 * MIB + 1), Err(64 * MIB + 4096));
        assert_eq!(highest(16 * MIB, 32 * MIB, 64 * MIB), Err(96 * MIB));
    }
}
