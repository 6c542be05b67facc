//! A bundle that is not there, or whose files are not what they should be.

use std::fs;

use crx_fixture::runtime::crx;
use crx_fixture::{Bundle, Need, need};

use crate::refused;

#[test]
fn a_bundle_that_is_not_there_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    refused(crx().args(["run", "--bundle", "/not/there", "x"]), &["/not/there", "No such file"]);
    refused(crx().args(["run", "--bundle", "/etc/passwd", "x"]), &["/etc/passwd", "not a directory"]);
}

#[test]
fn a_bundle_without_config_json_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::empty();
    let run = || crx().arg("run").arg("--bundle").arg(bundle.path()).arg("x");
    refused(run(), &["config.json", "No such file"]);
    fs::create_dir(bundle.path().join("config.json")).unwrap();
    refused(run(), &["config.json", "not a regular file"]);
}

#[test]
fn a_config_json_that_is_no_configuration_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::empty();
    for (content, words) in [
        ("", &["config.json", "line 1"][..]),
        ("{\n\"ociVersion\": }", &["config.json", "line 2"]),
        ("not json", &["config.json", "line 1"]),
        ("[]", &["config.json", "not a JSON object"]),
        ("\"text\"", &["config.json", "not a JSON object"]),
        ("{}", &["config.json", "ociVersion"]),
        ("{\"ociVersion\": \"1.0.2\", \"ociVersion\": \"1.0.2\"} trailing", &["config.json"]),
    ] {
        fs::write(bundle.path().join("config.json"), content).unwrap();
        refused(crx().arg("run").arg("--bundle").arg(bundle.path()).arg("x"), words);
    }
    fs::write(bundle.path().join("config.json"), [0xff, 0xfe, b'{', b'}']).unwrap();
    refused(crx().arg("run").arg("--bundle").arg(bundle.path()).arg("x"), &["config.json"]);
    fs::write(bundle.path().join("config.json"), "[".repeat(100_000)).unwrap();
    refused(crx().arg("run").arg("--bundle").arg(bundle.path()).arg("x"), &["config.json"]);
}
