//! Users of the container's own /etc/passwd, for `process.rs`: the file is the image's, so it is opened with
//! the root file system as the root of every path and symbolic link in it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Most bytes that are read; users beyond them are not found.
const PASSWD_MAX_BYTES: u64 = 1 << 20;

/// A line of passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
}

/// The users of a root file system; none if it has no /etc/passwd.
pub(crate) fn users(rootfs: &Path) -> io::Result<Vec<User>> {
    let path = |flags| OFlags::CLOEXEC | flags;
    let root = rustix::fs::open(rootfs, path(OFlags::PATH | OFlags::DIRECTORY), Mode::empty())?;
    let file = rustix::fs::openat2(
        &root,
        "etc/passwd",
        // The image may have a FIFO there.
        path(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY),
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let file = match file {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(Vec::new());
    }
    let mut text = Vec::new();
    file.take(PASSWD_MAX_BYTES).read_to_end(&mut text)?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// Lines that are not of the form are passed over, as by the C library.
fn parse(text: &str) -> Vec<User> {
    let user = |line: &str| {
        let mut parts = line.split(':');
        let name = parts.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?.to_owned();
        let (_password, uid, gid) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (_comment, home) = (parts.next(), parts.next().unwrap_or_default().to_owned());
        Some(User { name, uid, gid, home })
    };
    text.lines().filter_map(user).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_users_and_passes_over_the_rest() {
        let users =
            parse("root:x:0:0:root:/root:/bin/sh\n\n# no\nbroken\nx:y:z:1::/\nme::1000:100::/home/me\n");
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["root", "me"]);
        assert_eq!(
            users.last(),
            Some(&User { name: "me".into(), uid: 1000, gid: 100, home: "/home/me".into() })
        );
    }

    #[test]
    fn a_link_out_of_the_root_stays_inside() {
        let directory = tempfile::tempdir().unwrap();
        let (rootfs, outside) = (directory.path().join("rootfs"), directory.path().join("passwd"));
        std::fs::create_dir_all(rootfs.join("etc")).unwrap();
        std::fs::write(&outside, "evil:x:0:0::/:\n").unwrap();
        for target in [outside.clone(), "../../passwd".into(), "/proc/self/environ".into()] {
            std::os::unix::fs::symlink(&target, rootfs.join("etc/passwd")).unwrap();
            assert_eq!(users(&rootfs).unwrap(), [], "{target:?}");
            std::fs::remove_file(rootfs.join("etc/passwd")).unwrap();
        }
        std::fs::write(rootfs.join("users"), "good:x:5:6::/:\n").unwrap();
        std::os::unix::fs::symlink("/users", rootfs.join("etc/passwd")).unwrap();
        assert_eq!(users(&rootfs).unwrap().first().unwrap().name, "good");
    }
}
