//! What a template is made of and for. Two templates are the same if all of it is.
//!
//! Files count by what the file system says of them (inode, size, times): reading the kernel would take longer than a launch,
//! and ctime cannot be set back. The processor counts with its CPUID, because the guest's kernel chose its code by it.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use crx_vmm::{FORMAT_VERSION, HostProfile, processor};

use super::{MEMORY_MIB, VCPUS};

/// Bytes of a snapshot's label.
const LABEL_BYTES: usize = 32;

/// Characters of a key's name, hexadecimal.
pub(crate) const NAME_CHARACTERS: usize = 12;

/// Of a kernel, a first process, a VMM, a host and a shape.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// All of it, a line each.
    text: String,
    /// Its hash. Not a cryptographic one: who can write a store can write anything into it.
    label: [u8; LABEL_BYTES],
}

impl Key {
    /// The key of a template that would be made now.
    ///
    /// # Errors
    /// A file is not there.
    pub(crate) fn new(kernel: &Path, initramfs: &Path, network: bool) -> anyhow::Result<Self> {
        let mut text = format!("format {FORMAT_VERSION}, protocol {}\n", crx_proto::VERSION);
        for (name, path) in
            [("crx", Path::new("/proc/self/exe")), ("kernel", kernel), ("initramfs", initramfs)]
        {
            let identity = identity(path).with_context(|| format!("cannot look at {}", path.display()))?;
            let _ = writeln!(text, "{name} {identity}");
        }
        let _ = writeln!(
            text,
            "host {}, {}",
            HostProfile::detect(),
            rustix::system::uname().release().to_string_lossy()
        );
        let _ = writeln!(text, "processor {}", processor());
        let _ = writeln!(text, "memory {MEMORY_MIB} MiB, {VCPUS} processors");
        let _ = writeln!(text, "network {}", if network { "interfaces" } else { "none" });
        Ok(Self::of(text))
    }

    fn of(text: String) -> Self {
        let mut label = [0; LABEL_BYTES];
        for (number, part) in label.chunks_exact_mut(8).enumerate() {
            let mut hasher = DefaultHasher::new();
            (number, &text).hash(&mut hasher);
            part.copy_from_slice(&hasher.finish().to_le_bytes());
        }
        Self { text, label }
    }

    /// For people.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// For the snapshot's header.
    pub(crate) fn label(&self) -> [u8; LABEL_BYTES] {
        self.label
    }

    /// For the directory in the store, and for commands.
    pub(crate) fn name(&self) -> String {
        self.label[..NAME_CHARACTERS / 2]
            .iter()
            .fold(String::new(), |name, byte| name + &format!("{byte:02x}"))
    }
}

/// What tells a file from another, and from itself before it was changed.
pub(crate) fn identity(path: &Path) -> std::io::Result<String> {
    Ok(identity_of(&path.metadata()?))
}

pub(crate) fn identity_of(file: &std::fs::Metadata) -> String {
    format!(
        "inode {}, {} bytes, modified {}.{:09}, changed {}.{:09}",
        file.ino(),
        file.size(),
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn every_file_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (kernel, initramfs) = (directory.path().join("kernel"), directory.path().join("initramfs"));
        fs::write(&kernel, "k").unwrap();
        fs::write(&initramfs, "i").unwrap();
        let key = || Key::new(&kernel, &initramfs, false).unwrap();
        let before = key();
        assert_eq!(key(), before);
        assert_ne!(Key::new(&kernel, &initramfs, true).unwrap().label(), before.label());
        fs::write(&initramfs, "j").unwrap();
        let after = key();
        assert_ne!(after.label(), before.label());
        fs::write(directory.path().join("new"), "k").unwrap();
        fs::rename(directory.path().join("new"), &kernel).unwrap();
        assert_ne!(key().name(), after.name());
        fs::remove_file(&kernel).unwrap();
        assert!(Key::new(&kernel, &initramfs, false).is_err());
    }

    #[test]
    fn the_text_says_what_it_was_made_of() {
        let key = Key::new(Path::new("/proc/self/exe"), Path::new("/proc/self/exe"), true).unwrap();
        for word in [
            "crx inode",
            "kernel inode",
            "initramfs inode",
            "host ",
            "processor ",
            "256 MiB",
            "network interfaces",
        ] {
            assert!(key.text().contains(word), "{word}: {}", key.text());
        }
        assert_eq!(key.name().len(), 12);
    }
}
