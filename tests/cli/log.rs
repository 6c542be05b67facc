//! `--log`, `--log-format`, `--debug`: what the program that called crx reads.

use std::fs;

use crx_fixture::runtime::crx;
use crx_fixture::{Need, need};
use serde_json::Value;

/// Runs crx with a log that has a line already; returns what was added, after the refusal with `word` was looked at.
fn logged(options: &[&str], arguments: &[&str], word: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("log");
    fs::write(&file, "before\n").unwrap();
    let root = directory.path().join("state");
    let command = crx().arg("--root").arg(&root).arg("--log").arg(&file).args(options).args(arguments);
    command.run().expect_refused(&[word]);
    let text = fs::read_to_string(&file).unwrap();
    text.strip_prefix("before\n").unwrap_or_else(|| panic!("the log was overwritten: {text}")).to_owned()
}

#[test]
fn errors_are_in_the_log_in_both_formats() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let text = logged(&[], &["state", "nobody"], "does not exist");
    assert!(text.starts_with("time=\"2"), "{text}");
    assert!(text.ends_with(" level=error msg=\"container \\\"nobody\\\" does not exist\"\n"), "{text}");
    let text = logged(&["--log-format", "json"], &["state", "nobody"], "does not exist");
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["level"], "error");
    assert_eq!(record["msg"], "container \"nobody\" does not exist");
    assert!(record["time"].as_str().unwrap().ends_with('Z'), "{record}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn mistakes_of_the_command_line_are_in_the_log() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    for (arguments, word) in [
        (&["state", "--no-such-flag", "x"][..], "--no-such-flag"),
        (&["walk", "x"], "walk"),
        (&["kill"], "ID"),
        (&["kill", "nobody", "SIGNOTHING"], "SIGNOTHING"),
    ] {
        let text = logged(&["--log-format", "json"], arguments, word);
        let record: Value = serde_json::from_str(&text).unwrap();
        assert!(record["level"] == "error" && record["msg"].as_str().unwrap().contains(word), "{text}");
    }
}

#[test]
fn debug_says_what_is_done() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let text = logged(&["--debug"], &["state", "nobody"], "does not exist");
    assert!(text.lines().any(|line| line.contains("level=debug")), "{text}");
    // Without a log it goes to stderr.
    let outcome = crx().args(["--debug", "--root", "/not/there", "list"]).run().expect(0);
    assert!(outcome.err().lines().all(|line| line.starts_with("crx: debug: ")), "{}", outcome.all());
    assert!(!outcome.stderr.is_empty(), "{}", outcome.all());
}
