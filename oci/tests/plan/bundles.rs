//! Opening a bundle: the directory, config.json as a file and as JSON, and the root file system.

use std::os::unix::fs::symlink;

use crate::support::{config_with, default_config, plan_in, plan_of, write_bundle};
use serde_json::json;

fn refused_text(text: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    write_bundle(directory.path(), text);
    plan_in(directory.path(), "test").unwrap_err()
}

#[test]
fn the_default_configuration_is_accepted() {
    let planned = plan_of(&default_config()).unwrap();
    assert!(planned.terminal);
    assert_eq!(planned.warnings, [] as [&str; 0]);
    for version in ["1.0.0", "1.0.2-dev", "1.1.0-rc.1+build", "1.2.1"] {
        assert!(plan_of(&config_with(&[("/ociVersion", json!(version))])).is_ok(), "{version}");
    }
}

#[test]
fn directories_that_are_no_bundles() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let gone = path.join("gone");
    let line = format!("bundle {}: No such file or directory (os error 2)", gone.display());
    assert_eq!(plan_in(&gone, "test").unwrap_err(), line);
    let config = path.join("config.json");
    let line = format!("{}: No such file or directory (os error 2)", config.display());
    assert_eq!(plan_in(path, "test").unwrap_err(), line);
    std::fs::create_dir(&config).unwrap();
    assert_eq!(plan_in(path, "test").unwrap_err(), format!("{}: not a regular file", config.display()));
    let file = path.join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(plan_in(&file, "test").unwrap_err(), format!("bundle {}: not a directory", file.display()));
}

#[test]
fn text_that_is_no_configuration() {
    assert_eq!(refused_text(b""), "config.json: line 1, column 0: EOF while parsing a value");
    assert_eq!(refused_text(b"{\n  \"a\": nope\n}"), "config.json: line 2, column 9: expected ident");
    assert_eq!(
        refused_text(b"{\"a\": \"\xff\"}"),
        "config.json: line 1, column 8: invalid unicode code point"
    );
    assert_eq!(refused_text(b"{} {}"), "config.json: line 1, column 4: trailing characters");
    assert_eq!(refused_text(b"[]"), "config.json: not a JSON object");
    assert_eq!(refused_text(b"7"), "config.json: not a JSON object");
    assert_eq!(refused_text(b"{}"), "config.json: ociVersion: missing");
    let deep = [b"[".repeat(200_000), b"]".repeat(200_000)].concat();
    assert_eq!(refused_text(&deep), "config.json: line 1, column 128: recursion limit exceeded");
    let large = refused_text(&b" ".repeat((4 << 20) + 1));
    assert!(large.ends_with("/config.json: larger than 4194304 bytes"), "{large}");
}

#[test]
fn links_are_resolved_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    write_bundle(&path, default_config().to_string().as_bytes());
    std::fs::rename(path.join("rootfs"), path.join("tree")).unwrap();
    symlink("tree", path.join("rootfs")).unwrap();
    symlink(&path, path.join("bundle")).unwrap();
    let planned = plan_in(&path.join("bundle"), "test").unwrap();
    assert_eq!(planned.rootfs, path.join("tree"));
}

#[test]
fn ids() {
    let directory = tempfile::tempdir().unwrap();
    write_bundle(directory.path(), default_config().to_string().as_bytes());
    let refused = |id: &str| plan_in(directory.path(), id).unwrap_err();
    let letters = "only letters, digits and \"_\", \"+\", \"-\", \".\" are allowed";
    for id in ["a/b", "a b", "a\n", "ä", "a,b"] {
        assert_eq!(refused(id), format!("container ID {id:?}: {letters}"));
    }
    assert_eq!(refused(""), "container ID \"\": empty");
    assert_eq!(refused("."), "container ID \".\": names a directory");
    assert_eq!(refused(".."), "container ID \"..\": names a directory");
    assert!(refused(&"a".repeat(256)).ends_with(": longer than 255 bytes"));
    for id in ["a", "A.b_c+d-9", "...", &"a".repeat(255)] {
        assert_eq!(plan_in(directory.path(), id).unwrap().plan.id, id);
    }
}

#[test]
fn the_default_configuration_is_runcs() {
    let text = crx_oci::default_spec();
    assert!(text.starts_with("{\n\t\"ociVersion\": \"1.0.2-dev\",\n\t\"process\": {\n"));
    assert!(text.ends_with("\n\t\t]\n\t}\n}"));
    assert_eq!(text.len(), 2592);
}
