//! The mounts that make a container's root file system: containerd says which, and they are put into the bundle, where
//! others look for them as well.

use std::ffi::CString;
use std::path::Path;

use anyhow::{Context, bail};
use containerd_shim_protos::api::Mount;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_remount};

/// Most bytes of a file system's own options: a page, with its end (mount(2)).
const DATA_MAX_BYTES: usize = 4095;

/// Options of a mount, read.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    data: String,
}

/// Mounts them on a directory, one upon the other.
///
/// # Errors
/// One was refused; none is left.
pub(crate) fn mount_all(mounts: &[Mount], target: &Path) -> anyhow::Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    for one in mounts {
        let place = if one.target.is_empty() {
            target.to_path_buf()
        } else {
            target.join(one.target.trim_start_matches('/'))
        };
        let mounted = mount_one(one, &place).with_context(|| {
            format!("rootfs: cannot mount {} {:?} on {}", one.type_, one.source, place.display())
        });
        if mounted.is_err() {
            let _ = unmount(target);
            return mounted;
        }
    }
    Ok(())
}

fn mount_one(one: &Mount, target: &Path) -> anyhow::Result<()> {
    let Options { flags, bind, recursive, data } = options(&one.options);
    if bind {
        if recursive {
            mount_bind_recursive(&one.source, target)?;
        } else {
            mount_bind(&one.source, target)?;
        }
        if !flags.is_empty() {
            mount_remount(target, MountFlags::BIND | flags, "")?;
        }
        return Ok(());
    }
    if data.len() > DATA_MAX_BYTES {
        bail!(
            "its options have {} bytes, and the kernel takes {DATA_MAX_BYTES}: the image has too many layers",
            data.len()
        );
    }
    Ok(mount(&one.source, target, &one.type_, flags, &*CString::new(data)?)?)
}

fn options(words: &[String]) -> Options {
    let mut options =
        Options { flags: MountFlags::empty(), bind: false, recursive: false, data: String::new() };
    for word in words {
        match word.as_str() {
            "bind" => options.bind = true,
            "rbind" => (options.bind, options.recursive) = (true, true),
            "ro" => options.flags |= MountFlags::RDONLY,
            "nosuid" => options.flags |= MountFlags::NOSUID,
            "nodev" => options.flags |= MountFlags::NODEV,
            "noexec" => options.flags |= MountFlags::NOEXEC,
            "noatime" => options.flags |= MountFlags::NOATIME,
            "relatime" => options.flags |= MountFlags::RELATIME,
            "rw" | "defaults" => {}
            other => {
                if !options.data.is_empty() {
                    options.data.push(',');
                }
                options.data.push_str(other);
            }
        }
    }
    options
}

/// Takes everything off that is mounted on a directory.
///
/// # Errors
/// The system refuses.
pub(crate) fn unmount(target: &Path) -> anyhow::Result<()> {
    loop {
        match unmount_once(target) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", target.display())),
        }
    }
}

fn unmount_once(target: &Path) -> rustix::io::Result<()> {
    rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_the_file_systems_own() {
        let of = |words: &[&str]| options(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let overlay = of(&["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"]);
        assert_eq!(overlay.data, "index=off,workdir=/w,upperdir=/u,lowerdir=/a:/b");
        assert!(overlay.flags.is_empty() && !overlay.bind);
        let bind = of(&["rbind", "ro", "nosuid"]);
        assert!(bind.bind && bind.recursive && bind.data.is_empty());
        assert_eq!(bind.flags, MountFlags::RDONLY | MountFlags::NOSUID);
    }
}
