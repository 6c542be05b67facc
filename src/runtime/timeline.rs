//! The timeline of a launch: what each of its actors did from when to when, host and guest on one clock, the host's
//! CLOCK_MONOTONIC.
//!
//! Every process keeps its own stages in memory; they come together at the launcher ([`super::launch`]), which adds them to the
//! record in the container's state directory once the container is there, and so does `start` with its own. Nothing here
//! knows which actors and stages there are: both are names.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::log;

/// Longest record that is read, in bytes; a launch writes some 2,000.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// One stage of a launch: a line of the record, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    /// Who was at it.
    pub(crate) who: Cow<'static, str>,
    /// What was reached at its end.
    pub(crate) stage: Cow<'static, str>,
    /// When it began: the host's CLOCK_MONOTONIC, in nanoseconds.
    pub(crate) start_ns: u64,
    /// When it ended; not before it began.
    pub(crate) end_ns: u64,
}

impl Span {
    pub(crate) fn new(who: &'static str, stage: &'static str, start_ns: u64, end_ns: u64) -> Self {
        Self { who: who.into(), stage: stage.into(), start_ns: start_ns.min(end_ns), end_ns }
    }

    pub(crate) fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// What one actor does, one stage after the other.
pub(crate) struct Track {
    who: &'static str,
    last_ns: u64,
    spans: Vec<Span>,
}

impl Track {
    /// Its first stage begins now.
    pub(crate) fn new(who: &'static str) -> Self {
        Self { who, last_ns: monotonic_ns(), spans: Vec::new() }
    }

    /// Of a process that somebody set about starting, that was executed since, and has just been told its role.
    pub(crate) fn of_process(who: &'static str, began_ns: u64, executed_ns: u64) -> Self {
        let executed = Span::new(who, "process executed", began_ns, executed_ns);
        let mut track = Self { who, last_ns: executed.end_ns, spans: vec![executed] };
        track.reached("role received");
        track
    }

    /// A stage ends now, and the next one begins; with `--debug` the log has it as well.
    pub(crate) fn reached(&mut self, stage: &'static str) {
        let now_ns = monotonic_ns();
        log::debug(stage);
        self.spans.push(Span::new(self.who, stage, self.last_ns, now_ns));
        self.last_ns = now_ns;
    }

    /// When its last stage ended.
    pub(crate) fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// Adds what others did.
    pub(crate) fn extend(&mut self, spans: Vec<Span>) {
        self.spans.extend(spans);
    }

    /// Everything so far.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    pub(crate) fn into_spans(self) -> Vec<Span> {
        self.spans
    }
}

/// The host's CLOCK_MONOTONIC, in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // CLOCK_MONOTONIC counts from boot and is never negative.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Begins a record with these stages. That it cannot be written is told, and no reason to end a launch.
pub(crate) fn begin_record(file: &Path, spans: &[Span]) {
    warn_of(write(OpenOptions::new().create(true), file, spans));
}

/// Adds stages to a record, likewise. One that is not there any more needs none: its container was deleted meanwhile.
pub(crate) fn add_to_record(file: &Path, spans: &[Span]) {
    match write(&mut OpenOptions::new(), file, spans) {
        Err(error) if is_not_found(&error) => log::debug(&format!("{error:#}")),
        result => warn_of(result),
    }
}

fn warn_of(result: anyhow::Result<()>) {
    if let Err(error) = result {
        log::warning(&format!("the launch is not recorded: {error:#}"));
    }
}

/// One write(2): readers see all of it or, at most, a last line without its end.
fn write(options: &mut OpenOptions, file: &Path, spans: &[Span]) -> anyhow::Result<()> {
    let mut lines = Vec::with_capacity(128 * spans.len());
    for span in spans {
        serde_json::to_writer(&mut lines, span)?;
        lines.push(b'\n');
    }
    let written = options.append(true).open(file).and_then(|mut file| file.write_all(&lines));
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// Reads a record; one that is not there has no stages.
///
/// # Errors
/// It cannot be read, or is none.
pub(crate) fn read_record(file: &Path) -> anyhow::Result<Vec<Span>> {
    let mut text = String::new();
    let read = File::open(file).and_then(|open| open.take(MAX_RECORD_BYTES).read_to_string(&mut text));
    match read.with_context(|| format!("cannot read {}", file.display())) {
        Err(error) if is_not_found(&error) => return Ok(Vec::new()),
        read => read?,
    };
    // What follows the last line end is still being written.
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let mut spans = Vec::new();
    for (line, number) in lines.zip(1..) {
        let span: Span = serde_json::from_str(line)
            .with_context(|| format!("{}: line {number} is no stage", file.display()))?;
        if span.end_ns < span.start_ns {
            bail!("{}: line {number}: a stage that ends before it begins", file.display());
        }
        spans.push(span);
    }
    Ok(spans)
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Prints when each stage was reached, as milliseconds since the first began and since the one before, to stderr.
pub(crate) fn print(spans: &[Span]) {
    eprint!("{}", table(spans));
}

fn table(spans: &[Span]) -> String {
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by_key(|span| span.end_ns);
    let first_ns = spans.iter().map(|span| span.start_ns).min().unwrap_or(0);
    let mut before_ns = first_ns;
    let mut text = format!("{:>12}  {:>12}  stage\n", "at ms", "took ms");
    for Span { who, stage, end_ns, .. } in spans {
        let milliseconds = |from_ns: u64| (end_ns - from_ns) as f64 / 1e6;
        text +=
            &format!("{:12.3}  {:12.3}  {who}: {stage}\n", milliseconds(first_ns), milliseconds(before_ns));
        before_ns = *end_ns;
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    fn span(who: &'static str, stage: &'static str, start_ns: u64, end_ns: u64) -> Span {
        Span { who: who.into(), stage: stage.into(), start_ns, end_ns }
    }

    #[test]
    fn the_stages_of_an_actor_follow_each_other() {
        let mut track = Track::new("vmm");
        let began_ns = track.last_ns();
        track.reached("share built");
        track.reached("VM built");
        let [first, second] = track.spans() else { panic!("{:?}", track.spans()) };
        assert_eq!((&*first.who, &*first.stage, first.start_ns), ("vmm", "share built", began_ns));
        assert_eq!((&*second.stage, second.start_ns), ("VM built", first.end_ns));
        assert!(
            began_ns <= first.end_ns && first.end_ns <= second.end_ns && second.end_ns == track.last_ns()
        );
    }

    #[test]
    fn a_record_is_added_to_and_read_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("record");
        assert_eq!(read_record(&file).unwrap(), []);
        let spans =
            [span("crx", "planned", 1, 2), span("vmm", "a \"name\"\n", 2, 5), span("crx", "started", 9, 9)];
        begin_record(&file, &spans[..2]);
        add_to_record(&file, &spans[2..]);
        assert_eq!(read_record(&file).unwrap(), spans);
        // One that is being added to.
        let whole = fs::read_to_string(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(read_record(&file).unwrap(), spans[..2]);
    }

    #[test]
    fn the_record_of_a_deleted_container_does_not_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("record");
        add_to_record(&file, &[span("crx", "planned", 1, 2)]);
        assert!(!file.exists());
    }

    #[test]
    fn a_line_that_is_no_stage_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("record");
        for (line, wrong) in [
            ("{}", "line 2 is no stage"),
            (
                r#"{"who":"a","stage":"b","start_ns":2,"end_ns":1}"#,
                "line 2: a stage that ends before it begins",
            ),
        ] {
            fs::write(&file, "").unwrap();
            begin_record(&file, &[span("crx", "planned", 1, 2)]);
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, format!("{text}{line}\n")).unwrap();
            let error = read_record(&file).unwrap_err().to_string();
            assert!(error.contains("record") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn the_table_is_ordered_by_when_stages_were_reached() {
        let spans = [
            span("crx", "planned", 1_000_000, 2_500_000),
            span("crx", "waited", 2_500_000, 9_000_000),
            span("vmm", "VM built", 3_000_000, 4_000_000),
        ];
        let table = table(&spans);
        assert_eq!(
            table,
            "       at ms       took ms  stage\n       \
             1.500         1.500  crx: planned\n       \
             3.000         1.500  vmm: VM built\n       \
             8.000         5.000  crx: waited\n"
        );
    }
}
