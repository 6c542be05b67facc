//! `tmpcopyup`: a new tmpfs starts with what the directory below it holds. Files are copied with their owner,
//! mode and times left to the copy; links are copied as links, nodes as nodes.

use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, mkdirat, mknodat, openat,
    readlinkat, sendfile, statat, symlinkat,
};
use rustix::io;

/// Deepest directory that is copied; the limit keeps the stack bounded.
const MAX_DEPTH: u32 = 64;
/// Bytes asked of one sendfile(2).
const COPY_BYTES: usize = 1 << 20;

/// Copies everything in the directory `from` into the directory `to`.
pub(crate) fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    copy_directory(from, to, 0)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: u32) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Errno::NAMETOOLONG);
    }
    let listing = open(from, c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    for entry in Dir::read_from(&listing)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(to, name, mode)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                copy_directory(&open(from, name, flags)?, &open(to, name, flags)?, depth + 1)?;
            }
            FileType::RegularFile => copy_file(from, to, name, mode)?,
            FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
            kind => mknodat(to, name, kind, mode, stat.st_rdev)?,
        }
        set_owner(to, name, &stat)?;
    }
    Ok(())
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, mode: Mode) -> io::Result<()> {
    let source = open(from, name, OFlags::RDONLY)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = openat(to, name, flags, mode)?;
    while sendfile(&target, &source, None, COPY_BYTES)? > 0 {}
    Ok(())
}

/// Gives the copy its owner, and then the mode again, from which a change of the owner takes set-ID bits.
fn set_owner(to: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    if !uid.is_root() || !gid.is_root() {
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if stat.st_mode & 0o6000 != 0 && FileType::from_raw_mode(stat.st_mode).is_file() {
            fchmod(open(to, name, OFlags::RDONLY)?, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        }
    }
    Ok(())
}

fn open(at: &OwnedFd, name: &std::ffi::CStr, flags: OFlags) -> io::Result<OwnedFd> {
    openat(at, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn a_tree_is_copied_with_modes_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/deep/file"), vec![7; 3 << 20]).unwrap();
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        let fd = |path| openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        copy(&fd(&from), &fd(&to)).unwrap();
        assert_eq!(fs::read(to.join("sub/deep/file")).unwrap(), vec![7; 3 << 20]);
        assert_eq!(fs::metadata(to.join("sub")).unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(fs::read_link(to.join("link")).unwrap().to_str(), Some("/nowhere"));
    }
}
