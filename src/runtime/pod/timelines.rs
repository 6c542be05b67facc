//! What the pod knows of its containers' launches: its own stages, and the guest's on the host's clock.

use std::collections::BTreeMap;

use crx_proto::{ProcessId, Stage};

use super::processes::FIRST;
use crate::runtime::timeline::{Span, Track, monotonic_ns};

/// Most stages that are kept of what the guest says of a container; a launch has ten.
const MAX_STAGES: usize = 32;

/// The timelines of a pod's containers.
pub(super) struct Timelines {
    /// When the VM had not been started yet: what the guest did before, its template did.
    born_ns: u64,
    /// Host's minus guest's CLOCK_MONOTONIC, in nanoseconds: the least that a stage's way to the host took.
    offset_ns: i128,
    containers: BTreeMap<ProcessId, Timeline>,
}

/// What nobody was told yet of a container's launch.
struct Timeline {
    spans: Vec<Span>,
    guest: Vec<Mark>,
    /// Stages that the guest said so far.
    stages: usize,
    /// When the guest's next stage begins: when its last one ended, or when it was told to go on.
    guest_ns: u64,
}

/// Something that divides what the guest does into stages.
enum Mark {
    /// It was told to go on: CLOCK_MONOTONIC of the host, in nanoseconds.
    Told(u64),
    /// It reached a stage: its own CLOCK_MONOTONIC.
    Reached(Stage, u64),
}

impl Timelines {
    /// Of a pod whose VM was started in this track's last stage.
    pub(super) fn new(vmm: Track) -> Self {
        let born_ns = vmm.spans().last().map_or(0, |span| span.start_ns);
        let mut timelines = Self { born_ns, offset_ns: i128::MAX, containers: BTreeMap::new() };
        let first = timelines.containers.entry(FIRST).or_insert_with(|| Timeline::new(vmm.last_ns()));
        first.spans = vmm.into_spans();
        timelines
    }

    /// Adds what the VMM process did for a container.
    pub(super) fn add(&mut self, container: ProcessId, vmm: Track) {
        let began_ns = vmm.last_ns();
        let timeline = self.containers.entry(container).or_insert_with(|| Timeline::new(began_ns));
        timeline.spans.extend(vmm.into_spans());
    }

    /// PID 1, which is there, is told to go on with a container.
    pub(super) fn told(&mut self, container: ProcessId) {
        if let Some(timeline) = self.containers.get_mut(&container) {
            timeline.guest.push(Mark::Told(monotonic_ns()));
        }
    }

    /// The guest reached a stage, of the pod's boot if it names no container.
    pub(super) fn reached(&mut self, container: Option<ProcessId>, stage: Stage, guest_ns: u64) {
        self.heard(container, stage, guest_ns, monotonic_ns());
    }

    fn heard(&mut self, container: Option<ProcessId>, stage: Stage, guest_ns: u64, heard_ns: u64) {
        self.offset_ns = self.offset_ns.min(i128::from(heard_ns) - i128::from(guest_ns));
        if let Some(timeline) = self.containers.get_mut(&container.unwrap_or(FIRST))
            && timeline.stages < MAX_STAGES
        {
            timeline.stages += 1;
            timeline.guest.push(Mark::Reached(stage, guest_ns));
        }
    }

    /// Takes what nobody was told yet.
    pub(super) fn take(&mut self, container: ProcessId) -> Vec<Span> {
        let (born_ns, offset_ns) = (self.born_ns, self.offset_ns);
        let Some(timeline) = self.containers.get_mut(&container) else { return Vec::new() };
        let mut spans = std::mem::take(&mut timeline.spans);
        for mark in std::mem::take(&mut timeline.guest) {
            let (stage, at_ns) = match mark {
                Mark::Told(ns) => (None, ns),
                Mark::Reached(stage, ns) => {
                    (Some(stage), u64::try_from(i128::from(ns) + offset_ns).unwrap_or(0))
                }
            };
            if at_ns < born_ns {
                continue;
            }
            let began_ns = timeline.guest_ns;
            // A word may have been on its way when the next one was said.
            timeline.guest_ns = began_ns.max(at_ns);
            if let Some(stage) = stage {
                let (who, what) = name(stage);
                spans.push(Span::new(who, what, began_ns, timeline.guest_ns));
            }
        }
        spans
    }

    /// Forgets a container.
    pub(super) fn remove(&mut self, container: ProcessId) {
        self.containers.remove(&container);
    }
}

impl Timeline {
    fn new(guest_ns: u64) -> Self {
        Self { spans: Vec::new(), guest: Vec::new(), stages: 0, guest_ns }
    }
}

/// Who was at a stage of the guest, and what was reached.
fn name(stage: Stage) -> (&'static str, &'static str) {
    match stage {
        Stage::Init => ("kernel", "booted"),
        Stage::Resumed => ("kernel", "moment passed"),
        Stage::Connected => ("init", "connected to the host"),
        Stage::Mounted => ("init", "file systems mounted"),
        Stage::Planned => ("init", "plan received"),
        Stage::Shared => ("init", "share mounted"),
        Stage::Cgroup => ("init", "cgroup made"),
        Stage::Cloned => ("init", "process cloned"),
        Stage::Made => ("container", "made"),
        Stage::Executed => ("container", "program executed"),
        Stage::Ended => ("container", "ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: ProcessId = ProcessId(2);

    /// A pod whose VM was started, and when.
    fn started() -> (Timelines, u64) {
        let mut vmm = Track::new("vmm");
        vmm.reached("VM built");
        vmm.reached("VM started");
        let at_ns = vmm.last_ns();
        (Timelines::new(vmm), at_ns)
    }

    /// As "who: what", and nanoseconds since `base_ns`.
    fn seen(spans: &[Span], base_ns: u64) -> Vec<(String, u64, u64)> {
        let seen = |span: &Span| {
            (format!("{}: {}", span.who, span.stage), span.start_ns - base_ns, span.end_ns - base_ns)
        };
        spans.iter().map(seen).collect()
    }

    fn names(spans: &[Span]) -> Vec<String> {
        spans.iter().map(|span| format!("{}: {}", span.who, span.stage)).collect()
    }

    #[test]
    fn the_guest_s_stages_follow_each_other_on_the_host_s_clock() {
        let (mut timelines, base_ns) = started();
        // The guest's clock is 100 behind; 30, 10 and 20 pass until the host hears.
        for (stage, guest_ns, way_ns) in
            [(Stage::Init, 900, 30), (Stage::Connected, 1000, 10), (Stage::Mounted, 1700, 20)]
        {
            timelines.heard(None, stage, guest_ns, base_ns + guest_ns + 100 + way_ns);
        }
        let spans = timelines.take(FIRST);
        assert_eq!(names(&spans[..2]), ["vmm: VM built", "vmm: VM started"]);
        let expected = [
            ("kernel: booted".to_owned(), 0, 1010),
            ("init: connected to the host".to_owned(), 1010, 1110),
            ("init: file systems mounted".to_owned(), 1110, 1810),
        ];
        assert_eq!(seen(&spans[2..], base_ns), expected);
        assert!(timelines.take(FIRST).is_empty(), "it is told once");
        // A word that was faster than all before does not make time run backwards.
        timelines.heard(Some(FIRST), Stage::Planned, 1702, base_ns + 1802);
        assert_eq!(seen(&timelines.take(FIRST), base_ns), [("init: plan received".to_owned(), 1810, 1810)]);
    }

    #[test]
    fn what_the_guest_did_in_its_template_is_left_out() {
        let (mut timelines, base_ns) = started();
        let long_ago_ns = 1_000_000_000;
        timelines.heard(None, Stage::Init, 5_000_000_000 - long_ago_ns, base_ns + 7);
        timelines.heard(None, Stage::Connected, 5_000_000_000, base_ns + 9);
        let spans = timelines.take(FIRST);
        let expected = [("init: connected to the host".to_owned(), 0, 9)];
        assert_eq!(seen(&spans[2..], base_ns), expected);
    }

    #[test]
    fn the_time_until_somebody_starts_a_container_belongs_to_no_stage() {
        let (mut timelines, base_ns) = started();
        timelines.heard(Some(FIRST), Stage::Made, 0, base_ns + 1);
        assert_eq!(seen(&timelines.take(FIRST)[2..], base_ns), [("container: made".to_owned(), 0, 1)]);
        timelines.told(FIRST);
        let told_ns = monotonic_ns();
        timelines.heard(Some(FIRST), Stage::Executed, 1 << 40, base_ns + 1 + (1 << 40));
        let spans = timelines.take(FIRST);
        assert_eq!(names(&spans), ["container: program executed"]);
        assert!((base_ns + 2..=told_ns).contains(&spans[0].start_ns), "{spans:?}");
    }

    #[test]
    fn each_container_has_its_own_and_what_is_not_known_has_none() {
        let (mut timelines, _) = started();
        let mut vmm = Track::new("vmm");
        vmm.reached("files shared");
        timelines.add(SECOND, vmm);
        timelines.reached(Some(SECOND), Stage::Planned, 0);
        timelines.reached(Some(ProcessId(3)), Stage::Planned, 0);
        assert_eq!(names(&timelines.take(SECOND)), ["vmm: files shared", "init: plan received"]);
        assert_eq!(names(&timelines.take(FIRST)), ["vmm: VM built", "vmm: VM started"]);
        assert!(timelines.take(ProcessId(3)).is_empty());
        timelines.remove(SECOND);
        timelines.reached(Some(SECOND), Stage::Ended, 0);
        assert!(timelines.take(SECOND).is_empty());
    }

    #[test]
    fn a_guest_that_says_too_much_is_not_listened_to() {
        let (mut timelines, _) = started();
        let mut kept = 0;
        for _ in 0..10 {
            (0..MAX_STAGES).for_each(|_| timelines.reached(None, Stage::Init, 0));
            kept += timelines.take(FIRST).len();
        }
        assert_eq!(kept, 2 + MAX_STAGES);
        // Nor are clocks believed that cannot be.
        let (mut timelines, _) = started();
        timelines.reached(None, Stage::Init, u64::MAX);
        timelines.reached(None, Stage::Connected, 0);
        assert!(timelines.take(FIRST).iter().all(|span| span.end_ns <= monotonic_ns()));
    }
}
