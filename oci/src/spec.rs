//! The configuration that `crx spec` writes: byte for byte what `runc spec` of runc 1.1 writes, so that
//! scripts that edit it keep working.

/// Version of the runtime specification that this crate was written to.
pub const SPEC_VERSION: &str = "1.2.0";

/// A config.json that runs `sh` on a terminal in `rootfs`.
#[must_use]
pub fn default_spec() -> &'static str {
    include_str!("default_config.json")
}
