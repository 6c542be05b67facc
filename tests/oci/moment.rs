//! The moment at which a guest becomes a pod (rootfs/README.md), as a container sees it.

use std::time::{SystemTime, UNIX_EPOCH};

use crx_fixture::{Bundle, Facts, Need, need};
use serde_json::json;

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn the_clock_is_the_hosts_and_the_moment_has_passed() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = Bundle::busybox()
        .capabilities(&["CAP_MKNOD", "CAP_DAC_OVERRIDE"])
        .set("/linux/resources", json!({"devices": [{"allow": true, "access": "rwm"}]}));
    let before_s = now_s();
    let facts = Facts::ask(
        bundle,
        &[("clock", "date +%s"), ("node", "mknod /dev/crx c 240 0"), ("again", "cat /dev/crx")],
    );
    let clock_s: u64 = facts.text("clock").trim().parse().unwrap();
    assert!((before_s..=now_s()).contains(&clock_s), "{before_s} {clock_s} {}", now_s());
    facts.expect_success("node");
    facts.expect_failure("again", "Device or resource busy");
}
