//! `delete`: what containerd runs for a container whose shim died or did not come up. Its processes died with the shim, or are
//! killed here; afterwards nothing of it is left.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;

use crate::args::Arguments;
use crate::bootstrap::ADDRESS_FILE;
use crate::{events, rootfs, serve};

/// The exit status of what was killed.
const KILLED: u32 = 128 + 9;

/// Cleans up, and prints how the container ended.
///
/// # Errors
/// Something of it cannot be removed.
pub(crate) fn main(arguments: &Arguments) -> anyhow::Result<()> {
    let bundle = match &arguments.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().context("cannot find the bundle")?,
    };
    let service = serve::service(&arguments.namespace);
    let pid = service.pid(&arguments.id).unwrap_or(0);
    service.delete(&arguments.id, true)?;
    rootfs::unmount(&bundle.join("rootfs"))?;
    if let Ok(address) = fs::read_to_string(bundle.join(ADDRESS_FILE)) {
        let socket = Path::new(address.trim_start_matches("unix://"));
        // That of a pod is others' as well, while its shim lives.
        if UnixStream::connect(socket).is_err() {
            let _ = fs::remove_file(socket);
        }
    }
    let response = DeleteResponse {
        pid,
        exit_status: KILLED,
        exited_at: events::timestamp(SystemTime::now()),
        ..Default::default()
    };
    Ok(std::io::stdout().write_all(&response.write_to_bytes()?)?)
}
