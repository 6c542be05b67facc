//! `crx features`: what this runtime understands, as the runtime specification's `features.md` has it.

use serde_json::json;

use super::launching::SANDBOX_ANNOTATIONS;
use crate::runtime::network::rates;
use crate::runtime::{exit, sizing};

pub(super) fn main() -> anyhow::Result<u8> {
    let sandbox = SANDBOX_ANNOTATIONS.iter().flat_map(|(kind, sandbox)| [*kind, *sandbox]);
    let mut unsafe_annotations: Vec<&str> =
        sandbox.chain(sizing::ANNOTATIONS).chain(rates::ANNOTATIONS).collect();
    unsafe_annotations.sort_unstable();
    let annotations = json!({ "dev.crx.version": env!("CARGO_PKG_VERSION") });
    super::report::print(&format!("{:#}", crx_oci::features(&annotations, &unsafe_annotations)))?;
    Ok(exit::SUCCESS)
}
