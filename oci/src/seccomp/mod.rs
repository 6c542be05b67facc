//! `linux.seccomp`: names to a [`Profile`] of numbers, with libseccomp's and runc's meaning of every rule.
//! `compile.rs` makes the program of it, `syscalls.rs` has the names.

mod compile;
mod syscalls;

use std::collections::BTreeMap;

use crx_proto::Seccomp;

use crate::error::{SpecError, quote};
use crate::json::Field;

/// Why there is no SCMP_ACT_NOTIFY. The listener is a process of the host that gets a descriptor of the filter, looks
/// into the memory of the caller by its process ID and answers with ioctls: the filter, the memory and the process ID
/// are those of the pod's kernel.
const NO_NOTIFICATION: &str =
    "seccomp notification is not possible: a listener on the host cannot answer for the pod's kernel";
/// SECCOMP_RET_* of linux/seccomp.h.
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
/// SECCOMP_FILTER_FLAG_* of linux/seccomp.h.
const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;
/// Largest error number that a system call can return (MAX_ERRNO of linux/err.h).
const ERRNO_MAX: u32 = 4095;
/// Largest value that a tracer is given (SECCOMP_RET_DATA).
const TRACE_MAX: u32 = 0xffff;
/// Arguments of a system call.
const ARGUMENT_MAX: u32 = 5;

/// The actions; errno and trace have data besides.
pub(crate) const ACTIONS: [(&str, u32); 8] = [
    ("SCMP_ACT_KILL", RET_KILL_THREAD),
    ("SCMP_ACT_KILL_THREAD", RET_KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", RET_KILL_PROCESS),
    ("SCMP_ACT_TRAP", RET_TRAP),
    ("SCMP_ACT_ERRNO", RET_ERRNO),
    ("SCMP_ACT_TRACE", RET_TRACE),
    ("SCMP_ACT_LOG", RET_LOG),
    ("SCMP_ACT_ALLOW", RET_ALLOW),
];
/// The operators; the mask is the condition's own.
const OPERATORS: [(&str, Comparison); 7] = [
    ("SCMP_CMP_NE", Comparison::NotEqual),
    ("SCMP_CMP_LT", Comparison::Less),
    ("SCMP_CMP_LE", Comparison::LessOrEqual),
    ("SCMP_CMP_EQ", Comparison::Equal),
    ("SCMP_CMP_GE", Comparison::GreaterOrEqual),
    ("SCMP_CMP_GT", Comparison::Greater),
    ("SCMP_CMP_MASKED_EQ", Comparison::Masked(0)),
];
/// Architectures that a profile may name; only x86's have calls here.
pub(crate) const ARCHITECTURES: [&str; 23] = [
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];
/// The flags and their bits for seccomp(2).
pub(crate) const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", FLAG_TSYNC),
    ("SECCOMP_FILTER_FLAG_LOG", FLAG_LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", FLAG_SPEC_ALLOW),
    // About the waiting for a listener's answer; the kernel refuses it without a listener.
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 0),
];

/// The names of the operators.
pub(crate) fn operator_names() -> impl Iterator<Item = &'static str> {
    OPERATORS.iter().map(|(name, _)| *name)
}

/// What a filter returns: a SECCOMP_RET_* value with its data.
type Action = u32;

/// A profile with everything looked up.
#[derive(Debug)]
struct Profile {
    /// For what no rule names.
    default: Action,
    /// For calls of the other ABIs of the processor: 32-bit ones and x32.
    foreign: Foreign,
    /// By number.
    rules: BTreeMap<u32, SyscallRules>,
    /// Above this number calls do not exist for the profile's author and fail with ENOSYS, so that programs fall
    /// back to older ones; `None` if the default lets calls through.
    last: Option<u32>,
}

/// What calls of another ABI get: the guest kernel has neither of them, so those that the profile lists fail as
/// that kernel lets them fail, and those that it does not list end the thread, as with libseccomp.
#[derive(Clone, Copy, Debug)]
struct Foreign {
    x86: Action,
    x32: Action,
}

/// The rules of one system call.
#[derive(Clone, Debug, PartialEq)]
enum SyscallRules {
    /// Always the same, whatever the arguments.
    Always(Action),
    /// The first whose conditions are all met; else the default.
    First(Vec<Rule>),
}

/// Conditions, all of which have to be met, and what then happens.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    conditions: Vec<Condition>,
    action: Action,
}

/// A comparison of one argument.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Condition {
    argument: u32,
    comparison: Comparison,
    value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal after this mask.
    Masked(u64),
}

/// The program of `linux.seccomp`, if there is one.
pub(crate) fn seccomp(linux: &Field<'_>) -> Result<Option<Seccomp>, SpecError> {
    let Some(field) = linux.get("seccomp")? else { return Ok(None) };
    let syscalls = field.list("syscalls")?;
    // As runc: neither a default nor a rule is no profile.
    if syscalls.is_empty() && field.opt_string("defaultAction")?.is_none_or(str::is_empty) {
        return Ok(None);
    }
    for name in ["listenerPath", "listenerMetadata"] {
        if let Some(listener) = field.get(name)?.filter(Field::is_filled) {
            return Err(listener.error(NO_NOTIFICATION));
        }
    }
    let profile = profile(&field, &syscalls)?;
    let program = compile::program(&profile);
    if program.len() > compile::PROGRAM_MAX {
        let (length, max) = (program.len(), compile::PROGRAM_MAX);
        return Err(field.error(format!("needs {length} instructions; the kernel takes at most {max}")));
    }
    Ok(Some(Seccomp { flags: flags(&field)?, program }))
}

fn profile(field: &Field<'_>, syscalls: &[Field<'_>]) -> Result<Profile, SpecError> {
    let default = action(field, "defaultAction", "defaultErrnoRet")?;
    let table = syscalls::table();
    let mut rules: BTreeMap<u32, SyscallRules> = BTreeMap::new();
    let mut last = None;
    for entry in syscalls {
        let names = entry.strings("names")?;
        if names.is_empty() {
            return Err(entry.child_error("names", "empty"));
        }
        let action = action(entry, "action", "errnoRet")?;
        let alternatives = alternatives(entry)?;
        // Names that this processor has not are passed over, as libseccomp does.
        for number in names.iter().filter_map(|name| table.get(name).copied()) {
            last = last.max(Some(number));
            // As runc: what only says the default again is left out, even where it would come before others.
            if action != default {
                add(
                    rules.entry(number).or_insert_with(|| SyscallRules::First(Vec::new())),
                    action,
                    &alternatives,
                );
            }
        }
    }
    let lets_through = matches!(default & 0xffff_0000, RET_ALLOW | RET_LOG | RET_TRACE);
    Ok(Profile { default, foreign: foreign(field)?, rules, last: last.filter(|_| !lets_through) })
}

/// Adds a rule of a call. Without conditions it is the call's only one, whatever else there is, and the first such
/// stays: so libseccomp has it.
fn add(rules: &mut SyscallRules, action: Action, alternatives: &[Vec<Condition>]) {
    let SyscallRules::First(list) = rules else { return };
    if alternatives.is_empty() {
        *rules = SyscallRules::Always(action);
        return;
    }
    list.extend(alternatives.iter().map(|conditions| Rule { conditions: conditions.clone(), action }));
}

/// The conditions of an entry: one set of which all have to be met, unless an argument appears twice; then each
/// condition alone is enough, as runc reads it.
fn alternatives(entry: &Field<'_>) -> Result<Vec<Vec<Condition>>, SpecError> {
    let conditions: Vec<Condition> = entry.list("args")?.iter().map(condition).collect::<Result<_, _>>()?;
    if conditions.is_empty() {
        return Ok(Vec::new());
    }
    let is_repeated = |(index, condition): (usize, &Condition)| {
        conditions.iter().take(index).any(|other| other.argument == condition.argument)
    };
    if conditions.iter().enumerate().any(is_repeated) {
        return Ok(conditions.into_iter().map(|condition| vec![condition]).collect());
    }
    Ok(vec![conditions])
}

fn condition(field: &Field<'_>) -> Result<Condition, SpecError> {
    let argument = field.require("index")?.unsigned_to(ARGUMENT_MAX)?;
    let value = field.require("value")?.unsigned()?;
    let value_two = field.opt_unsigned("valueTwo")?.unwrap_or(0);
    let op = field.require("op")?;
    let name = op.string()?;
    let Some((_, comparison)) = OPERATORS.iter().find(|(known, _)| *known == name) else {
        return Err(op.error(format!("unknown operator {}", quote(name))));
    };
    Ok(match comparison {
        // Bits outside of the mask are not compared, as in libseccomp.
        Comparison::Masked(_) => {
            Condition { argument, comparison: Comparison::Masked(value), value: value_two & value }
        }
        comparison => Condition { argument, comparison: *comparison, value },
    })
}

fn action(object: &Field<'_>, name: &str, errno_name: &str) -> Result<Action, SpecError> {
    let field = object.require(name)?;
    let data = |max| object.opt_unsigned_to(errno_name, max).map(|value| value.unwrap_or(libc::EPERM as u32));
    let value = field.string()?;
    if value == "SCMP_ACT_NOTIFY" {
        return Err(field.error(NO_NOTIFICATION));
    }
    match ACTIONS.iter().find(|(known, _)| *known == value) {
        Some((_, RET_ERRNO)) => Ok(RET_ERRNO | data(ERRNO_MAX)?),
        Some((_, RET_TRACE)) => Ok(RET_TRACE | data(TRACE_MAX)?),
        Some((_, action)) => Ok(*action),
        None => Err(field.error(format!("unknown seccomp action {}", quote(value)))),
    }
}

/// `architectures`. The machine's own is always filtered, as with libseccomp.
fn foreign(field: &Field<'_>) -> Result<Foreign, SpecError> {
    let mut foreign = Foreign { x86: RET_KILL_THREAD, x32: RET_KILL_THREAD };
    for architecture in field.list("architectures")? {
        let name = architecture.string()?;
        match name {
            "SCMP_ARCH_X86" => foreign.x86 = RET_ERRNO | libc::ENOSYS as u32,
            "SCMP_ARCH_X32" => foreign.x32 = RET_ERRNO | libc::ENOSYS as u32,
            _ if ARCHITECTURES.contains(&name) => {}
            _ => return Err(architecture.error(format!("unknown seccomp architecture {}", quote(name)))),
        }
    }
    Ok(foreign)
}

fn flags(field: &Field<'_>) -> Result<u32, SpecError> {
    // As runc: no list at all is SPEC_ALLOW, an empty one is none.
    if field.get("flags")?.is_none() {
        return Ok(FLAG_SPEC_ALLOW);
    }
    let mut flags = 0;
    for flag in field.list("flags")? {
        let name = flag.string()?;
        match FLAGS.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => flags |= value,
            None => return Err(flag.error(format!("unknown seccomp flag {}", quote(name)))),
        }
    }
    Ok(flags)
}
