//! The pure checks of `request.rs`.

use std::ffi::CString;

use rustix::fs::OFlags;

use super::super::request::{
    RawEntry, entry_name, fallocate_mode, link_target, node_type, open_flags, raw_entry, rename_flags,
    visible_xattrs, xattr_name,
};

fn refused(result: std::io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

#[test]
fn a_name_is_one_component_below_its_directory() {
    for name in ["a", "...", "..a", " ", &"x".repeat(255)] {
        assert!(entry_name(&c(name)).is_ok(), "{name}");
    }
    for name in ["", ".", "..", "/", "a/b", "../a", "/etc"] {
        assert_eq!(refused(entry_name(&c(name))), Some(libc::EINVAL), "{name}");
    }
    assert_eq!(refused(entry_name(&c(&"x".repeat(256)))), Some(libc::ENAMETOOLONG));
}

#[test]
fn a_link_target_may_say_anything_up_to_a_path() {
    assert!(link_target(&c("/../../etc/passwd")).is_ok());
    assert!(link_target(&c(&"x".repeat(4095))).is_ok());
    assert_eq!(refused(link_target(&c(&"x".repeat(4096)))), Some(libc::ENAMETOOLONG));
    assert_eq!(refused(link_target(&c(""))), Some(libc::ENOENT));
}

#[test]
fn open_flags_keep_access_truncation_and_synchronization_only() {
    let flags = open_flags((libc::O_RDWR | libc::O_TRUNC | libc::O_APPEND | libc::O_DIRECT) as u32).unwrap();
    assert!(flags.contains(OFlags::RDWR | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NONBLOCK));
    let all = open_flags(!(libc::O_ACCMODE as u32)).unwrap();
    for flag in [OFlags::APPEND, OFlags::DIRECT, OFlags::PATH, OFlags::CREATE, OFlags::DIRECTORY] {
        assert!(!all.contains(flag), "{flag:?}");
    }
    assert_eq!(refused(open_flags(3)), Some(libc::EINVAL));
}

#[test]
fn unknown_flags_and_types_are_refused() {
    assert_eq!(refused(rename_flags(8)), Some(libc::EINVAL));
    assert!(rename_flags(libc::RENAME_EXCHANGE).is_ok());
    assert_eq!(refused(fallocate_mode(libc::FALLOC_FL_COLLAPSE_RANGE as u32)), Some(libc::EOPNOTSUPP));
    assert_eq!(refused(fallocate_mode(u32::MAX)), Some(libc::EOPNOTSUPP));
    assert_eq!(refused(node_type(libc::S_IFDIR)), Some(libc::EINVAL));
    assert_eq!(refused(node_type(libc::S_IFLNK | 0o777)), Some(libc::EINVAL));
    assert_eq!(refused(node_type(0)), Some(libc::EINVAL));
}

#[test]
fn labels_and_access_lists_of_the_host_are_not_the_guests() {
    for name in ["user.a", "trusted.overlay.opaque", "security.capability"] {
        assert!(xattr_name(&c(name)).is_ok(), "{name}");
    }
    for name in ["security.selinux", "security.ima", "system.posix_acl_access", "", "usr.a"] {
        assert_eq!(refused(xattr_name(&c(name))), Some(libc::EOPNOTSUPP), "{name}");
    }
    assert_eq!(refused(xattr_name(&c(&format!("user.{}", "x".repeat(251))))), Some(libc::ERANGE));
    let list = b"user.a\0security.selinux\0system.posix_acl_default\0trusted.b\0";
    assert_eq!(visible_xattrs(list), b"user.a\0trusted.b\0");
    assert_eq!(visible_xattrs(b""), b"");
}

#[test]
fn a_directory_record_is_read_within_its_buffer() {
    let mut record = [0; 24];
    record[..8].copy_from_slice(&7_u64.to_ne_bytes());
    record[8..16].copy_from_slice(&9_u64.to_ne_bytes());
    record[16..18].copy_from_slice(&24_u16.to_ne_bytes());
    record[18] = libc::DT_REG;
    record[19..21].copy_from_slice(b"ab");
    let entry = RawEntry { ino: 7, next: 9, kind: libc::DT_REG, name: b"ab", length: 24 };
    assert_eq!(raw_entry(&record), Some(entry));
    for length in 0..24 {
        assert_eq!(raw_entry(&record[..length]), None, "{length}");
    }
    record[16..18].copy_from_slice(&8_u16.to_ne_bytes());
    assert_eq!(raw_entry(&record), None);
}
