//! `linux.seccomp`: the program, run by an interpreter, against the profile, read directly.

use crx_proto::{Seccomp, SockFilter};
use serde_json::{Value, json};

use crate::support::{planned, refused};

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0;
const ENOSYS: u32 = 0x0005_0026;

fn compile(profile: &Value) -> Seccomp {
    planned(&[("/linux/seccomp", profile.clone())]).plan.seccomp.unwrap()
}

/// The program's answer, as the kernel would compute it.
fn run(program: &[SockFilter], architecture: u32, number: u32, args: &[u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => architecture,
        _ => {
            let argument = args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
        }
    };
    let (mut accumulator, mut next) = (0_u32, 0_usize);
    loop {
        let filter = &program[next];
        next += 1;
        let branch = |yes: bool| usize::from(if yes { filter.jt } else { filter.jf });
        match filter.code {
            0x20 => accumulator = word(filter.k),
            0x54 => accumulator &= filter.k,
            0x05 => next += filter.k as usize,
            0x15 => next += branch(accumulator == filter.k),
            0x25 => next += branch(accumulator > filter.k),
            0x35 => next += branch(accumulator >= filter.k),
            0x06 => return filter.k,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

/// The same from the profile's text. `number_of` knows the names that the profile uses.
fn evaluate(profile: &Value, number_of: impl Fn(&str) -> Option<u32>, number: u32, args: &[u64; 6]) -> u32 {
    let action = |object: &Value, name: &str, errno: &str| {
        let data = object[errno].as_u64().unwrap_or(1) as u32;
        match object[name].as_str().unwrap() {
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL,
            "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
            "SCMP_ACT_TRAP" => 0x0003_0000,
            "SCMP_ACT_ERRNO" => 0x0005_0000 | data,
            "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
            "SCMP_ACT_LOG" => 0x7ffc_0000,
            "SCMP_ACT_ALLOW" => ALLOW,
            other => panic!("{other}"),
        }
    };
    let empty = Vec::new();
    let default = action(profile, "defaultAction", "defaultErrnoRet");
    let rules: Vec<(Vec<u32>, &Value)> = profile["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| {
            let names = rule["names"].as_array().unwrap();
            (names.iter().filter_map(|name| number_of(name.as_str().unwrap())).collect(), rule)
        })
        .collect();
    let last = rules.iter().flat_map(|(numbers, _)| numbers).max();
    let lets_through = [ALLOW, 0x7ffc_0000].contains(&default) || default & 0xffff_0000 == 0x7ff0_0000;
    if number >= 0x4000_0000 && number != u32::MAX {
        let is_listed = profile["architectures"].to_string().contains("\"SCMP_ARCH_X32\"");
        return if is_listed { ENOSYS } else { KILL };
    }
    if number == u32::MAX {
        return default;
    }
    if last.is_some_and(|last| number > *last && !lets_through) {
        return ENOSYS;
    }
    let of_call: Vec<&Value> =
        rules.iter().filter(|(numbers, _)| numbers.contains(&number)).map(|(_, rule)| *rule).collect();
    let is_different = |rule: &&&Value| action(rule, "action", "errnoRet") != default;
    let conditions = |rule: &Value| rule["args"].as_array().unwrap_or(&empty).clone();
    if let Some(rule) = of_call.iter().filter(is_different).find(|rule| conditions(rule).is_empty()) {
        return action(rule, "action", "errnoRet");
    }
    let matches = |condition: &Value| {
        let argument = args[condition["index"].as_u64().unwrap() as usize];
        let value = condition["value"].as_u64().unwrap();
        let second = condition["valueTwo"].as_u64().unwrap_or(0);
        match condition["op"].as_str().unwrap() {
            "SCMP_CMP_NE" => argument != value,
            "SCMP_CMP_LT" => argument < value,
            "SCMP_CMP_LE" => argument <= value,
            "SCMP_CMP_EQ" => argument == value,
            "SCMP_CMP_GE" => argument >= value,
            "SCMP_CMP_GT" => argument > value,
            "SCMP_CMP_MASKED_EQ" => argument & value == second & value,
            other => panic!("{other}"),
        }
    };
    let is_met = |rule: &&&Value| {
        let conditions = conditions(rule);
        let mut indexes: Vec<_> = conditions.iter().map(|condition| condition["index"].as_u64()).collect();
        indexes.sort_unstable();
        indexes.dedup();
        if indexes.len() < conditions.len() {
            conditions.iter().any(matches)
        } else {
            conditions.iter().all(matches)
        }
    };
    let rule = of_call.iter().filter(is_different).find(is_met);
    rule.map_or(default, |rule| action(rule, "action", "errnoRet"))
}

/// Every number up to well above the last one and the edges of the number space; for calls with argument rules
/// every mix of these values in the first three arguments.
fn check_all(profile: &Value, number_of: impl Fn(&str) -> Option<u32> + Copy, values: &[u64]) -> usize {
    let program = compile(profile).program;
    let mut with_arguments = Vec::new();
    for rule in profile["syscalls"].as_array().unwrap().iter().filter(|rule| rule["args"].is_array()) {
        let names = rule["names"].as_array().unwrap();
        with_arguments.extend(names.iter().filter_map(|name| number_of(name.as_str().unwrap())));
    }
    let edges = [0x3fff_ffff, 0x4000_0000, 0x4000_0001, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX];
    for number in (0..700).chain(edges) {
        let values = if with_arguments.contains(&number) { values } else { &values[..1] };
        for &first in values {
            for &second in values {
                for &third in values {
                    let args = [first, second, third, third, second, first];
                    let expected = evaluate(profile, number_of, number, &args);
                    let found = run(&program, X86_64, number, &args);
                    assert_eq!(found, expected, "call {number} {args:x?}");
                }
            }
        }
    }
    check_form(&program);
    program.len()
}

/// What the kernel's checker asks for: every jump inside, a return at the end.
fn check_form(program: &[SockFilter]) {
    for (index, filter) in program.iter().enumerate() {
        let furthest = match filter.code {
            0x05 => filter.k as usize,
            0x15 | 0x25 | 0x35 => usize::from(filter.jt.max(filter.jf)),
            _ => 0,
        };
        assert!(index + 1 + furthest < program.len() || filter.code == 0x06, "instruction {index}");
    }
    assert_eq!(program.last().unwrap().code, 0x06);
}

/// Numbers that the tests' profiles use, from linux' syscall_64.tbl.
fn number_of(name: &str) -> Option<u32> {
    let known = [
        ("read", 0),
        ("write", 1),
        ("open", 2),
        ("close", 3),
        ("mmap", 9),
        ("ioctl", 16),
        ("socket", 41),
        ("clone", 56),
        ("personality", 135),
        ("openat", 257),
        ("clone3", 435),
        ("openat2", 437),
    ];
    known.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[test]
fn every_action() {
    let actions = [
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
        ("SCMP_ACT_TRAP", 0x0003_0000),
        ("SCMP_ACT_ERRNO", 0x0005_0007),
        ("SCMP_ACT_TRACE", 0x7ff0_0007),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_ALLOW", ALLOW),
    ];
    for (name, value) in actions {
        let other = if value == ALLOW { "SCMP_ACT_LOG" } else { "SCMP_ACT_ALLOW" };
        for profile in [
            json!({"defaultAction": name, "defaultErrnoRet": 7, "syscalls": [{"names": ["write", "openat2"], "action": other}]}),
            json!({"defaultAction": other, "syscalls": [{"names": ["read", "openat"], "action": name, "errnoRet": 7}]}),
        ] {
            check_all(&profile, number_of, &[0, 1]);
        }
        let profile =
            json!({"defaultAction": other, "syscalls": [{"names": ["read"], "action": name, "errnoRet": 7}]});
        assert_eq!(run(&compile(&profile).program, X86_64, 0, &[0; 6]), value, "{name}");
    }
}

#[test]
fn every_operator_on_both_words() {
    let edges =
        [0, 1, 2, 0xffff_fffe, 0xffff_ffff, 1 << 32, (1 << 32) + 1, 7 << 32 | 5, u64::MAX - 1, u64::MAX];
    for op in ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"] {
        for value in edges {
            for value_two in [0, value, 1 << 32 | 1] {
                let arg = json!({"index": 1, "value": value, "valueTwo": value_two, "op": format!("SCMP_CMP_{op}")});
                let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                    {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [arg]}]});
                let program = compile(&profile).program;
                for argument in edges.into_iter().chain([1 << 33, 0x8000_0000, 7 << 32]) {
                    let args = [9, argument, 9, 9, 9, 9];
                    let expected = evaluate(&profile, number_of, 16, &args);
                    assert_eq!(
                        run(&program, X86_64, 16, &args),
                        expected,
                        "{op} {value:#x} {value_two:#x} {argument:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn rules_of_one_call() {
    let arg = |index: u32, value: u64, op: &str| json!({"index": index, "value": value, "op": format!("SCMP_CMP_{op}")});
    let profile = json!({
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": [arg(0, 16, "EQ"), arg(2, 9, "EQ")]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [arg(2, 9, "NE")]},
            {"names": ["socket"], "action": "SCMP_ACT_LOG", "args": [arg(0, 16, "NE")]},
            // The same argument twice: either is enough.
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 0, "EQ"), arg(0, 8, "EQ")]},
            // Without conditions, wherever it stands, it is the only one.
            {"names": ["ioctl"], "action": "SCMP_ACT_TRAP", "args": [arg(1, 9, "EQ")]},
            {"names": ["ioctl", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["ioctl"], "action": "SCMP_ACT_LOG"},
            // Says the default again: left out.
            {"names": ["mmap"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["mmap"], "action": "SCMP_ACT_ALLOW", "args": [arg(2, 9, "LT"), arg(1, 1 << 32, "GE"), arg(0, 8, "LE")]},
        ]
    });
    check_all(&profile, number_of, &[0, 8, 9, 16, 1 << 32, u64::MAX]);
}

#[test]
fn other_architectures() {
    let profile = |list: Value| {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": list,
               "syscalls": [{"names": ["close"], "action": "SCMP_ACT_ERRNO"}]})
    };
    let answer = |list: Value, architecture, number| {
        run(&compile(&profile(list)).program, architecture, number, &[0; 6])
    };
    let x32 = 0x4000_0000;
    for list in [json!([]), json!(["SCMP_ARCH_X86_64"]), json!(["SCMP_ARCH_AARCH64"])] {
        assert_eq!(
            (answer(list.clone(), I386, 1), answer(list.clone(), X86_64, x32), answer(list, 0, 1)),
            (KILL, KILL, KILL)
        );
    }
    let all = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    assert_eq!(
        (answer(all.clone(), I386, 1), answer(all.clone(), X86_64, x32), answer(all, 0, 1)),
        (ENOSYS, ENOSYS, KILL)
    );
    check_all(&profile(json!(["SCMP_ARCH_X32"])), number_of, &[0, 1]);
}

/// A profile of the shape of the usual default ones: most calls allowed, a few with conditions. The numbers of the
/// allowed calls come from the names, which the crate knows; here they are looked up by asking it one by one.
fn usual_profile() -> Value {
    let names = include_str!("usual_calls.txt").split_whitespace().collect::<Vec<_>>();
    let arg = |index: u32, value: u64, two: u64, op: &str| json!([{"index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")}]);
    let mut syscalls = vec![json!({"names": names, "action": "SCMP_ACT_ALLOW"})];
    for value in [0_u64, 8, 131_072, 131_080, 0xffff_ffff] {
        syscalls.push(
            json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": arg(0, value, 0, "EQ")}),
        );
    }
    syscalls.push(json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": arg(0, 40, 0, "NE")}));
    syscalls.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": arg(0, 2_114_060_288, 0, "MASKED_EQ")}));
    syscalls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": syscalls
    })
}

/// Number of a name, found by the program for that name alone.
fn number_by_program(name: &str) -> Option<u32> {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [name], "action": "SCMP_ACT_TRAP"}]});
    let program = compile(&profile).program;
    (0..600).find(|number| run(&program, X86_64, *number, &[0; 6]) != ALLOW)
}

#[test]
fn a_usual_profile_is_short() {
    let profile = usual_profile();
    let mut numbers = std::collections::HashMap::new();
    for rule in profile["syscalls"].as_array().unwrap() {
        for name in rule["names"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            if !numbers.contains_key(name) {
                numbers.insert(name.to_owned(), number_by_program(name));
            }
        }
    }
    assert!(numbers.values().flatten().count() > 280);
    let values = [0, 8, 131_080, 0xffff_ffff, 40, 0x0002_0000, 1 << 29, 1 << 33, u64::MAX];
    let length = check_all(&profile, |name| numbers.get(name).copied().flatten(), &values);
    // 290 calls allowed, 11 of the rules with conditions; a list of names would take some 1500.
    assert_eq!(length, 105);
}

#[test]
fn long_programs_jump_far() {
    // Every other call allowed: ranges of one, and rules with their own blocks, so that jumps pass 255.
    let mut syscalls = Vec::new();
    let names: Vec<&str> = include_str!("usual_calls.txt").split_whitespace().collect();
    let mut numbers = std::collections::HashMap::new();
    for (index, name) in names.iter().enumerate().step_by(2) {
        numbers.insert((*name).to_owned(), number_by_program(name));
        let args = json!([{"index": index % 3, "value": index, "op": "SCMP_CMP_EQ"}, {"index": (index + 1) % 3, "value": 5, "op": "SCMP_CMP_GT"}]);
        syscalls.push(json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": index, "args": args}));
    }
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls});
    let length = check_all(&profile, |name| numbers.get(name).copied().flatten(), &[2, 4, 8, 60, 1 << 32]);
    assert!(length > 1000, "{length}");
}

#[test]
fn flags() {
    let flags = |flags: Value| {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags, "syscalls": []});
        compile(&profile).flags
    };
    assert_eq!((flags(Value::Null), flags(json!([]))), (4, 0));
    let name = |name: &str| format!("SECCOMP_FILTER_FLAG_{name}");
    assert_eq!(flags(json!([name("TSYNC"), name("LOG"), name("SPEC_ALLOW"), name("WAIT_KILLABLE_RECV")])), 7);
    let nothing = planned(&[("/linux/seccomp", json!({"defaultAction": ""}))]);
    assert_eq!(nothing.plan.seccomp, None);
}

#[test]
fn what_is_refused() {
    let check = |field: &str, value: Value, line: &str| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]});
        let object = match field.strip_prefix("syscalls.") {
            Some(_) => &mut profile["syscalls"][0],
            None => &mut profile,
        };
        object[field.trim_start_matches("syscalls.")] = value;
        assert_eq!(refused(&[("/linux/seccomp", profile)]), format!("config.json: linux.seccomp.{line}"));
    };
    check("defaultAction", Value::Null, "defaultAction: missing");
    check("defaultAction", json!("ALLOW"), "defaultAction: unknown seccomp action \"ALLOW\"");
    check(
        "syscalls.action",
        json!("SCMP_ACT_X"),
        "syscalls[0].action: unknown seccomp action \"SCMP_ACT_X\"",
    );
    let why =
        "seccomp notification is not possible: a listener on the host cannot answer for the pod's kernel";
    check("syscalls.action", json!("SCMP_ACT_NOTIFY"), &format!("syscalls[0].action: {why}"));
    check("listenerPath", json!("/run/x"), &format!("listenerPath: {why}"));
    check("syscalls.names", json!([]), "syscalls[0].names: empty");
    let range = "defaultErrnoRet: expected an integer from 0 to 4095, found 4096";
    check("defaultErrnoRet", json!(4096), range);
    let arch = "architectures[1]: unknown seccomp architecture \"SCMP_ARCH_Z80\"";
    check("architectures", json!(["SCMP_ARCH_X86", "SCMP_ARCH_Z80"]), arch);
    check("flags", json!(["X"]), "flags[0]: unknown seccomp flag \"X\"");
    let op = "syscalls[0].args[0].op: unknown operator \"EQ\"";
    check("syscalls.args", json!([{"index": 0, "value": 0, "op": "EQ"}]), op);
    let index = "syscalls[0].args[0].index: expected an integer from 0 to 5, found 6";
    check("syscalls.args", json!([{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]), index);
    let many: Vec<_> = (0..2000).map(|value| json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]})).collect();
    let line = refused(&[("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": many}))]);
    assert!(
        line.starts_with("config.json: linux.seccomp: needs ")
            && line.ends_with(" instructions; the kernel takes at most 4096"),
        "{line}"
    );
}
