//! The timeline of a launch: what each of its actors did from when to when, host and guest on one clock, the host's
//! CLOCK_MONOTONIC.
//!
//! Every process keeps its own stages in memory; they come together at the launcher ([`super::launch`]). Nothing here knows which
//! actors and stages there are: both are names.

use std::borrow::Cow;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::log;

/// One stage of a launch.
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
