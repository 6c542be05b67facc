//! `linux.resources`: limits as the container's cgroup shows them, and what happens at them. cgroup v2.

use crx_fixture::{Bundle, Facts, Need, Runtime, need};
use serde_json::json;

#[test]
fn limits_are_set_and_enforced() {
    if !need::met(&[Need::Container, Need::CgroupV2]) {
        return;
    }
    let bundle = Bundle::busybox().set(
        "/linux/resources",
        json!({
            "memory": {"limit": 67_108_864, "reservation": 33_554_432, "swap": 134_217_728},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
            "pids": {"limit": 12},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
            "unified": {"memory.high": "50331648"},
            "devices": [{"allow": false, "access": "rwm"}],
        }),
    );
    // With a namespace of its own the container's cgroup is the root of what it sees.
    let bundle = bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        namespaces.push(json!({"type": "cgroup"}));
    });
    let facts = Facts::ask(
        bundle,
        &[
            ("cgroup", "cat /proc/self/cgroup"),
            (
                "limits",
                "cd /sys/fs/cgroup; for f in memory.max memory.low memory.swap.max memory.high cpu.weight cpu.max \
                        cpuset.cpus.effective pids.max hugetlb.2MB.max; do echo $f=$(cat $f); done",
            ),
            ("inside", "cat cgroup.procs"),
            ("read-only", "echo 100 > /sys/fs/cgroup/pids.max"),
            (
                "fork bomb",
                "(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 2 & done; wait) 2>&1; true",
            ),
            ("after it", "sleep 3; cat pids.current"),
        ],
    );
    facts.expect("cgroup", "0::/");
    for limit in [
        "memory.max=67108864",
        "memory.low=33554432",
        "memory.high=50331648",
        "cpu.weight=20",
        "cpu.max=50000 100000",
        "cpuset.cpus.effective=0",
        "pids.max=12",
        "hugetlb.2MB.max=4194304",
    ] {
        assert!(
            facts.text("limits").lines().any(|line| line == limit),
            "no {limit} in\n{}",
            facts.transcript()
        );
    }
    facts.expect_part("inside", "1");
    facts.expect_failure("read-only", "Read-only file system");
    facts.expect_part("fork bomb", "Resource temporarily unavailable");
}

#[test]
fn a_container_over_its_memory_limit_is_killed() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = Bundle::busybox()
        .set("/linux/resources", json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}, "devices": [{"allow": false, "access": "rwm"}]}))
        // No shell around it: the killed process is the container's own.
        .args(&["tail", "/dev/zero"]);
    let outcome = bundle.run().expect(128 + 9);
    if Runtime::under_test() == Runtime::Crx {
        let text = outcome.err();
        assert!(text.contains("memory"), "nothing says that memory was the reason:\n{}", outcome.all());
    }
}
