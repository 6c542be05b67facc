//! `crx why`: how a container's launch went, from its record: for people, for programs, for a trace viewer.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::waterfall::waterfall;
use crate::runtime::state::{self, Container};
use crate::runtime::timeline::{self, Span};
use crate::runtime::{exit, terminal};

/// Columns of a waterfall that is not for a terminal.
const COLUMNS: usize = 110;

/// Show where the time of a container's launch went
///
/// Every launch is recorded until its container is deleted: what crx, the VMM process, the guest's kernel, its first process
/// and the container did, on one clock. Stages of different actors overlap. The time between `create` and `start` belongs to
/// no stage, and is cut out of the picture.
///
/// --json prints an object: "id", the container; "clock", always "CLOCK_MONOTONIC", the host's; "base_ns", what that was when
/// the launch began, in nanoseconds; "stages", an array of objects in the order in which they began: "who" was at it, the
/// "stage" that was reached at its end, "start_us", when it began, in microseconds since the base, and "duration_us". There
/// are no promises about who and which stages there are.
///
/// --trace writes Chrome's trace event format: a process for the container, a thread for each actor, a complete event for
/// each stage, and CLOCK_MONOTONIC as time, so that traces of several containers can be joined.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    /// Write it to a file for ui.perfetto.dev or chrome://tracing, and print nothing
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    trace: Option<PathBuf>,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let id = &arguments.id;
    let container = Container::find(&state::root(global.root.as_deref()), id)?;
    let mut spans = timeline::read_record(&container.timeline_path())?;
    if spans.is_empty() {
        bail!("container {id:?} is being created: its launch is recorded once it is there");
    }
    // What began together: the longer one first, which the others are a part of.
    spans.sort_by_key(|span| (span.start_ns, std::cmp::Reverse(span.end_ns)));
    if let Some(file) = &arguments.trace {
        write(file, &trace(id, &spans))?;
    } else if arguments.json {
        super::report::print(&format!("{:#}", describe(id, &spans)))?;
    } else {
        let columns = terminal::columns_of_stdout();
        super::report::print(waterfall(&spans, columns.unwrap_or(COLUMNS), columns.is_some()).trim_end())?;
    }
    Ok(exit::SUCCESS)
}

fn write(file: &Path, value: &Value) -> anyhow::Result<()> {
    std::fs::write(file, format!("{value}\n"))
        .with_context(|| format!("--trace: cannot write {}", file.display()))
}

fn describe(id: &str, spans: &[Span]) -> Value {
    let base_ns = spans.first().map_or(0, |span| span.start_ns);
    let stage = |span: &Span| {
        json!({
            "who": span.who,
            "stage": span.stage,
            "start_us": microseconds(span.start_ns - base_ns),
            "duration_us": microseconds(span.duration_ns()),
        })
    };
    let stages: Vec<Value> = spans.iter().map(stage).collect();
    json!({"id": id, "clock": "CLOCK_MONOTONIC", "base_ns": base_ns, "stages": stages})
}

/// A trace as Chrome's trace event format has it.
fn trace(id: &str, spans: &[Span]) -> Value {
    // Any number will do; traces that are joined tell containers by it.
    let process = spans.first().map_or(0, |span| span.start_ns / 1000 % 1_000_000_000);
    let mut actors: Vec<&str> = Vec::new();
    let mut stages = Vec::with_capacity(spans.len());
    for span in spans {
        let thread = actors.iter().position(|actor| *actor == span.who).unwrap_or(actors.len());
        if thread == actors.len() {
            actors.push(&span.who);
        }
        stages.push(json!({
            "ph": "X", "cat": "launch", "name": span.stage, "pid": process, "tid": thread + 1,
            "ts": microseconds(span.start_ns), "dur": microseconds(span.duration_ns()),
        }));
    }
    let named = |name: &str, thread: usize, arguments: Value| json!({"ph": "M", "name": name, "pid": process, "tid": thread, "args": arguments});
    let mut events = vec![named("process_name", 0, json!({"name": format!("container {id}")}))];
    for (actor, thread) in actors.iter().zip(1..) {
        events.push(named("thread_name", thread, json!({"name": actor})));
        events.push(named("thread_sort_index", thread, json!({"sort_index": thread})));
    }
    events.extend(stages);
    json!({"displayTimeUnit": "ms", "traceEvents": events})
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans() -> Vec<Span> {
        let span = |who: &'static str, stage: &'static str, start_ns, end_ns| Span {
            who: who.into(),
            stage: stage.into(),
            start_ns,
            end_ns,
        };
        vec![
            span("crx", "container planned", 5_000_000, 6_000_500),
            span("vmm", "template restored", 6_000_500, 9_000_000),
            span("crx", "container awaited", 6_000_500, 9_500_000),
        ]
    }

    #[test]
    fn json_has_the_shape_that_is_written_down() {
        assert_eq!(
            describe("web", &spans()),
            json!({
                "id": "web",
                "clock": "CLOCK_MONOTONIC",
                "base_ns": 5_000_000,
                "stages": [
                    {"who": "crx", "stage": "container planned", "start_us": 0.0, "duration_us": 1000.5},
                    {"who": "vmm", "stage": "template restored", "start_us": 1000.5, "duration_us": 2999.5},
                    {"who": "crx", "stage": "container awaited", "start_us": 1000.5, "duration_us": 3499.5},
                ],
            })
        );
    }

    #[test]
    fn a_trace_names_the_container_and_its_actors() {
        assert_eq!(
            trace("web", &spans()),
            json!({
                "displayTimeUnit": "ms",
                "traceEvents": [
                    {"ph": "M", "name": "process_name", "pid": 5000, "tid": 0, "args": {"name": "container web"}},
                    {"ph": "M", "name": "thread_name", "pid": 5000, "tid": 1, "args": {"name": "crx"}},
                    {"ph": "M", "name": "thread_sort_index", "pid": 5000, "tid": 1, "args": {"sort_index": 1}},
                    {"ph": "M", "name": "thread_name", "pid": 5000, "tid": 2, "args": {"name": "vmm"}},
                    {"ph": "M", "name": "thread_sort_index", "pid": 5000, "tid": 2, "args": {"sort_index": 2}},
                    {"ph": "X", "cat": "launch", "name": "container planned", "pid": 5000, "tid": 1,
                     "ts": 5000.0, "dur": 1000.5},
                    {"ph": "X", "cat": "launch", "name": "template restored", "pid": 5000, "tid": 2,
                     "ts": 6000.5, "dur": 2999.5},
                    {"ph": "X", "cat": "launch", "name": "container awaited", "pid": 5000, "tid": 1,
                     "ts": 6000.5, "dur": 3499.5},
                ],
            })
        );
    }
}
