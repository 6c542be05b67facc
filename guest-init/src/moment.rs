//! The moment at which this guest becomes a pod (rootfs/README.md, "The moment"). Everything before it is the same for
//! all pods, and there may be no connection to the host then: the VMM may save the guest here, and other pods go on
//! from it. The kernel's driver does the work: entropy, wall clock, CID, more memory and processors.

use std::ffi::CStr;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{self, Errno, read};

/// The driver's device, a node of the initial file system.
const DEVICE: &CStr = c"/dev/crx";

/// What the driver could not do, by bit of its answer.
const FAILURES: [&str; 4] = [
    "the pod's wall clock is wrong: its kernel refused the host's time",
    "the pod's vsock CID is not the one that it was given: its kernel refused it",
    "the pod has less memory than it was given: its kernel could not add all of it",
    "the pod has fewer processors than it was given: not all of them came online",
];

/// Lets the moment pass. What comes back is for people: what did not work.
pub(crate) fn pass() -> Vec<String> {
    warnings(read_mask(DEVICE))
}

/// The driver's answer.
fn read_mask(device: &CStr) -> io::Result<u32> {
    let device = openat(CWD, device, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut mask = [0; 4];
    if read(&device, &mut mask)? != mask.len() {
        return Err(Errno::IO);
    }
    Ok(u32::from_le_bytes(mask))
}

/// A line for each thing that did not work.
fn warnings(mask: io::Result<u32>) -> Vec<String> {
    match mask {
        Ok(mask) => {
            let failed = |bit: &usize| mask & 1 << bit != 0;
            (0..FAILURES.len()).filter(failed).map(|bit| FAILURES[bit].to_owned()).collect()
        }
        // A VMM or a kernel that does not know the moment: what it would bring is as the boot left it.
        Err(Errno::NOENT | Errno::NXIO | Errno::NODEV) => Vec::new(),
        Err(error) => vec![format!("/dev/crx: the pod keeps the clock and the entropy of its boot: {error}")],
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn each_failure_has_its_line() {
        assert!(warnings(Ok(0)).is_empty());
        assert_eq!(warnings(Ok(1)), FAILURES[..1]);
        assert_eq!(warnings(Ok(2 | 8)), [FAILURES[1], FAILURES[3]]);
        assert_eq!(warnings(Ok(15)), FAILURES);
    }

    #[test]
    fn a_vmm_or_a_kernel_that_does_not_know_the_moment_is_no_failure() {
        assert_eq!(read_mask(c"/not/there"), Err(Errno::NOENT));
        for error in [Errno::NOENT, Errno::NXIO, Errno::NODEV] {
            assert!(warnings(Err(error)).is_empty());
        }
        assert_eq!(warnings(Err(Errno::BUSY)).len(), 1);
    }

    #[test]
    fn the_answer_is_four_bytes() {
        let answer = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            read_mask(&CString::new(file.path().to_str().unwrap()).unwrap())
        };
        assert_eq!(answer(&[5, 0, 0, 0]), Ok(5));
        assert_eq!(answer(&[5, 0]), Err(Errno::IO));
    }
}
