//! `crx check`: a table of what a host needs, and an exit code for scripts.

use crx_fixture::runtime::crx;
use crx_fixture::{Need, need};

#[test]
fn check_says_yes_where_the_tests_run() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let outcome = crx().arg("check").run().expect(0);
    let text = outcome.out();
    assert!(outcome.stderr.is_empty(), "{}", outcome.all());
    for line in ["/dev/kvm", "host profile", "guest files", "mount namespace", "state directory"] {
        let found = text.lines().find(|have| have.starts_with(line));
        let found = found.unwrap_or_else(|| panic!("no line '{line}' in\n{text}"));
        assert!(!found.contains("FAIL"), "{found}");
    }
    let pvm = std::path::Path::new("/sys/module/kvm_pvm").exists();
    let profile =
        text.lines().find(|line| line.starts_with("host profile")).unwrap_or_default().to_lowercase();
    assert_eq!(profile.contains("pvm"), pvm, "{profile}");
    assert!(text.trim_end().ends_with("can run pods"), "{text}");
}

#[test]
fn check_says_what_to_do_where_something_is_missing() {
    if !need::met(&[Need::Pod, Need::Program("unshare")]) {
        return;
    }
    let hide = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec \"$@\"";
    let command = crx().args(["--guest-dir", "/not/there", "check"]);
    let outcome = command.wrapped(&["unshare", "--mount", "sh", "-c", hide, "sh"]).run().expect(1);
    let text = outcome.out();
    for (line, advice) in [("/dev/kvm", "load"), ("guest files", "/not/there")] {
        let found = text.lines().find(|have| have.starts_with(line)).unwrap_or_default();
        assert!(found.contains("FAIL") && found.contains(advice), "{line} in\n{text}");
    }
    assert!(text.trim_end().ends_with("cannot run pods yet"), "{text}");
}
