//! The register table of virtio-mmio as data (virtio 1.2, 4.2.2), without I/O: an offset and a direction
//! become a [`Register`] or nothing. `mmio.rs` gives each register its meaning.

use virtio_bindings::virtio_mmio as spec;

/// Size of a device's window: the registers, then the configuration space.
pub const WINDOW_BYTES: u64 = 0x1000;

/// Offset of QueueNotify, where the VMM puts its ioeventfds (virtio 1.2, 4.2.2).
pub const QUEUE_NOTIFY_OFFSET: u64 = spec::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// Offset of the device's configuration space (virtio 1.2, 4.2.2).
pub(crate) const CONFIG_OFFSET: u64 = spec::VIRTIO_MMIO_CONFIG as u64;

/// MagicValue: "virt" (virtio 1.2, 4.2.2).
pub(crate) const MAGIC: u32 = 0x7472_6976;

/// Version of the register layout; 2 is the only modern one (virtio 1.2, 4.2.2).
pub(crate) const VERSION: u32 = 2;

/// VendorID: "CRX". Drivers only show it.
pub(crate) const VENDOR: u32 = 0x0058_5243;

/// A register of the modern layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    MagicValue,
    Version,
    DeviceId,
    VendorId,
    DeviceFeatures,
    DeviceFeaturesSel,
    DriverFeatures,
    DriverFeaturesSel,
    QueueSel,
    QueueNumMax,
    QueueNum,
    QueueReady,
    QueueNotify,
    InterruptStatus,
    InterruptAck,
    Status,
    QueueDescLow,
    QueueDescHigh,
    QueueDriverLow,
    QueueDriverHigh,
    QueueDeviceLow,
    QueueDeviceHigh,
    ShmSel,
    ShmLenLow,
    ShmLenHigh,
    ShmBaseLow,
    ShmBaseHigh,
    ConfigGeneration,
}

/// What the driver may do with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    fn allows(self, wanted: Self) -> bool {
        self == wanted || self == Self::ReadWrite
    }
}

/// Every register: offset, name, access (virtio 1.2, table 4.1).
const TABLE: [(u32, Register, Access); 28] = [
    (spec::VIRTIO_MMIO_MAGIC_VALUE, Register::MagicValue, Access::Read),
    (spec::VIRTIO_MMIO_VERSION, Register::Version, Access::Read),
    (spec::VIRTIO_MMIO_DEVICE_ID, Register::DeviceId, Access::Read),
    (spec::VIRTIO_MMIO_VENDOR_ID, Register::VendorId, Access::Read),
    (spec::VIRTIO_MMIO_DEVICE_FEATURES, Register::DeviceFeatures, Access::Read),
    (spec::VIRTIO_MMIO_DEVICE_FEATURES_SEL, Register::DeviceFeaturesSel, Access::Write),
    (spec::VIRTIO_MMIO_DRIVER_FEATURES, Register::DriverFeatures, Access::Write),
    (spec::VIRTIO_MMIO_DRIVER_FEATURES_SEL, Register::DriverFeaturesSel, Access::Write),
    (spec::VIRTIO_MMIO_QUEUE_SEL, Register::QueueSel, Access::Write),
    (spec::VIRTIO_MMIO_QUEUE_NUM_MAX, Register::QueueNumMax, Access::Read),
    (spec::VIRTIO_MMIO_QUEUE_NUM, Register::QueueNum, Access::Write),
    (spec::VIRTIO_MMIO_QUEUE_READY, Register::QueueReady, Access::ReadWrite),
    (spec::VIRTIO_MMIO_QUEUE_NOTIFY, Register::QueueNotify, Access::Write),
    (spec::VIRTIO_MMIO_INTERRUPT_STATUS, Register::InterruptStatus, Access::Read),
    (spec::VIRTIO_MMIO_INTERRUPT_ACK, Register::InterruptAck, Access::Write),
    (spec::VIRTIO_MMIO_STATUS, Register::Status, Access::ReadWrite),
    (spec::VIRTIO_MMIO_QUEUE_DESC_LOW, Register::QueueDescLow, Access::Write),
    (spec::VIRTIO_MMIO_QUEUE_DESC_HIGH, Register::QueueDescHigh, Access::Write),
    (spec::VIRTIO_MMIO_QUEUE_AVAIL_LOW, Register::QueueDriverLow, Access::Write),
    (spec::VIRTIO_MMIO_QUEUE_AVAIL_HIGH, Register::QueueDriverHigh, Access::Write),
    (spec::VIRTIO_MMIO_QUEUE_USED_LOW, Register::QueueDeviceLow, Access::Write),
    (spec::VIRTIO_MMIO_QUEUE_USED_HIGH, Register::QueueDeviceHigh, Access::Write),
    (spec::VIRTIO_MMIO_SHM_SEL, Register::ShmSel, Access::Write),
    (spec::VIRTIO_MMIO_SHM_LEN_LOW, Register::ShmLenLow, Access::Read),
    (spec::VIRTIO_MMIO_SHM_LEN_HIGH, Register::ShmLenHigh, Access::Read),
    (spec::VIRTIO_MMIO_SHM_BASE_LOW, Register::ShmBaseLow, Access::Read),
    (spec::VIRTIO_MMIO_SHM_BASE_HIGH, Register::ShmBaseHigh, Access::Read),
    (spec::VIRTIO_MMIO_CONFIG_GENERATION, Register::ConfigGeneration, Access::Read),
];

/// The register at `offset` if it may be accessed like this.
pub(crate) fn find(offset: u64, access: Access) -> Option<Register> {
    TABLE
        .iter()
        .find(|(at, _, allowed)| u64::from(*at) == offset && allowed.allows(access))
        .map(|(_, register, _)| *register)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_aligned_and_below_the_configuration_space() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(TABLE.iter().all(|(at, ..)| at % 4 == 0 && u64::from(*at) < CONFIG_OFFSET));
    }

    #[test]
    fn direction_decides() {
        assert_eq!(find(0x000, Access::Read), Some(Register::MagicValue));
        assert_eq!(find(0x000, Access::Write), None);
        assert_eq!(find(0x050, Access::Write), Some(Register::QueueNotify));
        assert_eq!(find(0x050, Access::Read), None);
        assert_eq!(find(0x070, Access::Read), Some(Register::Status));
        assert_eq!(find(0x070, Access::Write), Some(Register::Status));
    }

    #[test]
    fn unaligned_legacy_and_unknown_offsets_are_nothing() {
        for offset in [0x001, 0x002, 0x028, 0x03c, 0x040, 0x071, 0x0c0, 0x0f8, 0x100, u64::MAX] {
            assert_eq!(find(offset, Access::Read), None, "{offset:#x}");
            assert_eq!(find(offset, Access::Write), None, "{offset:#x}");
        }
    }
}
