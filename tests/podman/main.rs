//! Podman and buildah with `--runtime`, as people use them. With `CRX_TEST_RUNTIME=runc` and `crun` the same tests run
//! against those.
#![allow(clippy::unwrap_used)]

mod build;
mod exec;
mod life;
mod limits;
mod pods;
mod run;
mod volumes;

use crx_fixture::{Need, Podman, need};

/// Podman with its image, if the host has what that needs.
fn podman() -> Option<Podman> {
    need::met(&[Need::Container, Need::Client("podman")]).then(Podman::with_image)
}
