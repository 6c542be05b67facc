//! The device as a guest's driver sees it: real queues in memory of the test, real files, the real worker.
#![allow(clippy::unwrap_used)]

mod caching;
mod directories;
mod guest;
mod hostile;
mod limits;
mod links;
mod owners;
mod pivot;
mod requests;
mod sizes;
mod xattrs;

/// Whether this test may do what only root can. Without it the test is skipped, loudly, and fails under CI.
fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "under CI this test must run as root");
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Runs a test in a process of its own, because it changes the process: true in that process.
fn alone() -> bool {
    const CHILD: &str = "CRX_TEST_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &name])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}
