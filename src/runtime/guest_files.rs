//! Where the guest's kernel and first process are.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// What a pod boots.
pub(crate) struct GuestFiles {
    /// Uncompressed ELF kernel.
    pub(crate) kernel: PathBuf,
    /// cpio archive with `/init`.
    pub(crate) initramfs: PathBuf,
}

impl GuestFiles {
    /// Takes them from `directory`, or else from the first place that has them: `guest` beside the program
    /// (a build tree, an unpacked release), `../lib/crx` (an installed one).
    ///
    /// # Errors
    /// No place has them.
    pub(crate) fn find(directory: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(directory) = directory {
            return Self::in_directory(directory);
        }
        let program = std::env::current_exe().context("cannot find the program's own path")?;
        let beside = program.parent().unwrap_or(Path::new("/"));
        let places = [beside.join("guest"), beside.join("../lib/crx")];
        for place in &places {
            if place.join("vmlinux").exists() {
                return Self::in_directory(place);
            }
        }
        bail!(
            "no guest kernel: neither {} nor {} has a vmlinux; build it with `make dist` or name its directory with --guest-dir",
            places[0].display(),
            places[1].display()
        )
    }

    fn in_directory(directory: &Path) -> anyhow::Result<Self> {
        let files = Self { kernel: directory.join("vmlinux"), initramfs: directory.join("initramfs") };
        for file in [&files.kernel, &files.initramfs] {
            let metadata = file.metadata().with_context(|| format!("guest file {}", file.display()))?;
            if !metadata.is_file() {
                bail!("guest file {}: not a regular file", file.display());
            }
        }
        Ok(files)
    }
}
