//! `crx check`: can this host run pods, and if not, what to do.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;

use super::report;
use crate::runtime::exit;
use crate::runtime::guest_files::GuestFiles;
use crate::runtime::state;

/// How one line of the table ended.
enum Verdict {
    Good(String),
    /// Works, but not as well as it could.
    Note(String),
    Bad(String),
}

use Verdict::{Bad, Good, Note};

pub(super) fn main(global: &super::Arguments) -> anyhow::Result<u8> {
    let root = state::root(global.root.as_deref());
    let table = [
        ("processor", processor()),
        ("/dev/kvm", kvm()),
        ("host profile", Good(crx_vmm::HostProfile::detect().to_string())),
        ("guest files", guest_files(global)),
        ("mount namespace", mount_namespace()),
        ("state directory", state_directory(&root)),
        ("huge pages of KVM", nx_huge_pages()),
    ];
    let mut code = exit::SUCCESS;
    for (what, verdict) in &table {
        let (mark, text) = match verdict {
            Good(text) => ("ok", text),
            Note(text) => ("note", text),
            Bad(text) => {
                code = exit::FAILURE;
                ("FAIL", text)
            }
        };
        report::print(&format!("{what:<18} {mark:<5} {text}"))?;
    }
    let verdict =
        if code == exit::SUCCESS { "this host can run pods" } else { "this host cannot run pods yet" };
    report::print(verdict)?;
    Ok(code)
}

fn processor() -> Verdict {
    if cfg!(target_arch = "x86_64") {
        Good("x86-64".to_owned())
    } else {
        Bad("crx runs on x86-64 only".to_owned())
    }
}

fn kvm() -> Verdict {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Good("can be opened".to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Bad(
            "not there; load the module kvm_intel or kvm_amd, or enable virtualization in the firmware or, inside a VM, nesting"
                .to_owned(),
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Bad("no permission; join the group that owns it (usermod -aG kvm USER) or run as root".to_owned())
        }
        Err(error) => Bad(error.to_string()),
    }
}

fn guest_files(global: &super::Arguments) -> Verdict {
    match GuestFiles::find(global.guest_dir.as_deref()) {
        Ok(files) => Good(format!("{} and {}", files.kernel.display(), files.initramfs.display())),
        Err(error) => Bad(format!("{error:#}")),
    }
}

/// Root may always make one; anybody else needs user namespaces, which some hosts forbid.
fn mount_namespace() -> Verdict {
    if rustix::process::geteuid().is_root() {
        return Good("as root".to_owned());
    }
    match fs::read_to_string("/proc/sys/user/max_user_namespaces") {
        Ok(text) if text.trim() != "0" => Good("in a user namespace".to_owned()),
        _ => Bad("user namespaces are off; set sysctl user.max_user_namespaces or run as root".to_owned()),
    }
}

fn state_directory(root: &std::path::Path) -> Verdict {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    match rustix::fs::access(existing, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Good(root.display().to_string()),
        Err(error) => {
            Bad(format!("{} cannot be written: {error}; choose another with --root", existing.display()))
        }
    }
}

/// With the mitigation on, every new VM waits for a worker of the host's kernel (kvm.nx_huge_pages).
fn nx_huge_pages() -> Verdict {
    match fs::read_to_string("/sys/module/kvm/parameters/nx_huge_pages") {
        Ok(text) if text.trim() == "never" || text.trim() == "N" => Good("not split".to_owned()),
        Ok(text) => Note(format!(
            "kvm.nx_huge_pages={}: starts are slower; kvm.nx_huge_pages=never is safe where guests are trusted or the processor is not affected",
            text.trim()
        )),
        Err(_) => Good("not applicable".to_owned()),
    }
}
