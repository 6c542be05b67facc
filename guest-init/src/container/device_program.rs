//! Device rules as a BPF program of the cgroup (BPF_PROG_TYPE_CGROUP_DEVICE).
//!
//! The rules are first resolved to a table: for each device that is named, by number or with a wildcard, the
//! access bits that the rules in their order leave allowed. The program is then a chain of comparisons, each of
//! which leads straight to an end. That form is short, and above all it leaves the kernel's verifier nothing to
//! explore twice: rules written one after another, as others do it, cost seconds where guest kernels are slow.

use std::collections::BTreeSet;

use crx_proto::{DeviceKind, DeviceRule};

/// Access bits of linux/bpf.h: mknod, read, write.
const ALL_ACCESS: u32 = 7;
/// Device types of linux/bpf.h.
const BPF_DEVCG_DEV_BLOCK: u32 = 1;
/// Largest device numbers (linux/kdev_t.h: 12 and 20 bits).
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << MINOR_BITS) - 1;
const MINOR_BITS: u32 = 20;

/// Offsets in `struct bpf_cgroup_dev_ctx`.
const CONTEXT_ACCESS_TYPE: i16 = 0;
const CONTEXT_MAJOR: i16 = 4;
const CONTEXT_MINOR: i16 = 8;

/// Opcodes of linux/bpf.h, 32-bit arithmetic and comparisons with an immediate unless the name says otherwise.
mod opcode {
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE: u8 = 0xb4;
    pub(super) const MOVE_REGISTER: u8 = 0xbc;
    pub(super) const AND: u8 = 0x54;
    pub(super) const SHIFT_LEFT: u8 = 0x64;
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    pub(super) const OR_REGISTER: u8 = 0x4c;
    pub(super) const JUMP: u8 = 0x05;
    pub(super) const JUMP_EQUAL: u8 = 0x16;
    pub(super) const EXIT: u8 = 0x95;
}

/// Registers: the result and, before it, the device's number; the context; then what is taken from it.
const RESULT: u8 = 0;
const NUMBER: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const TYPE: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Devices of one kind that a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    Exact(u32, u32),
    AnyMinor(u32),
    AnyMajor(u32),
}

/// What is allowed for the devices of one kind: the first pattern that fits decides, else the default.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    entries: Vec<(Pattern, u32)>,
    default: u32,
}

/// The program for `rules`, as encoded instructions; `None` if they allow everything.
pub(crate) fn build(rules: &[DeviceRule]) -> Option<Vec<u64>> {
    let char_table = Table::resolve(rules, DeviceKind::Char);
    let block_table = Table::resolve(rules, DeviceKind::Block);
    let everything = Table { entries: Vec::new(), default: ALL_ACCESS };
    if char_table == everything && block_table == everything {
        return None;
    }
    let mut program = Program::default();
    program.load_context();
    let to_block = (char_table != block_table).then(|| program.jump_if_equal(TYPE, BPF_DEVCG_DEV_BLOCK));
    program.table(&char_table);
    if let Some(jump) = to_block {
        program.land(jump);
        program.table(&block_table);
    }
    program.ends();
    Some(program.instructions)
}

impl Table {
    /// Resolves the rules for one kind of device.
    fn resolve(rules: &[DeviceRule], kind: DeviceKind) -> Self {
        let rules: Vec<&DeviceRule> = rules
            .iter()
            .filter(|rule| rule.kind.is_none_or(|its| its == kind))
            .filter(|rule| rule.major.is_none_or(|major| major <= MAX_MAJOR))
            .filter(|rule| rule.minor.is_none_or(|minor| minor <= MAX_MINOR))
            .collect();
        let mut exact = BTreeSet::new();
        let mut majors = BTreeSet::new();
        let mut minors = BTreeSet::new();
        for rule in &rules {
            match (rule.major, rule.minor) {
                (Some(major), Some(minor)) => drop(exact.insert((major, minor))),
                (Some(major), None) => drop(majors.insert(major)),
                (None, Some(minor)) => drop(minors.insert(minor)),
                (None, None) => {}
            }
        }
        // Where both wildcards meet, neither pattern alone has the answer.
        exact.extend(majors.iter().flat_map(|major| minors.iter().map(|minor| (*major, *minor))));

        let default = allowed(&rules, None, None);
        let mut entries = Vec::new();
        for (major, minor) in exact {
            let bits = allowed(&rules, Some(major), Some(minor));
            let otherwise = if majors.contains(&major) {
                allowed(&rules, Some(major), None)
            } else if minors.contains(&minor) {
                allowed(&rules, None, Some(minor))
            } else {
                default
            };
            if bits != otherwise {
                entries.push((Pattern::Exact(major, minor), bits));
            }
        }
        for major in majors {
            let bits = allowed(&rules, Some(major), None);
            // With entries for minors below, one for the major must stop the search even if it says the default.
            if bits != default || !minors.is_empty() {
                entries.push((Pattern::AnyMinor(major), bits));
            }
        }
        for minor in minors {
            let bits = allowed(&rules, None, Some(minor));
            if bits != default {
                entries.push((Pattern::AnyMajor(minor), bits));
            }
        }
        Self { entries, default }
    }
}

/// The access bits that are allowed once every rule was applied in its order, from nothing. `None` is a number
/// that no rule names.
fn allowed(rules: &[&DeviceRule], major: Option<u32>, minor: Option<u32>) -> u32 {
    rules
        .iter()
        .filter(|rule| rule.major.is_none() || rule.major == major)
        .filter(|rule| rule.minor.is_none() || rule.minor == minor)
        .fold(0, |bits, rule| if rule.allow { bits | rule.access } else { bits & !rule.access })
        & ALL_ACCESS
}

/// A program under construction.
#[derive(Default)]
struct Program {
    instructions: Vec<u64>,
    /// Jumps to the end that checks the access against these bits.
    to_ends: Vec<(usize, u32)>,
}

impl Program {
    fn push(&mut self, code: u8, target: u8, source: u8, offset: i16, immediate: u32) -> usize {
        let registers = u64::from(target | source << 4);
        let offset = u64::from(offset as u16);
        self.instructions.push(u64::from(code) | registers << 8 | offset << 16 | u64::from(immediate) << 32);
        self.instructions.len() - 1
    }

    /// Takes access, type, major, minor, and major and minor as one number from the context.
    fn load_context(&mut self) {
        self.push(opcode::LOAD_WORD, ACCESS, CONTEXT, CONTEXT_ACCESS_TYPE, 0);
        self.push(opcode::LOAD_WORD, MAJOR, CONTEXT, CONTEXT_MAJOR, 0);
        self.push(opcode::LOAD_WORD, MINOR, CONTEXT, CONTEXT_MINOR, 0);
        self.push(opcode::MOVE_REGISTER, TYPE, ACCESS, 0, 0);
        self.push(opcode::AND, TYPE, 0, 0, 0xffff);
        self.push(opcode::SHIFT_RIGHT, ACCESS, 0, 0, 16);
        self.push(opcode::MOVE_REGISTER, NUMBER, MAJOR, 0, 0);
        self.push(opcode::SHIFT_LEFT, NUMBER, 0, 0, MINOR_BITS);
        self.push(opcode::OR_REGISTER, NUMBER, MINOR, 0, 0);
    }

    fn jump_if_equal(&mut self, register: u8, value: u32) -> usize {
        self.push(opcode::JUMP_EQUAL, register, 0, 0, value)
    }

    /// Makes the jump at `from` lead to the next instruction.
    fn land(&mut self, from: usize) {
        let distance = (self.instructions.len() - from - 1) as u16;
        self.instructions[from] |= u64::from(distance) << 16;
    }

    /// The comparisons of one table.
    fn table(&mut self, table: &Table) {
        for (pattern, bits) in &table.entries {
            let (register, value) = match *pattern {
                Pattern::Exact(major, minor) => (NUMBER, major << MINOR_BITS | minor),
                Pattern::AnyMinor(major) => (MAJOR, major),
                Pattern::AnyMajor(minor) => (MINOR, minor),
            };
            let jump = self.jump_if_equal(register, value);
            self.to_ends.push((jump, *bits));
        }
        let jump = self.push(opcode::JUMP, 0, 0, 0, 0);
        self.to_ends.push((jump, table.default));
    }

    /// One end for each set of allowed bits.
    fn ends(&mut self) {
        let jumps = std::mem::take(&mut self.to_ends);
        for bits in 0..=ALL_ACCESS {
            if !jumps.iter().any(|(_, its)| *its == bits) {
                continue;
            }
            for (jump, _) in jumps.iter().filter(|(_, its)| *its == bits) {
                self.land(*jump);
            }
            if bits == 0 || bits == ALL_ACCESS {
                self.push(opcode::MOVE, RESULT, 0, 0, u32::from(bits != 0));
            } else {
                self.push(opcode::AND, ACCESS, 0, 0, ALL_ACCESS & !bits);
                self.push(opcode::MOVE, RESULT, 0, 0, 1);
                let allowed = self.jump_if_equal(ACCESS, 0);
                self.push(opcode::MOVE, RESULT, 0, 0, 0);
                self.land(allowed);
            }
            self.push(opcode::EXIT, 0, 0, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[u64], kind: DeviceKind, major: u32, minor: u32, access: u32) -> bool {
        let kind = if kind == DeviceKind::Block { 1 } else { 2 };
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u32; 11];
        let mut at = 0;
        loop {
            let instruction = program[at];
            at += 1;
            let target = (instruction >> 8 & 0xf) as usize;
            let source = (instruction >> 12 & 0xf) as usize;
            let offset = (instruction >> 16) as i16;
            let immediate = (instruction >> 32) as u32;
            match instruction as u8 {
                opcode::LOAD_WORD => registers[target] = context[offset as usize / 4],
                opcode::MOVE => registers[target] = immediate,
                opcode::MOVE_REGISTER => registers[target] = registers[source],
                opcode::AND => registers[target] &= immediate,
                opcode::SHIFT_LEFT => registers[target] <<= immediate,
                opcode::SHIFT_RIGHT => registers[target] >>= immediate,
                opcode::OR_REGISTER => registers[target] |= registers[source],
                opcode::JUMP => at += offset as usize,
                opcode::JUMP_EQUAL if registers[target] == immediate => at += offset as usize,
                opcode::JUMP_EQUAL => {}
                opcode::EXIT => return registers[0] != 0,
                other => panic!("unknown opcode {other:#x}"),
            }
        }
    }

    /// The meaning of the rules, bit by bit: the last rule that matches decides, and nothing is allowed before.
    fn expected(rules: &[DeviceRule], kind: DeviceKind, major: u32, minor: u32, access: u32) -> bool {
        [1, 2, 4].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            rules
                .iter()
                .rev()
                .find(|rule| {
                    rule.access & bit != 0
                        && rule.kind.is_none_or(|its| its == kind)
                        && rule.major.is_none_or(|its| its == major)
                        && rule.minor.is_none_or(|its| its == minor)
                })
                .is_some_and(|rule| rule.allow)
        })
    }

    fn rule(
        allow: bool,
        kind: Option<DeviceKind>,
        major: Option<u32>,
        minor: Option<u32>,
        access: u32,
    ) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, access }
    }

    /// What runc and its callers always ask for.
    fn usual() -> Vec<DeviceRule> {
        let char = Some(DeviceKind::Char);
        let mut rules = vec![rule(false, None, None, None, 7)];
        rules.push(rule(true, char, None, None, 1));
        rules.push(rule(true, Some(DeviceKind::Block), None, None, 1));
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
            rules.push(rule(true, char, Some(major), Some(minor), 7));
        }
        rules.push(rule(true, char, Some(136), None, 7));
        rules
    }

    fn agree(rules: &[DeviceRule], majors: &[u32], minors: &[u32]) {
        let program = build(rules);
        for kind in [DeviceKind::Char, DeviceKind::Block] {
            for &major in majors {
                for &minor in minors {
                    for access in 1..=7 {
                        let got =
                            program.as_ref().is_none_or(|program| run(program, kind, major, minor, access));
                        let want = expected(rules, kind, major, minor, access);
                        assert_eq!(got, want, "{kind:?} {major}:{minor} access {access}\n{rules:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_usual_rules_mean_what_they_say_and_are_short() {
        agree(&usual(), &[0, 1, 5, 136, 137, 4095], &[0, 1, 3, 8, 9, 77]);
        assert!(build(&usual()).is_some_and(|program| program.len() <= 32));
    }

    #[test]
    fn rules_that_allow_everything_need_no_program() {
        assert!(build(&[rule(false, None, None, None, 7), rule(true, None, None, None, 7)]).is_none());
        assert!(build(&[rule(true, None, None, None, 3)]).is_some());
    }

    #[test]
    fn no_rules_allow_nothing() {
        agree(&[], &[0, 1], &[0, 1]);
    }

    #[test]
    fn arbitrary_rules_agree_with_their_meaning() {
        let numbers = [None, Some(0), Some(1), Some(2), Some(MAX_MAJOR + 1), Some(MAX_MINOR + 1)];
        let kinds = [None, Some(DeviceKind::Char), Some(DeviceKind::Block), Some(DeviceKind::Fifo)];
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 33) as usize % below
        };
        for _ in 0..2000 {
            let rules: Vec<DeviceRule> = (0..next(9))
                .map(|_| {
                    rule(next(2) == 0, kinds[next(4)], numbers[next(6)], numbers[next(6)], next(8) as u32)
                })
                .collect();
            agree(&rules, &[0, 1, 2, 3], &[0, 1, 2, 3]);
        }
    }
}
