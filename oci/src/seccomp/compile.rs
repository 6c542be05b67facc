//! A profile to a classic BPF program. Installing one costs the kernel a walk for every system call there is
//! (kernel/seccomp.c, seccomp_cache_prepare), so it is a binary search over ranges of numbers with the same
//! outcome, not a list of names. It is written from its end to its start: a jump only goes forward, so what it
//! leads to is there already.

use crx_proto::SockFilter;

use super::{Action, Comparison, Condition, Profile, RET_ERRNO, Rule, SyscallRules};

/// Longest program that the kernel takes (BPF_MAXINSNS of linux/bpf_common.h).
pub(super) const PROGRAM_MAX: usize = 4096;

/// Instructions of linux/bpf_common.h.
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in struct seccomp_data of linux/seccomp.h; words of arguments are little-endian.
const DATA_NUMBER: u32 = 0;
const DATA_ARCHITECTURE: u32 = 4;
const DATA_ARGUMENTS: u32 = 16;
/// linux/audit.h.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
/// Bit of the number in x32 calls (asm/unistd.h, __X32_SYSCALL_BIT).
const X32_FIRST: u32 = 0x4000_0000;
/// A tracer that skips a call sets its number to -1, which is not one of x32.
const SKIPPED: u32 = u32::MAX;

/// The program of a profile.
pub(super) fn program(profile: &Profile) -> Vec<SockFilter> {
    let mut writer = Writer::default();
    let tree = writer.tree(&ranges(profile), profile.default);
    let number = writer.then_load(DATA_NUMBER, tree);
    let x86 = writer.ret(profile.foreign.x86);
    let other = writer.ret(super::RET_KILL_THREAD);
    let foreign = if x86 == other { other } else { writer.branch(JUMP_EQUAL, AUDIT_ARCH_I386, x86, other) };
    let architecture = writer.branch(JUMP_EQUAL, AUDIT_ARCH_X86_64, number, foreign);
    writer.then_load(DATA_ARCHITECTURE, architecture);
    writer.reversed.reverse();
    writer.reversed
}

/// Numbers from `first` to the next range's with the same outcome.
struct Range {
    first: u32,
    outcome: SyscallRules,
}

/// All numbers, in order.
fn ranges(profile: &Profile) -> Vec<Range> {
    let default = SyscallRules::Always(profile.default);
    let mut ranges: Vec<Range> = Vec::new();
    let mut push = |first: u32, outcome: &SyscallRules| match ranges.last() {
        Some(last) if last.outcome == *outcome => {}
        _ => ranges.push(Range { first, outcome: outcome.clone() }),
    };
    let mut next = 0;
    for (&number, rules) in &profile.rules {
        if number > next {
            push(next, &default);
        }
        push(number, rules);
        next = number + 1;
    }
    if let Some(last) = profile.last {
        if last + 1 > next {
            push(next, &default);
        }
        push(last + 1, &SyscallRules::Always(RET_ERRNO | libc::ENOSYS as u32));
    } else {
        push(next, &default);
    }
    push(X32_FIRST, &SyscallRules::Always(profile.foreign.x32));
    push(SKIPPED, &default);
    ranges
}

/// A place in the program: the index in [`Writer::reversed`].
type Place = usize;

/// The program, last instruction first.
#[derive(Default)]
struct Writer {
    reversed: Vec<SockFilter>,
    /// Blocks of argument rules that are there already.
    blocks: Vec<(Vec<Rule>, Place)>,
}

impl Writer {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Place {
        self.reversed.push(SockFilter { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// Instructions between the next one to be written and a place.
    fn distance(&self, place: Place) -> usize {
        self.reversed.len() - 1 - place
    }

    /// A place that returns this action: one that is there and near enough, or a new one.
    fn ret(&mut self, action: Action) -> Place {
        let is_it = |filter: &SockFilter| filter.code == RETURN && filter.k == action;
        let near = self.reversed.iter().rev().take(usize::from(u8::MAX)).position(is_it);
        match near {
            Some(distance) => self.reversed.len() - 1 - distance,
            None => self.push(RETURN, 0, 0, action),
        }
    }

    /// The place right before the instructions so far that continues at `place`.
    fn adjacent(&mut self, place: Place) {
        let distance = self.distance(place);
        if distance == 0 {
            return;
        }
        match self.reversed.get(place).copied() {
            Some(filter) if filter.code == RETURN => self.push(RETURN, 0, 0, filter.k),
            _ => self.push(JUMP, 0, 0, distance as u32),
        };
    }

    /// `place`, or one nearer that leads to it, such that a conditional jump that is written after one more
    /// instruction still reaches it.
    fn reachable(&mut self, place: Place) -> Place {
        if self.distance(place) + 1 > usize::from(u8::MAX) {
            self.adjacent(place);
            return self.reversed.len() - 1;
        }
        place
    }

    /// A conditional jump on the accumulator.
    fn branch(&mut self, code: u16, value: u32, yes: Place, no: Place) -> Place {
        let yes = self.reachable(yes);
        let no = self.reachable(no);
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(code, jt, jf, value)
    }

    /// Loads a word and goes on at `place`.
    fn then_load(&mut self, offset: u32, place: Place) -> Place {
        self.adjacent(place);
        self.push(LOAD_WORD, 0, 0, offset)
    }

    /// Binary search over ranges, with the number in the accumulator.
    fn tree(&mut self, ranges: &[Range], default: Action) -> Place {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        match (low.is_empty(), high.first()) {
            (false, Some(middle)) => {
                let high = self.tree(high, default);
                let low = self.tree(low, default);
                self.branch(JUMP_GREATER_OR_EQUAL, middle.first, high, low)
            }
            (_, Some(only)) => match &only.outcome {
                SyscallRules::Always(action) => self.ret(*action),
                SyscallRules::First(rules) => self.rules(rules, default),
            },
            (_, None) => self.ret(default),
        }
    }

    /// The first rule whose conditions are met, else the default.
    fn rules(&mut self, rules: &[Rule], default: Action) -> Place {
        if let Some((_, place)) = self.blocks.iter().find(|(other, _)| other == rules) {
            return *place;
        }
        let mut next = self.ret(default);
        for rule in rules.iter().rev() {
            let mut met = self.ret(rule.action);
            for condition in rule.conditions.iter().rev() {
                met = self.condition(condition, met, next);
            }
            next = met;
        }
        self.blocks.push((rules.to_vec(), next));
        next
    }

    /// A comparison of 64 bits in two words, high one first.
    fn condition(&mut self, condition: &Condition, met: Place, unmet: Place) -> Place {
        let low_offset = DATA_ARGUMENTS + 8 * condition.argument;
        let high_offset = low_offset + 4;
        let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
        match condition.comparison {
            Comparison::Equal => self.masked(low_offset, u64::MAX, condition.value, met, unmet),
            Comparison::Masked(mask) => self.masked(low_offset, mask, condition.value, met, unmet),
            Comparison::NotEqual => self.masked(low_offset, u64::MAX, condition.value, unmet, met),
            Comparison::Greater => {
                self.order(JUMP_GREATER, (high_offset, high), (low_offset, low), met, unmet)
            }
            Comparison::GreaterOrEqual => {
                self.order(JUMP_GREATER_OR_EQUAL, (high_offset, high), (low_offset, low), met, unmet)
            }
            Comparison::Less => {
                self.order(JUMP_GREATER_OR_EQUAL, (high_offset, high), (low_offset, low), unmet, met)
            }
            Comparison::LessOrEqual => {
                self.order(JUMP_GREATER, (high_offset, high), (low_offset, low), unmet, met)
            }
        }
    }

    fn masked(&mut self, low_offset: u32, mask: u64, value: u64, yes: Place, no: Place) -> Place {
        let low = self.masked_word(low_offset, mask as u32, value as u32, yes, no);
        self.masked_word(low_offset + 4, (mask >> 32) as u32, (value >> 32) as u32, low, no)
    }

    fn masked_word(&mut self, offset: u32, mask: u32, value: u32, yes: Place, no: Place) -> Place {
        if mask == 0 {
            return yes;
        }
        let mut place = self.branch(JUMP_EQUAL, value, yes, no);
        if mask != u32::MAX {
            place = self.push(AND, 0, 0, mask);
        }
        self.then_load(offset, place)
    }

    /// `code` decides on the low words if the high ones are equal, else a greater high word is a yes.
    fn order(&mut self, code: u16, high: (u32, u32), low: (u32, u32), yes: Place, no: Place) -> Place {
        let decide = self.branch(code, low.1, yes, no);
        let low_word = self.then_load(low.0, decide);
        let equal = self.branch(JUMP_EQUAL, high.1, low_word, no);
        let greater = self.branch(JUMP_GREATER, high.1, yes, equal);
        self.then_load(high.0, greater)
    }
}
