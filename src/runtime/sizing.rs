//! How much memory and how many processors a pod's VM gets.

use anyhow::bail;
use crx_oci::CpuHint;

/// Memory of a VM whose container states no limit.
const DEFAULT_MIB: u32 = 256;
/// What the guest's kernel, PID 1 and page cache need beside a container that uses its limit.
const OVERHEAD_MIB: u32 = 96;
/// Least memory that the guest's kernel boots in with room to run something.
const SMALLEST_MIB: u32 = 64;
/// Most memory of a VM: 1 TiB.
const LARGEST_MIB: u32 = 1 << 20;

/// The VM's memory: what the caller asks for, or the default, or what the container's limit needs.
///
/// # Errors
/// It is too little or too much.
pub(crate) fn memory_mib(asked_mib: Option<u32>, limit_bytes: Option<u64>) -> anyhow::Result<u32> {
    let memory_mib = asked_mib.unwrap_or_else(|| {
        let limit_mib =
            limit_bytes.map_or(0, |bytes| u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX));
        DEFAULT_MIB.max(limit_mib.saturating_add(OVERHEAD_MIB)).min(LARGEST_MIB)
    });
    if memory_mib < SMALLEST_MIB {
        bail!("--memory {memory_mib}: a pod needs at least {SMALLEST_MIB} MiB");
    }
    if memory_mib > LARGEST_MIB {
        bail!("--memory {memory_mib}: a pod can have at most {LARGEST_MIB} MiB");
    }
    Ok(memory_mib)
}

/// Most processors of a VM.
const MOST_VCPUS: u32 = 64;

/// The VM's processors: what the caller asks for, or those that the container's limits can use or name.
pub(crate) fn vcpus(asked: Option<u8>, cpu: CpuHint) -> u8 {
    asked.unwrap_or_else(|| {
        let named = cpu.highest_cpu.map_or(1, |highest| highest.saturating_add(1));
        cpu.quota_cpus.unwrap_or(1).max(named).clamp(1, MOST_VCPUS) as u8
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_limit_fits_into_the_vm_with_the_overhead() {
        assert_eq!(memory_mib(None, None).unwrap(), 256);
        assert_eq!(memory_mib(None, Some(64 << 20)).unwrap(), 256);
        assert_eq!(memory_mib(None, Some((512 << 20) + 1)).unwrap(), 513 + 96);
        assert_eq!(memory_mib(None, Some(u64::MAX)).unwrap(), 1 << 20);
    }

    #[test]
    fn the_caller_decides_within_reason() {
        assert_eq!(memory_mib(Some(128), Some(512 << 20)).unwrap(), 128);
        assert!(memory_mib(Some(16), None).is_err());
        assert!(memory_mib(Some(u32::MAX), None).is_err());
    }

    #[test]
    fn limits_get_the_processors_that_they_can_use() {
        assert_eq!(vcpus(None, CpuHint::default()), 1);
        assert_eq!(vcpus(None, CpuHint { quota_cpus: Some(3), highest_cpu: Some(1) }), 3);
        assert_eq!(vcpus(None, CpuHint { quota_cpus: Some(1), highest_cpu: Some(3) }), 4);
        assert_eq!(vcpus(None, CpuHint { quota_cpus: Some(900), highest_cpu: None }), 64);
        assert_eq!(vcpus(Some(2), CpuHint { quota_cpus: Some(8), highest_cpu: None }), 2);
    }
}
