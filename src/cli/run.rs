//! `crx run`: open the bundle, plan the container, launch it. Next: `runtime::launch`.

use std::path::PathBuf;

use anyhow::Context;

use crate::runtime::channel::Launch;
use crate::runtime::guest_files::GuestFiles;
use crate::runtime::launch::{self, Request};
use crate::runtime::timeline::Stamp;
use crate::runtime::{sizing, state, terminal};

/// Create and run a container, and wait for it
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Name of the container, unique on this host
    #[arg(value_name = "ID")]
    id: String,
    /// Directory with config.json and the root file system
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// File to write the process ID to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Print at the end when the launch reached what, on stderr
    #[arg(long)]
    timing: bool,
    /// Show the pod's kernel console on stderr
    #[arg(long)]
    debug_console: bool,
    /// Virtual processors of the pod [default: 1, or what linux.resources.cpu can use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    vcpus: Option<u8>,
    /// Memory of the pod in MiB [default: 256, or what linux.resources.memory.limit needs]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let mut stamps = vec![Stamp::now("crx: started")];
    let bundle = crx_oci::Bundle::open(&arguments.bundle)?;
    let mut planned = crx_oci::plan(&bundle, &arguments.id)?;
    for warning in &planned.warnings {
        eprintln!("crx: warning: {warning}");
    }
    if let Some(size) = planned.plan.process.terminal.as_mut().filter(|size| **size == (0, 0)) {
        *size = terminal::size();
    }
    let guest = GuestFiles::find(global.guest_dir.as_deref())?;
    stamps.push(Stamp::now("crx: container planned"));
    launch::run(Request {
        id: arguments.id.clone(),
        root: state::root(global.root.as_deref()),
        bundle: arguments.bundle.canonicalize().context("cannot find the bundle again")?,
        pid_file: arguments.pid_file.clone(),
        annotations: planned.annotations,
        timing: arguments.timing,
        launch: Launch {
            memory_mib: sizing::memory_mib(arguments.memory, planned.memory_limit_bytes)?,
            plan: planned.plan,
            rootfs: planned.rootfs,
            volumes: planned.volumes,
            kernel: guest.kernel,
            initramfs: guest.initramfs,
            vcpus: sizing::vcpus(arguments.vcpus, planned.cpu),
            debug_console: arguments.debug_console,
            state_dir: PathBuf::new(),
        },
        stamps,
    })
}
