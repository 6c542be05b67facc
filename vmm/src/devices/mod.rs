//! The devices of a VM: each configuration becomes a device, in the order of the windows. A new device is
//! one folder in crx-virtio, one variant of [`DeviceConfig`], and one line here.

pub(crate) mod attach;
pub(crate) mod platform;
pub(crate) mod serial;

use crx_virtio::VirtioDevice;
use crx_virtio::fs::Fs;
use crx_virtio::net::Net;
use crx_virtio::rng::Rng;
use crx_virtio::vsock::Vsock;

use crate::{DeviceConfig, VmError};

/// Makes a device.
pub(crate) fn create(config: DeviceConfig) -> Result<Box<dyn VirtioDevice>, VmError> {
    Ok(match config {
        DeviceConfig::Fs(config) => Box::new(Fs::new(config)?),
        DeviceConfig::Vsock(config) => Box::new(Vsock::new(config)?),
        DeviceConfig::Rng => Box::new(Rng::new()),
        DeviceConfig::Net(config) => Box::new(Net::new(config)),
    })
}
