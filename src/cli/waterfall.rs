//! Stages as text: one a line, with a bar on a time axis that is as wide as there is place. What is no stage's time is cut
//! out of the axis.

use crate::runtime::timeline::Span;

/// Least length of the axis, in columns; where there is less place for it, lines are longer.
const LEAST_AXIS: usize = 10;
/// Colours of the actors, in the order in which they appear: SGR parameters of ECMA-48.
const COLOURS: [u8; 6] = [36, 33, 31, 32, 35, 34];

/// Renders stages that are in the order in which they began.
pub(super) fn waterfall(spans: &[Span], columns: usize, colours: bool) -> String {
    let width = |heading: &str, text: &dyn Fn(&Span) -> String| {
        let widest = spans.iter().map(|span| text(span).chars().count()).max();
        widest.unwrap_or(0).max(heading.len())
    };
    let (who_width, stage_width) =
        (width("who", &|span| shown(&span.who)), width("stage", &|span| shown(&span.stage)));
    let cells = columns.saturating_sub(10 + 2 + 10 + 2 + who_width + 2 + stage_width + 2).max(LEAST_AXIS);
    let axis = Axis::new(spans, cells);

    let line = |start_ns: u64, duration_ns: u64, who: &str, stage: &str, bar: &str, colour: Option<u8>| {
        let (start, duration) = (milliseconds(start_ns - axis.base_ns), milliseconds(duration_ns));
        let (who, bar) = (format!("{who:<who_width$}"), bar.trim_end());
        let coloured = |text: &str| match colour {
            Some(colour) => format!("\x1b[{colour}m{text}\x1b[39m"),
            None => text.to_owned(),
        };
        let left = format!("{start:>10}  {duration:>10}  {}  {stage:<stage_width$}  ", coloured(&who));
        if bar.is_empty() { format!("{}\n", left.trim_end()) } else { format!("{left}{}\n", coloured(bar)) }
    };

    let mut text = format!("{:>10}  {:>10}  {:<who_width$}  stage\n", "start ms", "ms", "who");
    let mut actors: Vec<&str> = Vec::new();
    let mut gaps = axis.gaps.iter().peekable();
    for span in spans {
        if let Some(gap) = gaps.next_if(|gap| gap.end_ns <= span.start_ns) {
            text += &line(gap.start_ns, gap.end_ns - gap.start_ns, "", "(between commands)", "", None);
        }
        let actor = actors.iter().position(|actor| *actor == span.who).unwrap_or(actors.len());
        if actor == actors.len() {
            actors.push(&span.who);
        }
        let colour = colours.then_some(COLOURS[actor % COLOURS.len()]);
        let (who, stage) = (shown(&span.who), shown(&span.stage));
        text += &line(span.start_ns, span.duration_ns(), &who, &stage, &axis.bar(span), colour);
    }
    text += &format!("{:>10}  {:>10}  in all", "", milliseconds(axis.length_ns));
    if !axis.gaps.is_empty() {
        text +=
            &format!(", and {} between commands", milliseconds(axis.gaps.iter().map(Gap::length_ns).sum()));
    }
    text + "\n"
}

/// Time of no stage.
struct Gap {
    start_ns: u64,
    end_ns: u64,
}

impl Gap {
    fn length_ns(&self) -> u64 {
        self.end_ns - self.start_ns
    }
}

/// Time that some stage took, from left to right.
struct Axis {
    base_ns: u64,
    length_ns: u64,
    gaps: Vec<Gap>,
    cells: usize,
}

impl Axis {
    fn new(spans: &[Span], cells: usize) -> Self {
        let base_ns = spans.first().map_or(0, |span| span.start_ns);
        let mut axis = Self { base_ns, length_ns: 0, gaps: Vec::new(), cells };
        let mut end_ns = base_ns;
        for span in spans {
            if span.start_ns > end_ns {
                axis.gaps.push(Gap { start_ns: end_ns, end_ns: span.start_ns });
            }
            axis.length_ns += span.end_ns.saturating_sub(span.start_ns.max(end_ns));
            end_ns = end_ns.max(span.end_ns);
        }
        axis
    }

    /// The bar of a stage: whole cells, or a thin one for what is shorter than half a cell.
    fn bar(&self, span: &Span) -> String {
        let (start, end) = (self.cell(span.start_ns), self.cell(span.end_ns));
        if start == end {
            format!("{:width$}▏", "", width = start.min(self.cells - 1))
        } else {
            format!("{:start$}{}", "", "█".repeat(end - start))
        }
    }

    /// The border between cells that is nearest to a moment.
    fn cell(&self, ns: u64) -> usize {
        let cut: u64 = self.gaps.iter().map(|gap| ns.min(gap.end_ns).saturating_sub(gap.start_ns)).sum();
        let share = (ns - self.base_ns - cut) as f64 / self.length_ns.max(1) as f64;
        (share * self.cells as f64).round() as usize
    }
}

fn milliseconds(ns: u64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}

/// A name as a terminal may have it.
fn shown(name: &str) -> String {
    name.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(who: &'static str, stage: &'static str, start_us: u64, end_us: u64) -> Span {
        let base_ns = 77_000_000_000;
        Span {
            who: who.into(),
            stage: stage.into(),
            start_ns: base_ns + start_us * 1000,
            end_ns: base_ns + end_us * 1000,
        }
    }

    /// What a launch looks like: created, and 5 seconds later started.
    fn launch() -> Vec<Span> {
        vec![
            span("crx", "container planned", 0, 2_000),
            span("crx", "container awaited", 2_000, 50_000),
            span("vmm", "VM started", 3_000, 10_000),
            span("kernel", "booted", 10_000, 40_000),
            span("container", "made", 40_000, 49_900),
            span("crx", "start awaited", 5_050_000, 5_060_000),
            span("container", "program executed", 5_055_000, 5_059_000),
        ]
    }

    #[test]
    fn a_launch_is_a_waterfall() {
        let expected = "  start ms          ms  who        stage
     0.000       2.000  crx        container planned  █
     2.000      48.000  crx        container awaited   █████████████████████████
     3.000       7.000  vmm        VM started           ███
    10.000      30.000  kernel     booted                  ████████████████
    40.000       9.900  container  made                                    █████
    50.000    5000.000             (between commands)
  5050.000      10.000  crx        start awaited                                █████
  5055.000       4.000  container  program executed                               ██
                60.000  in all, and 5000.000 between commands
";
        assert_eq!(waterfall(&launch(), 85, false), expected);
    }

    #[test]
    fn the_axis_is_as_wide_as_there_is_place() {
        for columns in [0, 40, 80, 200] {
            let text = waterfall(&launch(), columns, false);
            let widest = text.lines().map(|line| line.chars().count()).max();
            // The columns before the axis, and the axis.
            let place = columns.max(10 + 2 + 10 + 2 + 9 + 2 + 17 + 2 + LEAST_AXIS);
            assert_eq!(widest, Some(place), "{columns}\n{text}");
        }
    }

    #[test]
    fn actors_have_colours_on_a_terminal() {
        let text = waterfall(&launch()[..3], 70, true);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "  start ms          ms  who  stage");
        assert_eq!(
            lines[3],
            "     3.000       7.000  \x1b[33mvmm\x1b[39m  VM started         \x1b[33m ███\x1b[39m"
        );
        assert!(lines[1].contains("\x1b[36mcrx\x1b[39m") && lines[2].contains("\x1b[36mcrx\x1b[39m"));
    }

    #[test]
    fn what_takes_no_time_and_what_has_odd_names_is_shown() {
        let text = waterfall(&[span("a\x1b[2J", "b\nc", 0, 0)], 10, false);
        assert_eq!(
            text,
            "  start ms          ms  who         stage\n     \
             0.000       0.000  a\\u{1b}[2J  b\\nc   ▏\n                 \
             0.000  in all\n"
        );
    }
}
