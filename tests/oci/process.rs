//! `process`: arguments, environment, directory, user, limits, capabilities, as a user that is not root.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use crx_fixture::{Bundle, Facts, Need, Runtime, need};
use serde_json::json;

/// A bundle whose `process` differs from the defaults in every field.
fn unusual() -> Bundle {
    let bundle = Bundle::busybox()
        .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 2000], "umask": 0o027}))
        .set("/process/env", json!(["PATH=/custom", "EMPTY=", "SPACES=a  b", "UTF8=süß", "EQUALS=a=b"]))
        .set("/process/cwd", json!("/made/for/cwd"))
        .set("/process/oomScoreAdj", json!(321))
        .set("/process/noNewPrivileges", json!(true))
        .set(
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 256, "hard": 512},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
                {"type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 8_388_608},
            ]),
        )
        .set(
            "/process/capabilities",
            json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_CHROOT"],
                "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
                "effective": ["CAP_CHOWN", "CAP_KILL"],
                "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
                "ambient": ["CAP_KILL"],
            }),
        )
        .set("/hostname", json!("a-host"))
        .set("/domainname", json!("a-domain"));
    let custom = bundle.rootfs().join("custom");
    std::fs::create_dir(&custom).unwrap();
    std::os::unix::fs::symlink("/bin/busybox", custom.join("sh")).unwrap();
    bundle
}

#[test]
fn a_process_gets_what_its_section_says() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let script = crx_fixture::facts::script(&[
        ("arguments", r#"for a in "$0" "$@"; do echo "<$a>"; done"#),
        ("environment", r#"echo "<$EMPTY><$SPACES><$UTF8><$EQUALS><$PATH>""#),
        ("variables", "PATH=/bin; cat /proc/1/environ | tr '\\0' '\\n'"),
        ("directory", "pwd"),
        ("status", "cat /proc/self/status"),
        ("limits", "cat /proc/self/limits"),
        ("oom", "cat /proc/self/oom_score_adj"),
        ("hostname", "hostname"),
        ("domainname", "cat /proc/sys/kernel/domainname"),
        ("home", "id -u; id -g; id -G"),
        ("foreign file", "touch /etc/mine"),
        ("file", "touch /tmp/mine && stat -c '%u:%g %a' /tmp/mine"),
        ("setuid", "/custom/setuid-id -u"),
    ]);
    let bundle = unusual();
    std::fs::set_permissions(bundle.rootfs().join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    let bundle = bundle.args(&["sh", "-c", &script, "zero", "two words", "", "süß", "$HOME *"]);
    let facts = Facts::read(&bundle.run().expect(0));

    facts.expect("arguments", "<zero>\n<two words>\n<>\n<süß>\n<$HOME *>");
    facts.expect("environment", "<><a  b><süß><a=b></custom>");
    for variable in ["PATH=/custom", "EMPTY=", "SPACES=a  b", "EQUALS=a=b"] {
        facts.expect_part("variables", variable);
    }
    facts.expect("directory", "/made/for/cwd");
    facts.expect("oom", "321");
    facts.expect("hostname", "a-host");
    if Runtime::under_test() == Runtime::Crx {
        // Newer than the runc of today's distributions.
        facts.expect("domainname", "a-domain");
    }
    facts.expect("home", "1000\n1001\n1001 5 2000");
    facts.expect_failure("foreign file", "Permission denied");
    facts.expect("file", "1000:1001 640");
    expect_status(&facts);
    expect_limits(&facts);
}

fn expect_status(facts: &Facts) {
    let status: Vec<String> = facts
        .text("status")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "Uid: 1000 1000 1000 1000",
        "Gid: 1001 1001 1001 1001",
        "Groups: 5 2000",
        "Umask: 0027",
        "NoNewPrivs: 1",
        // Executed as a user: the ambient set is all that stays permitted and effective.
        "CapInh: 0000000000002020",
        "CapPrm: 0000000000000020",
        "CapEff: 0000000000000020",
        "CapBnd: 0000000000042021",
        "CapAmb: 0000000000000020",
    ];
    for line in expected {
        assert!(status.iter().any(|have| have == line), "no '{line}' in\n{}", facts.text("status"));
    }
}

fn expect_limits(facts: &Facts) {
    let limits = facts.text("limits");
    for (name, soft, hard) in [
        ("Max open files", "256", "512"),
        ("Max core file size", "0", "4096"),
        ("Max stack size", "4194304", "8388608"),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let values: Vec<&str> = line.split_whitespace().take(2).collect();
        assert_eq!(values, [soft, hard], "{name} in\n{limits}");
    }
}
