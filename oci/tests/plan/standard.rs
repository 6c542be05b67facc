//! What PID 1 makes before it knows of a container is what `crx spec` asks for: otherwise nothing of it would ever be used.

use crx_proto::{Namespace, NamespaceKind, standard};

use crate::support::planned;

#[test]
fn the_default_configuration_is_the_standard_container() {
    let plan = planned(&[]).plan;
    let standard = standard();
    assert_eq!(plan.mounts, standard.mounts);
    assert_eq!(plan.devices, standard.devices);
    assert_eq!(plan.masked_paths, standard.masked_paths);
    assert_eq!(plan.readonly_paths, standard.readonly_paths);
    assert_eq!(plan.cgroup, standard.cgroup);
    let of_pod = [NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts];
    let own = plan.namespaces.iter().filter(|namespace| !of_pod.contains(&namespace.kind));
    let sorted = |namespaces: Vec<&Namespace>| {
        let mut kinds: Vec<_> = namespaces.iter().map(|namespace| namespace.kind as u8).collect();
        kinds.sort_unstable();
        kinds
    };
    assert_eq!(sorted(own.collect()), sorted(standard.namespaces.iter().collect()));
}
