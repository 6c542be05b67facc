//! Slices of guest memory that the host's kernel reads and writes directly.

use vm_memory::VolatileSlice;
use vm_memory::bitmap::{Bitmap, MS};

use crate::GuestMem;

/// Guest memory that was found to be there.
pub(crate) type GuestSlice<'m> = VolatileSlice<'m, MS<'m, GuestMem>>;

/// Notes that the host's kernel wrote the first `bytes` of slices, one after the other.
pub(crate) fn mark_dirty<'a, 'm: 'a>(slices: impl IntoIterator<Item = &'a GuestSlice<'m>>, bytes: usize) {
    let mut left = bytes;
    for slice in slices {
        let dirty = left.min(slice.len());
        slice.bitmap().mark_dirty(0, dirty);
        left -= dirty;
    }
}
