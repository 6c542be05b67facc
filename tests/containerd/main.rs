//! The shim with Debian's containerd, as people use it with `ctr`.
#![allow(clippy::unwrap_used)]

mod faults;
mod life;
mod run;

use crx_fixture::{Containerd, Need, need};

/// containerd with its image, if the host has what that needs.
fn containerd() -> Option<Containerd> {
    need::met(&[Need::Pod, Need::Client("containerd"), Need::Client("ctr")]).then(Containerd::with_image)
}
