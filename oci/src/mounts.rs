//! `mounts`: options to flags, and which bind sources come from the host. The host's sources become
//! [`crx_proto::Plan::volumes`], which the launch binds into the pod's share.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

use crx_proto::{BindSource, Mount, MountKind, Volume};

use crate::error::{SpecError, quote};
use crate::json::Field;
use crate::validate;

/// MS_NOSYMFOLLOW of linux/mount.h, which libc has not for every target.
const MS_NOSYMFOLLOW: u64 = 256;
/// The two flags that say what a mount is, not how it behaves.
const MS_BIND: u64 = libc::MS_BIND;
const MS_REC: u64 = libc::MS_REC;
/// The option that says nothing.
const DEFAULTS: &str = "defaults";
/// A new tmpfs starts with what it covers.
const COPY_UP: &str = "tmpcopyup";

/// The mounts with the host directories and files that they need.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    pub(crate) mounts: Vec<Mount>,
    pub(crate) volumes: Vec<Volume>,
    /// In the order of `volumes`.
    pub(crate) sources: Vec<PathBuf>,
    pub(crate) warnings: Vec<String>,
}

/// All mounts of config.json, in their order.
pub(crate) fn mounts(root: &Field<'_>, bundle: &Path) -> Result<Mounts, SpecError> {
    let mut result = Mounts::default();
    for (index, field) in root.list("mounts")?.into_iter().enumerate() {
        let mount = result.mount(index as u32, &field, bundle)?;
        result.mounts.push(mount);
    }
    Ok(result)
}

impl Mounts {
    fn mount(&mut self, index: u32, field: &Field<'_>, bundle: &Path) -> Result<Mount, SpecError> {
        let destination_field = field.require("destination")?;
        let destination = validate::container_path(&destination_field)?;
        if destination == "/" {
            return Err(destination_field.error("would cover the root file system"));
        }
        for mappings in ["uidMappings", "gidMappings"] {
            if field.get(mappings)?.is_some_and(|mappings| mappings.is_filled()) {
                return Err(field.child_error(mappings, "ID-mapped mounts are not supported yet"));
            }
        }
        let options = Options::parse(field)?;
        let fstype = field.opt_string("type")?.unwrap_or_default();
        let is_bind = options.set & MS_BIND != 0 || matches!(fstype, "bind" | "rbind");
        let kind = if is_bind {
            self.bind(field, bundle, &options, fstype)?
        } else {
            file_system(field, fstype, &options)?
        };
        Ok(Mount {
            index,
            destination,
            kind,
            flags: options.set & !(MS_BIND | MS_REC),
            clear_flags: options.cleared,
            propagation: options.propagation,
            recursive_flags: options.recursive_set,
            recursive_clear_flags: options.recursive_cleared,
            copy_up: options.copy_up && fstype == "tmpfs" && !is_bind,
        })
    }

    fn bind(
        &mut self,
        field: &Field<'_>,
        bundle: &Path,
        options: &Options,
        fstype: &str,
    ) -> Result<MountKind, SpecError> {
        let source_field = field.require("source")?;
        let source = source_field.string()?;
        if source.is_empty() {
            return Err(source_field.error("empty"));
        }
        if !options.data.is_empty() {
            let data = quote(&options.data);
            let path = field.path();
            self.warnings
                .push(format!("config.json: {path}.options: {data} means nothing for a bind mount, ignored"));
        }
        let recursive = options.set & MS_REC != 0 || fstype == "rbind";
        if let Some(path) = guest_path(source) {
            return Ok(MountKind::Bind { source: BindSource::Guest(path), recursive });
        }
        let io_error = |error| SpecError::FieldIo {
            field: source_field.path().to_owned(),
            value: source.to_owned(),
            source: error,
        };
        let path = fs::canonicalize(bundle.join(source)).map_err(io_error)?;
        let is_directory = fs::metadata(&path).map_err(io_error)?.is_dir();
        let number = self.volumes.len() as u32;
        self.volumes.push(Volume { is_directory });
        self.sources.push(path);
        Ok(MountKind::Bind { source: BindSource::Volume(number), recursive })
    }
}

/// The path, if it is one that the guest has itself: /proc and /sys whole, and of /dev what a pod's kernel makes
/// (device nodes, /dev/pts, /dev/net, ...). Files that someone put into the host's /dev, and everything below
/// /dev/shm, where people share memory, are the host's.
fn guest_path(source: &str) -> Option<String> {
    let mut path = PathBuf::from("/");
    for component in Path::new(source).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let is_guest = source.starts_with('/')
        && (path.starts_with("/proc") || path.starts_with("/sys") || is_guest_device(&path));
    is_guest.then(|| path.to_str().map(str::to_owned)).flatten()
}

fn is_guest_device(path: &Path) -> bool {
    if !path.starts_with("/dev") || path != Path::new("/dev/shm") && path.starts_with("/dev/shm") {
        return false;
    }
    // What the host has not may still be a device of the guest, and a link such as /dev/log may lead out of /dev.
    let Ok(real) = fs::canonicalize(path) else { return true };
    if real.starts_with("/proc") {
        return true;
    }
    let kind = fs::metadata(&real).map(|metadata| metadata.file_type());
    let is_node = kind.is_ok_and(|kind| kind.is_dir() || kind.is_char_device() || kind.is_block_device());
    is_node && real.starts_with("/dev")
}

fn file_system(field: &Field<'_>, fstype: &str, options: &Options) -> Result<MountKind, SpecError> {
    if fstype.is_empty() || fstype == "none" {
        let problem = "missing: a mount needs a type, or the option \"bind\" or \"rbind\"";
        return Err(field.child_error("type", problem));
    }
    if matches!(fstype, "cgroup" | "cgroup2") {
        return Ok(MountKind::Cgroup);
    }
    let source = field.opt_string("source")?.filter(|source| !source.is_empty()).unwrap_or(fstype);
    Ok(MountKind::FileSystem {
        fstype: fstype.to_owned(),
        source: source.to_owned(),
        data: options.data.clone(),
    })
}

/// `mounts[N].options`, sorted out.
#[derive(Debug, Default)]
struct Options {
    set: u64,
    cleared: u64,
    recursive_set: u64,
    recursive_cleared: u64,
    propagation: u64,
    copy_up: bool,
    /// What no table knows is the file system's own.
    data: String,
}

impl Options {
    fn parse(mount: &Field<'_>) -> Result<Self, SpecError> {
        let mut options = Self::default();
        let mut data = Vec::new();
        for field in mount.list("options")? {
            let name = field.string()?;
            if let Some((clear, flags)) = option(name) {
                change(&mut options.set, &mut options.cleared, clear, flags);
            } else if let Some(flags) = propagation(name) {
                // The kernel takes one kind at a time, and the last one stays.
                options.propagation = flags;
            } else if let Some((clear, flags)) = name.strip_prefix('r').and_then(recursive_option) {
                change(&mut options.recursive_set, &mut options.recursive_cleared, clear, flags);
            } else {
                match name {
                    "" | DEFAULTS => {}
                    COPY_UP => options.copy_up = true,
                    "idmap" | "ridmap" => return Err(field.error("ID-mapped mounts are not supported yet")),
                    _ => data.push(name),
                }
            }
        }
        options.data = data.join(",");
        Ok(options)
    }
}

fn change(set: &mut u64, cleared: &mut u64, clear: bool, flags: u64) {
    let (to, from) = if clear { (cleared, set) } else { (set, cleared) };
    *to |= flags;
    *from &= !flags;
}

/// Options: name, whether it clears its MS_* flags, and these.
const OPTIONS: [(&str, bool, u64); 32] = [
    ("ro", false, libc::MS_RDONLY),
    ("rw", true, libc::MS_RDONLY),
    ("nosuid", false, libc::MS_NOSUID),
    ("suid", true, libc::MS_NOSUID),
    ("nodev", false, libc::MS_NODEV),
    ("dev", true, libc::MS_NODEV),
    ("noexec", false, libc::MS_NOEXEC),
    ("exec", true, libc::MS_NOEXEC),
    ("sync", false, libc::MS_SYNCHRONOUS),
    ("async", true, libc::MS_SYNCHRONOUS),
    ("remount", false, libc::MS_REMOUNT),
    ("mand", false, libc::MS_MANDLOCK),
    ("nomand", true, libc::MS_MANDLOCK),
    ("dirsync", false, libc::MS_DIRSYNC),
    ("noatime", false, libc::MS_NOATIME),
    ("atime", true, libc::MS_NOATIME),
    ("nodiratime", false, libc::MS_NODIRATIME),
    ("diratime", true, libc::MS_NODIRATIME),
    ("relatime", false, libc::MS_RELATIME),
    ("norelatime", true, libc::MS_RELATIME),
    ("strictatime", false, libc::MS_STRICTATIME),
    ("nostrictatime", true, libc::MS_STRICTATIME),
    ("lazytime", false, libc::MS_LAZYTIME),
    ("nolazytime", true, libc::MS_LAZYTIME),
    ("iversion", false, libc::MS_I_VERSION),
    ("noiversion", true, libc::MS_I_VERSION),
    ("silent", false, libc::MS_SILENT),
    ("loud", true, libc::MS_SILENT),
    ("nosymfollow", false, MS_NOSYMFOLLOW),
    ("symfollow", true, MS_NOSYMFOLLOW),
    ("bind", false, MS_BIND),
    ("rbind", false, MS_BIND | MS_REC),
];

/// MS_* flags of an option, and whether it clears them.
fn option(name: &str) -> Option<(bool, u64)> {
    OPTIONS.iter().find(|(known, ..)| *known == name).map(|(_, clear, flags)| (*clear, *flags))
}

/// Per-mount attributes that a leading `r` applies to a whole tree (`rro`, `rnosuid`, ...).
fn recursive_option(name: &str) -> Option<(bool, u64)> {
    let attributes = libc::MS_RDONLY
        | libc::MS_NOSUID
        | libc::MS_NODEV
        | libc::MS_NOEXEC
        | libc::MS_NOATIME
        | libc::MS_NODIRATIME
        | libc::MS_RELATIME
        | libc::MS_STRICTATIME
        | MS_NOSYMFOLLOW;
    option(name).filter(|(_, flags)| flags & !attributes == 0)
}

/// Kinds of propagation and their MS_* flags.
const PROPAGATIONS: [(&str, u64); 8] = [
    ("private", libc::MS_PRIVATE),
    ("rprivate", libc::MS_PRIVATE | MS_REC),
    ("shared", libc::MS_SHARED),
    ("rshared", libc::MS_SHARED | MS_REC),
    ("slave", libc::MS_SLAVE),
    ("rslave", libc::MS_SLAVE | MS_REC),
    ("unbindable", libc::MS_UNBINDABLE),
    ("runbindable", libc::MS_UNBINDABLE | MS_REC),
];

/// MS_* flags of a kind of propagation.
pub(crate) fn propagation(name: &str) -> Option<u64> {
    PROPAGATIONS.iter().find(|(known, _)| *known == name).map(|(_, flags)| *flags)
}

/// Every option that means something to the runtime and not to the file system.
pub(crate) fn option_names() -> impl Iterator<Item = String> {
    let plain = OPTIONS.iter().map(|(name, ..)| *name).chain(PROPAGATIONS.iter().map(|(name, _)| *name));
    let recursive = OPTIONS.iter().map(|(name, ..)| *name).filter(|name| recursive_option(name).is_some());
    plain.chain([DEFAULTS, COPY_UP]).map(str::to_owned).chain(recursive.map(|name| format!("r{name}")))
}
