//! The accounting files of a container's cgroup.

use std::fs::{File, read_dir};
use std::io::Read;

use super::Cgroup;
use crate::mounts::Pod;

/// Controllers whose accounting is asked for. `cpu` is not among them: cpu.stat is there without it.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "io"];
/// Files that are given, if they are there; and all that begin with `hugetlb.`.
const FILES: [&str; 15] = [
    "memory.current",
    "memory.peak",
    "memory.max",
    "memory.swap.current",
    "memory.swap.max",
    "memory.stat",
    "memory.events",
    "cpu.stat",
    "pids.current",
    "pids.max",
    "io.stat",
    "cpu.pressure",
    "memory.pressure",
    "io.pressure",
    "pids.peak",
];
/// Most bytes given of one file; what is longer ends with its last whole line below that.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Reads them. The first question enables the controllers that no limit has: from then on each page that is used,
/// each fork and each block request of every container of the pod is counted. Memory that was in use before stays
/// counted above the container, and io.stat and memory.peak begin there.
pub(crate) fn read(cgroup: &mut Cgroup, pod: &Pod) -> Result<Vec<(String, String)>, String> {
    cgroup.account(&CONTROLLERS, pod).map_err(|error| format!("cgroup.subtree_control: {error}"))?;
    let mut names: Vec<String> = FILES.map(str::to_owned).to_vec();
    let entries = read_dir(cgroup.path()).map_err(|error| format!("{}: {error}", cgroup.path()))?;
    names.extend(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| {
        name.starts_with("hugetlb.") && !name.ends_with(".numa_stat") && !name.ends_with(".local")
    }));
    let mut files = Vec::new();
    for name in names {
        match text(&format!("{}/{name}", cgroup.path())) {
            Ok(text) => files.push((name, text)),
            // Its controller is not in this kernel, or the file is not of this controller.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            // Pressure is not measured in this kernel.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
    Ok(files)
}

fn text(path: &str) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == MAX_FILE_BYTES {
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(end);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_cut_after_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "line\n".repeat(20_000)).unwrap();
        let cut = text(file.path().to_str().unwrap()).unwrap();
        assert!(cut.ends_with("line\n") && cut.len() as u64 <= MAX_FILE_BYTES && cut.len() > 60_000);
    }
}
