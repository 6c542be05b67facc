//! The command line: what is refused and how, and the verbs that start nothing. Everything refused is one
//! line on stderr with exit code 1, and leaves nothing behind.
#![allow(clippy::unwrap_used)]

mod bundle;
mod check;
mod config;
mod guest;
mod host;
mod id;
mod log;
mod spec;
mod usage;
mod verbs;

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Command, Outcome};
use serde_json::Value;

/// Runs a command that must be refused in one line with all of `words`, and leave nothing.
fn refused(command: Command, words: &[&str]) -> Outcome {
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let outcome = command.run();
    outcome.expect_refused(words);
    before.expect_none_new(&outcome.command);
    outcome
}

/// A busybox bundle in which one field is changed must be refused with the field's name.
fn field_refused(bundle: &Bundle, pointer: &str, value: Value, words: &[&str]) {
    let mut config = bundle.config.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent} in config.json"));
    match parent.as_array_mut() {
        Some(array) if name == "-" => array.push(value),
        Some(array) => array[name.parse::<usize>().unwrap()] = value,
        None => parent[name] = value,
    }
    bundle.write_other(&config);
    let command = crx_fixture::runtime::crx().arg("run").arg("--bundle").arg(bundle.path()).arg(bundle.id());
    let mut all = vec!["config.json"];
    all.extend(words);
    refused(command, &all);
}
