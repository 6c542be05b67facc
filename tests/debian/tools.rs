//! Programs of the distribution.

use crx_fixture::{Bundle, Facts, Need, need};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command as Host;

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn package_tools_and_interpreters_run_and_find_sees_every_file() {
    if !need::met(&[Need::Container, Need::Debian]) {
        return;
    }
    let bundle = Bundle::debian();
    let rootfs = bundle.rootfs();
    let host = |program: &str, arguments: &[&str]| {
        let output = Host::new(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let python = rootfs.join("usr/bin/python3").exists();
    let path = rootfs.to_str().unwrap();
    let files = host("find", &[path, "-xdev"]);
    let files = lines(
        &files
            .lines()
            .map(|line| format!("/{}\n", line[path.len()..].trim_start_matches('/')))
            .collect::<String>(),
    );
    let status = std::fs::read_to_string(rootfs.join("var/lib/dpkg/status")).unwrap();
    let installed = status.lines().filter(|line| *line == "Status: install ok installed").count();
    let ask_python =
        if python { "python3 -c 'import sys; print(sum(range(1000)), sys.version_info[0])'" } else { "true" };
    let facts = Facts::ask(
        bundle,
        &[
            ("apt", "apt-get --version"),
            (
                "perl",
                "perl -e 'use POSIX; print join(q(,), map { $_ * $_ } 1..5), POSIX::floor(3.7), qq(\\n)'",
            ),
            ("python", ask_python),
            ("dpkg", "dpkg -l"),
            ("files of a package", "dpkg -L base-files | head -1; dpkg --verify base-files"),
            ("pipes", "seq 1 1000 | sort -n | tail -1; tar -c -C /etc . | tar -t | grep -c ."),
            ("find", "find / -xdev"),
        ],
    );
    facts.expect_success("apt");
    assert!(facts.text("apt").starts_with("apt 2."), "{}", facts.text("apt"));
    facts.expect("perl", "1,4,9,16,253");
    if python {
        facts.expect("python", "499500 3");
    }
    let listed = facts.text("dpkg").lines().filter(|line| line.starts_with("ii ")).count();
    assert_eq!(listed, installed, "packages that dpkg lists");
    facts.expect("files of a package", "/.");
    assert!(facts.text("pipes").starts_with("1000\n"), "{}", facts.text("pipes"));
    let found = lines(facts.text("find"));
    // Mount points that the container's start makes are the host's from then on, but they are no files.
    let made = |line: &&String| !Path::new(line.as_str()).starts_with("/dev");
    let missing: Vec<_> = files.difference(&found).filter(made).take(10).collect();
    let surplus: Vec<_> = found.difference(&files).filter(made).take(10).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:?}, surplus {surplus:?}");
    assert!(found.len() > 5000, "only {} files", found.len());
}
