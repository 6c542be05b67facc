//! `linux.devices` and the device rules of `linux.resources.devices`.

use crx_fixture::{Bundle, Facts, Need, need};
use serde_json::json;

#[test]
fn devices_are_made_and_the_others_denied() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = Bundle::busybox()
        .capabilities(&["CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_SYSLOG"])
        .set(
            "/linux/devices",
            json!([
                {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000, "gid": 1001},
                {"path": "/dev/deep/zero", "type": "u", "major": 1, "minor": 5, "fileMode": 0o666},
                {"path": "/dev/block", "type": "b", "major": 7, "minor": 99, "fileMode": 0o600},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
                {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o600},
            ]),
        )
        .set(
            "/linux/resources",
            json!({"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
            ]}),
        );
    let facts = Facts::ask(
        bundle,
        &[
            ("nodes", "cd /dev; stat -c '%n %F %t:%T %a %u:%g' mine deep/zero block pipe"),
            ("mine", "echo x > /dev/mine"),
            ("zero", "head -c 3 /dev/deep/zero | od -An -tx1"),
            ("allowed to read", "true < /dev/kmsg"),
            ("not to write", "echo x > /dev/kmsg"),
            ("mknod", "mknod /tmp/mem c 1 1"),
            ("denied", "true < /tmp/mem"),
            ("denied block", "true < /dev/block"),
            (
                "default ones",
                "for d in null zero full random urandom tty ptmx; do true < /dev/$d || echo $d; done 2>&1",
            ),
        ],
    );
    facts.expect(
        "nodes",
        "mine character special file 1:3 640 1000:1001\ndeep/zero character special file 1:5 666 0:0\n\
         block block special file 7:63 600 0:0\npipe fifo 0:0 622 0:0",
    );
    facts.expect_success("mine");
    facts.expect("zero", "00 00 00");
    facts.expect_success("allowed to read");
    facts.expect_failure("not to write", "Operation not permitted");
    facts.expect_success("mknod");
    facts.expect_failure("denied", "Operation not permitted");
    facts.expect_failure("denied block", "Operation not permitted");
    // Without a terminal there is no /dev/tty to open.
    facts.expect_part("default ones", "tty");
    for device in ["null", "zero", "full", "random", "urandom", "ptmx"] {
        assert!(!facts.text("default ones").lines().any(|line| line == device), "{device} is denied");
    }
}
