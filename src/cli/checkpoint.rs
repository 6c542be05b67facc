//! `crx checkpoint` and `crx restore`: verbs of runc that crx knows and cannot do yet.

use std::path::PathBuf;

use anyhow::bail;

use crate::runtime::state::{self, Container};

/// What both verbs take.
#[derive(clap::Args)]
#[group(skip)]
struct Images {
    /// Directory of the checkpoint
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,
    /// Directory for logs
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// With open TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// With Unix sockets to others
    #[arg(long)]
    ext_unix_sk: bool,
    /// With the terminal's job
    #[arg(long)]
    shell_job: bool,
    /// Load memory when it is used
    #[arg(long)]
    lazy_pages: bool,
    /// With file locks
    #[arg(long)]
    file_locks: bool,
    /// What of cgroups: soft, full or strict
    #[arg(long, value_name = "MODE", value_parser = ["soft", "full", "strict", "ignore"])]
    manage_cgroups_mode: Option<String>,
    /// Namespace that is made anew; may be given several times
    #[arg(long, value_name = "KIND")]
    empty_ns: Vec<String>,
    /// Drop memory from the checkpoint that was loaded
    #[arg(long)]
    auto_dedup: bool,
}

/// Save the state of a running container (not supported yet)
#[derive(clap::Args)]
pub(super) struct Checkpoint {
    #[command(flatten)]
    images: Images,
    /// Directory of an earlier checkpoint
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let the container go on
    #[arg(long)]
    leave_running: bool,
    /// Descriptor to tell when memory can be loaded
    #[arg(long, value_name = "FD", allow_hyphen_values = true)]
    status_fd: Option<i32>,
    /// Server to send memory to
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Save memory only, and let the container go on
    #[arg(long)]
    pre_dump: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Run a container from its saved state (not supported yet)
#[derive(clap::Args)]
pub(super) struct Restore {
    #[command(flatten)]
    images: Images,
    /// Directory with config.json and the root file system
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Socket to send the container's terminal to
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File to write the process ID to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Do not wait for it
    #[arg(short, long)]
    detach: bool,
    /// For compatibility: crx is never a subreaper
    #[arg(long)]
    no_subreaper: bool,
    /// For compatibility: the root file system of a pod needs no pivot_root
    #[arg(long)]
    no_pivot: bool,
    /// For compatibility: does not exist in a pod
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// For compatibility: does not exist in a pod
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn checkpoint(global: &super::Arguments, arguments: &Checkpoint) -> anyhow::Result<u8> {
    Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    bail!("container {:?}: containers cannot be checkpointed yet", arguments.id)
}

pub(super) fn restore(arguments: &Restore) -> anyhow::Result<u8> {
    crx_oci::container_id(&arguments.id)?;
    bail!("container {:?}: containers cannot be restored yet; use run", arguments.id)
}
