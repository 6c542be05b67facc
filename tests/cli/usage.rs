//! Help, version, and words that the command line does not know.

use crx_fixture::runtime::crx;
use crx_fixture::{Need, need};

#[test]
fn help_and_version_are_answers() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let outcome = crx().arg("--version").run().expect(0);
    for line in ["crx version ", "commit: ", "spec: 1.", "rust: 1."] {
        assert!(outcome.out().lines().any(|have| have.starts_with(line)), "no {line} in\n{}", outcome.all());
    }
    assert_eq!(crx().arg("-v").run().expect(0).out(), outcome.out());
    let outcome = crx().arg("--help").run().expect(0);
    for word in ["run", "spec", "check", "--root", "Exit codes"] {
        assert!(outcome.out().contains(word), "no {word} in\n{}", outcome.all());
    }
    // The child's verb is not for people.
    assert!(!outcome.out().contains("vmm "), "{}", outcome.all());
    let outcome = crx().args(["run", "--help"]).run().expect(0);
    for word in ["--bundle", "--pid-file", "--timing", "--debug-console", "--vcpus", "--memory", "ID"] {
        assert!(outcome.out().contains(word), "no {word} in\n{}", outcome.all());
    }
}

#[test]
fn what_is_not_understood_is_exit_code_1() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    for (arguments, word) in [
        (&["run", "--no-such-flag", "x"][..], "--no-such-flag"),
        (&["walk", "x"], "walk"),
        (&["run"], "ID"),
        (&["run", "a", "b"], "b"),
        (&["run", "--vcpus", "x", "a"], "--vcpus"),
        (&["--log-format", "xml", "list"], "--log-format"),
        (&["--rootless", "perhaps", "list"], "--rootless"),
        (&["--log", "/not/there/log", "list"], "/not/there/log"),
    ] {
        crx().args(arguments).run().expect_refused(&[word]);
    }
    let outcome = crx().run().expect(1);
    assert!(outcome.err().contains("Usage") && outcome.stdout.is_empty(), "{}", outcome.all());
}
