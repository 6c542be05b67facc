//! What a pod costs its host between its start and its end.

use crx_fixture::{Bundle, Need, leftovers, need};

/// Huge pages of an idle pod (kB): the guest's page structures fill 4 MiB, the start of the container may take some. The
/// boot alone took 20 MiB when it was free to.
const MAX_HUGE_KB: u64 = 10 << 10;

#[test]
fn a_boot_takes_few_huge_pages_of_its_host() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = Bundle::busybox().script("echo ready; cat");
    let mut running = bundle.command().start();
    running.wait_for("ready\n");
    let huge: u64 = leftovers::descendants(running.pid()).into_iter().map(huge_kb).sum();
    drop(running.take_stdin());
    let _ended = running.wait().expect(0);
    assert!(huge <= MAX_HUGE_KB, "{huge} kB");
}

/// Anonymous huge pages of a process, in kB.
fn huge_kb(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
