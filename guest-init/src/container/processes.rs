//! The processes of a container, as ps(1) shows them: from its cgroup and /proc.

use std::fs::File;
use std::io::Read;

use crx_proto::ProcessInfo;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::Cgroup;
use crate::mounts::Pod;

/// Clock ticks of /proc per second (USER_HZ of x86).
const TICKS_PER_S: u64 = 100;
const NS_PER_S: u64 = 1_000_000_000;
/// Most bytes of a command line that are given.
const MAX_COMMAND_BYTES: u64 = 4 << 10;
/// Most bytes of the other files of a process.
const MAX_FILE_BYTES: u64 = 16 << 10;

/// Lists them, by their IDs.
pub(crate) fn list(cgroup: &Cgroup, pod: &mut Pod) -> Result<Vec<ProcessInfo>, String> {
    pod.need_proc().map_err(|error| format!("mount proc: {error}"))?;
    let mut pids = cgroup.members().map_err(|error| format!("cgroup.procs: {error}"))?;
    pids.sort_unstable();
    pids.dedup();
    let booted_ns = booted_ns();
    // A process that has ended meanwhile is left out.
    Ok(pids.into_iter().filter_map(|pid| info(pid, booted_ns)).collect())
}

/// When the pod was booted, in nanoseconds since the epoch.
fn booted_ns() -> u64 {
    let ns = |time: Timespec| time.tv_sec as u64 * NS_PER_S + time.tv_nsec as u64;
    ns(clock_gettime(ClockId::Realtime)).saturating_sub(ns(clock_gettime(ClockId::Boottime)))
}

fn info(pid: u32, booted_ns: u64) -> Option<ProcessInfo> {
    let read = |name: &str, limit| {
        let mut bytes = Vec::new();
        File::open(format!("/proc/{pid}/{name}")).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let stat = Stat::parse(&read("stat", MAX_FILE_BYTES)?)?;
    Some(ProcessInfo {
        uid: effective_uid(&read("status", MAX_FILE_BYTES)?)?,
        pid,
        parent_pid: stat.parent_pid,
        started_ns: booted_ns + stat.started_ticks * (NS_PER_S / TICKS_PER_S),
        terminal: terminal(stat.terminal),
        cpu_time_ms: stat.cpu_ticks * (1000 / TICKS_PER_S),
        command: command(&read("cmdline", MAX_COMMAND_BYTES)?, &stat.name),
    })
}

/// What is used of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent_pid: u32,
    terminal: u32,
    cpu_ticks: u64,
    started_ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name is in parentheses and may itself have any of these characters.
        let (start, end) = (text.find('(')?, text.rfind(')')?);
        let name = text.get(start + 1..end)?.to_owned();
        // The first field after the name is number 3.
        let fields: Vec<&str> = text.get(end + 1..)?.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let terminal = fields.get(7 - 3)?.parse::<i32>().ok()? as u32;
        Some(Self {
            name,
            parent_pid: number(4)? as u32,
            terminal,
            cpu_ticks: number(14)? + number(15)?,
            started_ticks: number(22)?,
        })
    }
}

/// The second number of the line `Uid:` of /proc/PID/status.
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The name of a terminal by its device number (Documentation/admin-guide/devices.txt), as /proc/PID/stat has it:
/// major number in bits 8 to 19, minor in 0 to 7 and 20 to 31.
fn terminal(number: u32) -> String {
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
    match major {
        0 => String::new(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor >= 64 => format!("ttyS{}", minor - 64),
        4 => format!("tty{minor}"),
        5 if minor == 1 => "console".to_owned(),
        _ => format!("{major}:{minor}"),
    }
}

/// Program and arguments; the process's name in brackets if it has none.
fn command(line: &str, name: &str) -> String {
    let line = line.trim_end_matches('\0');
    if line.is_empty() { format!("[{name}]") } else { line.replace('\0', " ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let text = "7 (a) b (c)) S 3 7 7 34816 9 4194304 1 2 3 4 150 50 0 0 20 0 1 0 4711 1000 5 18446744073709551615";
        let expected = Stat {
            name: "a) b (c)".to_owned(),
            parent_pid: 3,
            terminal: 34816,
            cpu_ticks: 200,
            started_ticks: 4711,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 3"), None);
        assert_eq!(Stat::parse(")("), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn terminals_have_names() {
        assert_eq!(terminal(0), "");
        assert_eq!(terminal(34816), "pts/0");
        assert_eq!(terminal(136 << 8 | 3 << 20 | 5), "pts/773");
        assert_eq!(terminal(4 << 8 | 64), "ttyS0");
        assert_eq!(terminal(4 << 8 | 1), "tty1");
        assert_eq!(terminal(5 << 8 | 1), "console");
    }

    #[test]
    fn the_effective_user_counts() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n"), Some(2));
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }

    #[test]
    fn a_command_line_has_spaces_for_nuls() {
        assert_eq!(command("sh\0-c\0true\0", "sh"), "sh -c true");
        assert_eq!(command("", "kworker"), "[kworker]");
    }

    #[test]
    fn this_process_is_described() {
        let info = info(std::process::id(), booted_ns()).unwrap();
        assert_eq!(info.uid, rustix::process::geteuid().as_raw());
        assert!(info.command.contains("crx_guest_init"), "{info:?}");
        let now_ns =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        assert!(info.started_ns <= now_ns, "{info:?}");
    }
}
