//! `why`: what is recorded of a launch, whoever makes it and as long as the container is there.

use std::collections::BTreeSet;
use std::fs;

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, need};
use serde_json::Value;

use crate::detached::{Detached, verb};

fn recorded(container: &Detached) -> Value {
    serde_json::from_str(&container.verb(&["why", "--json"]).expect(0).out()).unwrap()
}

fn stages(recorded: &Value) -> &Vec<Value> {
    recorded["stages"].as_array().unwrap()
}

fn has(recorded: &Value, who: &str, stage: &str) -> bool {
    stages(recorded).iter().any(|have| have["who"] == who && have["stage"] == stage)
}

fn actors(recorded: &Value) -> BTreeSet<&str> {
    stages(recorded).iter().map(|stage| stage["who"].as_str().unwrap()).collect()
}

fn microseconds(stage: &Value, name: &str) -> f64 {
    stage[name].as_f64().unwrap_or_else(|| panic!("{name} of {stage}"))
}

/// One clock: stages are in order, begin with the launch, and no actor is at two at once.
fn check_times(recorded: &Value) {
    assert_eq!(recorded["clock"], "CLOCK_MONOTONIC");
    assert!(recorded["base_ns"].as_u64().is_some_and(|base_ns| base_ns > 0), "{recorded}");
    assert!(stages(recorded).is_sorted_by_key(|stage| microseconds(stage, "start_us")), "{recorded}");
    assert_eq!(microseconds(&stages(recorded)[0], "start_us"), 0.0);
    for actor in actors(recorded) {
        let mut end_us = 0.0;
        for stage in stages(recorded).iter().filter(|stage| stage["who"] == actor) {
            let (start_us, duration_us) =
                (microseconds(stage, "start_us"), microseconds(stage, "duration_us"));
            // They are written as decimals of binary fractions.
            assert!(duration_us >= 0.0 && start_us >= end_us - 0.001, "{stage} in {recorded}");
            end_us = start_us + duration_us;
        }
    }
}

#[test]
fn a_launch_is_recorded_from_create_to_start_and_stays_until_delete() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let container = Detached::new(Bundle::busybox().script("while :; do sleep 0.2; done"));
    container.create();
    let created = recorded(&container);
    check_times(&created);
    assert_eq!(created["id"], container.id());
    for (who, stage) in [("crx", "container awaited"), ("vmm", "VM started"), ("container", "made")] {
        assert!(has(&created, who, stage), "no {who}: {stage} in {created}");
    }
    assert!(!has(&created, "container", "program executed"), "{created}");

    container.start();
    let started = recorded(&container);
    check_times(&started);
    assert!(
        has(&started, "crx", "start awaited") && has(&started, "container", "program executed"),
        "{started}"
    );
    assert_eq!(stages(&started)[..stages(&created).len()], *stages(&created), "what was recorded stays");

    let text = container.verb(&["why"]).expect(0).out();
    let lines: Vec<&str> = text.lines().collect();
    // The heading, the stages, the time between the commands, the sum.
    assert_eq!(lines.len(), 1 + stages(&started).len() + 1 + 1, "{text}");
    assert!(lines[0].contains("start ms") && lines.last().unwrap().contains("between commands"), "{text}");
    assert!(!text.contains('\x1b'), "colours are for terminals: {text}");

    let file = container.file("trace.json");
    let outcome = container.verb(&["why", "--trace", file.to_str().unwrap()]).expect(0);
    assert_eq!(outcome.out(), "");
    check_trace(&serde_json::from_slice(&fs::read(file).unwrap()).unwrap(), &started);

    let _ = container.command(&["kill"]).arg("KILL").run().expect(0);
    assert_eq!(container.wait_code(), 137);
    assert_eq!(recorded(&container), started, "it stays as long as the container");
    let _ = container.verb(&["delete"]).expect(0);
    container.verb(&["why"]).expect_refused(&[container.id(), "does not exist"]);
    drop(container);
    before.expect_none_new("recorded launches");
}

/// Has what Perfetto's importer of Chrome's format needs, and says the same.
fn check_trace(trace: &Value, recorded: &Value) {
    let events = trace["traceEvents"].as_array().unwrap();
    let of_kind = |kind: &'static str| events.iter().filter(move |event| event["ph"] == kind);
    let named = |name: &str, event: &Value| {
        let is_it = |have: &&Value| have["name"] == name && have["pid"] == event["pid"];
        let found =
            of_kind("M").filter(is_it).find(|have| have["tid"] == event["tid"] || name == "process_name");
        found.unwrap_or_else(|| panic!("no {name} for {event}"))["args"]["name"].clone()
    };
    let base_us = recorded["base_ns"].as_f64().unwrap() / 1e3;
    assert_eq!(of_kind("X").count(), stages(recorded).len());
    for (event, stage) in of_kind("X").zip(stages(recorded)) {
        assert_eq!((&event["name"], &event["dur"]), (&stage["stage"], &stage["duration_us"]));
        assert_eq!(named("thread_name", event), stage["who"]);
        let id = recorded["id"].as_str().unwrap();
        assert_eq!(named("process_name", event), format!("container {id}"));
        let ts = microseconds(event, "ts");
        assert!((ts - base_us - microseconds(stage, "start_us")).abs() < 0.01, "{event} is {stage}");
    }
}

#[test]
fn detached_joined_and_kept_containers_have_their_records() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let first = Detached::new(Bundle::busybox().script("while :; do sleep 0.2; done"));
    first.run();
    let whole = recorded(&first);
    check_times(&whole);
    let text = first.verb(&["why"]).expect(0).out();
    assert!(!text.contains("between"), "one command launched it: {text}");

    let joined = Detached::new(Bundle::busybox().script("exit 3"));
    let _ = joined.launch(&["run", "--detach", "--pod", first.id()]).expect(0);
    assert_eq!(joined.wait_code(), 3);
    let shorter = recorded(&joined);
    check_times(&shorter);
    assert_eq!(actors(&shorter), ["container", "crx", "init", "stand-in", "vmm"].into());
    assert!(has(&shorter, "container", "program executed"), "{shorter}");
    assert_eq!(recorded(&first), whole, "another container's launch is not the first one's");
    drop((joined, first));

    let kept = Detached::new(Bundle::busybox().script("exit 4"));
    let run = verb("run").args(["--keep", "--timing", "--bundle"]).arg(kept.bundle.path()).arg(kept.id());
    let timing = run.run().expect(4).err();
    let record = recorded(&kept);
    check_times(&record);
    assert!(has(&record, "container", "program executed"), "{record}");
    // What --timing prints is the same, and how it ended.
    for stage in stages(&record) {
        let line = format!("  {}: {}", stage["who"].as_str().unwrap(), stage["stage"].as_str().unwrap());
        assert!(timing.lines().any(|have| have.ends_with(&line)), "no {line} in\n{timing}");
    }
    let table = timing.lines().skip_while(|line| !line.contains("at ms"));
    assert_eq!(table.count(), 1 + stages(&record).len() + 4, "{timing}");
    assert!(timing.ends_with("crx: process gone\n"), "{timing}");
    drop(kept);
    before.expect_none_new("recorded launches");
}

#[test]
fn why_is_refused_where_there_is_nothing_to_say_or_nowhere_to_write() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    verb("why").arg("no-such-container").run().expect_refused(&["no-such-container", "does not exist"]);
    verb("why").args(["--json", "--trace", "file", "x"]).run().expect_refused(&["--json", "--trace"]);
    verb("why").run().expect_refused(&["ID"]);
}
