//! Namespaces by path. config.json names those of the host (`/proc/PID/ns/pid`, where PID is what callers take for a
//! container); in the pod they are those of the container's first process there.

use anyhow::bail;
use crx_proto::{Namespace, NamespaceKind};

use super::processes::{FIRST, Processes};

/// Makes the network namespace of the host that the pod's first container names the pod's own: its interfaces are the pod's.
pub(super) fn own_network(namespaces: &mut [Namespace]) {
    for namespace in namespaces.iter_mut().filter(|namespace| namespace.kind == NamespaceKind::Network) {
        namespace.path = None;
    }
}

/// Turns the paths of a container that joins the pod into the pod's own.
///
/// # Errors
/// A path names no container of this pod.
pub(super) fn translate(namespaces: &mut Vec<Namespace>, processes: &Processes) -> anyhow::Result<()> {
    let mut translated = Vec::with_capacity(namespaces.len());
    for (index, Namespace { kind, path }) in namespaces.drain(..).enumerate() {
        let Some(path) = path else {
            translated.push(Namespace { kind, path: None });
            continue;
        };
        let container = host_pid(&path).and_then(|pid| processes.by_host_pid(pid));
        match container {
            // A pod has one network; whatever names a network of the host for a pod's second container means it.
            None if kind == NamespaceKind::Network => {}
            // The first container's are the pod's, which whoever names no namespace of his own has.
            Some((FIRST, _))
                if matches!(kind, NamespaceKind::Network | NamespaceKind::Ipc | NamespaceKind::Uts) => {}
            Some((_, process)) if process.guest_pid.is_some() => {
                let guest_pid = process.guest_pid.unwrap_or_default();
                translated
                    .push(Namespace { kind, path: Some(format!("/proc/{guest_pid}/ns/{}", file(kind))) });
            }
            _ => bail!("linux.namespaces[{index}].path: {path} is not a container of this pod"),
        }
    }
    *namespaces = translated;
    Ok(())
}

/// The process that a path `/proc/PID/ns/KIND` names.
fn host_pid(path: &str) -> Option<u32> {
    path.strip_prefix("/proc/")?.split_once("/ns/")?.0.parse().ok()
}

/// Its name below /proc/PID/ns (namespaces(7)).
fn file(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Pid => "pid",
        NamespaceKind::Network => "net",
        NamespaceKind::Mount => "mnt",
        NamespaceKind::Ipc => "ipc",
        NamespaceKind::Uts => "uts",
        NamespaceKind::User => "user",
        NamespaceKind::Cgroup => "cgroup",
        NamespaceKind::Time => "time",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::hear::LAUNCHER;
    use super::super::processes::{Container, Kind, Phase, Process};
    use super::*;

    fn pod() -> Processes {
        let mut processes = Processes::default();
        for (id, host_pid, guest_pid) in [("first", 1000, 2), ("second", 1001, 40)] {
            let container = Container {
                id: id.to_owned(),
                host_pid,
                volumes: 0,
                paused: false,
                watchers: Vec::new(),
                starters: Vec::new(),
            };
            processes.add(Process {
                kind: Kind::Container(container),
                owner: LAUNCHER,
                phase: Phase::Running,
                guest_pid: Some(guest_pid),
                outputs: 0,
            });
        }
        processes
    }

    fn of(kind: NamespaceKind, path: Option<&str>) -> anyhow::Result<Vec<Namespace>> {
        let mut namespaces = vec![Namespace { kind, path: path.map(str::to_owned) }];
        translate(&mut namespaces, &pod()).map(|()| namespaces)
    }

    #[test]
    fn the_first_container_s_network_is_the_pod_s_whatever_it_names() {
        let named = |kind, path: &str| Namespace { kind, path: Some(path.to_owned()) };
        let mut namespaces =
            [named(NamespaceKind::Network, "/run/netns/cni-1"), named(NamespaceKind::Ipc, "/proc/1/ns/ipc")];
        own_network(&mut namespaces);
        assert_eq!(namespaces[0].path, None);
        assert!(namespaces[1].path.is_some());
    }

    #[test]
    fn the_first_container_s_network_ipc_and_uts_are_the_pod_s() {
        for kind in [NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts] {
            assert_eq!(of(kind, Some("/proc/1000/ns/x")).unwrap(), []);
        }
        assert_eq!(of(NamespaceKind::Network, Some("/run/netns/cni-1")).unwrap(), []);
    }

    #[test]
    fn others_are_found_by_their_process_in_the_pod() {
        let pid = of(NamespaceKind::Pid, Some("/proc/1000/ns/pid")).unwrap();
        assert_eq!(pid[0].path.as_deref(), Some("/proc/2/ns/pid"));
        let ipc = of(NamespaceKind::Ipc, Some("/proc/1001/ns/ipc")).unwrap();
        assert_eq!(ipc[0].path.as_deref(), Some("/proc/40/ns/ipc"));
    }

    #[test]
    fn new_ones_stay_new_and_strange_ones_are_refused() {
        assert_eq!(of(NamespaceKind::Pid, None).unwrap()[0].path, None);
        let error = of(NamespaceKind::Pid, Some("/proc/7/ns/pid")).unwrap_err().to_string();
        assert!(error.contains("linux.namespaces[0].path") && error.contains("/proc/7/ns/pid"), "{error}");
        assert!(of(NamespaceKind::Ipc, Some("/run/ipcns/x")).is_err());
    }
}
