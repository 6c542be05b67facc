//! `crx events`: a container's statistics every few seconds, its lack of memory, until it ends. Each event is a line of
//! JSON in runc's form.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use crx_proto::Answer;
use serde_json::{Value, json};

use crate::runtime::channel::{self, Command, Report, Status};
use crate::runtime::state::{self, Container};
use crate::runtime::{exit, usage};

/// Print statistics and events of a container as lines of JSON, until it ends
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Time between statistics, such as 500ms or 1m
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "5s")]
    interval: Duration,
    /// Print the statistics once
    #[arg(long)]
    stats: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Longest time between statistics: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Something that its pod told.
enum Event {
    OutOfMemory,
    Ended,
    Failed(String),
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it has to be longer than 0".to_owned()),
        Ok(interval) if interval > LONGEST => Err("it can be a year at most".to_owned()),
        Ok(interval) => Ok(interval),
        Err(_) => Err(format!("{text:?} is not a time such as 500ms, 5s or 1m30s")),
    }
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let container = Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    if container.status() == Status::Stopped {
        bail!("container {:?} is not running", arguments.id);
    }
    let mut out = io::stdout();
    if arguments.stats {
        print(&mut out, "stats", &arguments.id, Some(statistics(&container)?))?;
    } else {
        follow(&container, arguments.interval, &mut out)?;
    }
    Ok(exit::SUCCESS)
}

/// How long the word of a container's end may take after PID 1 has no more of its statistics.
const ENDING: Duration = Duration::from_secs(10);

/// Prints events until the container ends.
fn follow(container: &Container, interval: Duration, out: &mut impl Write) -> anyhow::Result<()> {
    let id = &container.record.id;
    let (sender, events) = channel();
    let pod = container.connect()?;
    channel::send(&pod, &Command::Watch(id.clone()), &[])?;
    thread::Builder::new().name("crx-watch".to_owned()).spawn(move || watch(&pod, &sender))?;
    let mut next = Instant::now() + interval;
    let mut refused = None;
    loop {
        match events.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Event::OutOfMemory) => print(out, "oom", id, None)?,
            Ok(Event::Failed(message)) => bail!("container {id:?}: {message}"),
            Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(error) = refused {
                    return Err(error);
                }
                next = Instant::now() + interval;
                match statistics(container) {
                    Ok(statistics) => print(out, "stats", id, Some(statistics))?,
                    // It ended in between.
                    Err(_) if container.status() == Status::Stopped => return Ok(()),
                    // Or is about to: PID 1 knows before its pod does, which says so on the way.
                    Err(error) => {
                        next = Instant::now() + ENDING;
                        refused = Some(error);
                    }
                }
            }
        }
    }
}

/// Turns what the pod says of a container that is watched into events, to its end or the pod's.
fn watch(pod: &UnixStream, events: &Sender<Event>) {
    loop {
        let event = match channel::receive::<Report>(pod).map(|(report, _)| report) {
            Ok(Report::OutOfMemory) => Event::OutOfMemory,
            Ok(Report::Failed(failure)) => Event::Failed(failure.message),
            Ok(Report::Ended(_)) | Err(_) => Event::Ended,
            Ok(_) => continue,
        };
        let last = !matches!(event, Event::OutOfMemory);
        if events.send(event).is_err() || last {
            return;
        }
    }
}

fn statistics(container: &Container) -> anyhow::Result<Value> {
    match container.ask(&Command::Usage(container.record.id.clone()))? {
        Report::Answer(Answer::Usage(files)) => Ok(usage::statistics(&files)),
        _ => bail!("the pod gave no answer"),
    }
}

fn print(out: &mut impl Write, kind: &str, id: &str, data: Option<Value>) -> anyhow::Result<()> {
    let mut event = json!({ "type": kind, "id": id });
    if let (Some(event), Some(data)) = (event.as_object_mut(), data) {
        event.insert("data".to_owned(), data);
    }
    // Whole lines: whoever reads them may be reading a pipe.
    out.write_all(format!("{event}\n").as_bytes()).context("cannot write to stdout")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicU32, Ordering};

    use crx_proto::ExitStatus;

    use super::*;
    use crate::runtime::channel::Failure;
    use crate::runtime::fake_pod::{FakePod, ID};

    fn events_of(pod: &FakePod) -> anyhow::Result<String> {
        let mut out = Vec::new();
        follow(&Container::find(pod.root(), ID)?, Duration::from_millis(1), &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn events_are_printed_until_the_container_ends() {
        // The third question for statistics is refused: the container has stopped by then.
        let asked = AtomicU32::new(0);
        let pod = FakePod::new("{}", move |command| match command {
            Command::Watch(_) => vec![Report::Answer(Answer::Done), Report::OutOfMemory],
            Command::Usage(_) if asked.fetch_add(1, Ordering::SeqCst) < 2 => {
                vec![Report::Answer(Answer::Usage(vec![("pids.current".to_owned(), "7".to_owned())]))]
            }
            Command::Usage(_) => vec![Report::Failed(Failure {
                exit_code: 1,
                message: "container not running".to_owned(),
                console: Vec::new(),
            })],
            _ => vec![Report::Status(Status::Stopped)],
        });
        let text = events_of(&pod).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of_kind =
            |kind: &str| lines.iter().filter(|line| line["type"] == kind).cloned().collect::<Vec<_>>();
        assert_eq!(of_kind("oom"), [json!({"type": "oom", "id": ID})]);
        assert_eq!(of_kind("stats").len(), 2, "{text}");
        assert_eq!(of_kind("stats")[0]["data"]["pids"]["current"], 7);
    }

    #[test]
    fn the_end_and_a_refusal_end_the_events() {
        let report = |report: fn() -> Report| {
            FakePod::new("{}", move |command| match command {
                Command::Watch(_) => vec![Report::Answer(Answer::Done), report()],
                _ => vec![Report::Answer(Answer::Usage(Vec::new()))],
            })
        };
        events_of(&report(|| Report::Ended(ExitStatus::Exited { code: 3 }))).unwrap();
        let refused = report(|| {
            let message = "container not running".to_owned();
            Report::Failed(Failure { exit_code: 1, message, console: Vec::new() })
        });
        let error = events_of(&refused).unwrap_err().to_string();
        assert_eq!(error, "container \"fake\": container not running");
    }

    #[test]
    fn intervals_are_go_s() {
        for (text, milliseconds) in [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("1h", 3_600_000)] {
            assert_eq!(interval(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["0s", "", "5", "-1s", "x", "2y", "99999999999999999999s"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
