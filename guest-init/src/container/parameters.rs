//! Kernel parameters (`linux.sysctl`). /proc/sys shows those of the namespaces of whoever opens a file there.

use crx_proto::{Plan, StartError};

use crate::failure::failed;

/// Sets the plan's kernel parameters, of the namespaces that this process is in. The pod's /proc is mounted.
pub(crate) fn set(plan: &Plan) -> Result<(), StartError> {
    for (name, value) in &plan.sysctl {
        let path = path(name);
        std::fs::write(&path, value).map_err(|error| {
            failed(format_args!("linux.sysctl[\"{name}\"]"), format_args!("write {path}"), error)
        })?;
    }
    Ok(())
}

/// The file of a kernel parameter. As sysctl(8) has it, the first separator decides: after a slash, dots belong to
/// names (`net/ipv4/conf/eth0.1/forwarding`); after a dot, slashes do.
fn path(name: &str) -> String {
    let first = name.find(['.', '/']);
    let swap = first.is_some_and(|at| name.as_bytes()[at] == b'.');
    let name: String = name
        .chars()
        .map(|c| match c {
            '.' if swap => '/',
            '/' if swap => '.',
            c => c,
        })
        .collect();
    format!("/proc/sys/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kernel_parameters_become_files() {
        assert_eq!(path("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding"), "/proc/sys/net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding"), "/proc/sys/net/ipv4/conf/eth0.1/forwarding");
    }
}
