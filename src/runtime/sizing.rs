//! How much memory and how many processors a pod's VM gets: what the command line says, or else the sandbox's
//! annotations, or else the limits of its first container.
//!
//! | annotation                             | means                                                            |
//! |----------------------------------------|------------------------------------------------------------------|
//! | `dev.crx.memory-mib`                   | memory of the VM in MiB, as `--memory`                           |
//! | `dev.crx.vcpus`                        | its virtual processors, as `--vcpus`                             |
//! | `io.kubernetes.cri.sandbox-memory`     | memory limits of all containers together, in bytes               |
//! | `io.kubernetes.cri.sandbox-cpu-quota`, `-period` | their processor time, in microseconds, and of how many |

use anyhow::{Context, bail};
use crx_oci::CpuHint;

use super::channel::Annotations;

/// The annotations, in the order of the table above.
pub(crate) const ANNOTATIONS: [&str; 5] =
    [MEMORY, VCPUS, SANDBOX_MEMORY, SANDBOX_CPU_QUOTA, SANDBOX_CPU_PERIOD];
const MEMORY: &str = "dev.crx.memory-mib";
const VCPUS: &str = "dev.crx.vcpus";
const SANDBOX_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
const SANDBOX_CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const SANDBOX_CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";

/// Memory of a VM whose container states no limit.
const DEFAULT_MIB: u32 = 256;
/// What the guest's kernel, PID 1 and page cache need beside a container that uses its limit.
const OVERHEAD_MIB: u32 = 96;
/// Least memory that the guest's kernel boots in with room to run something.
const SMALLEST_MIB: u32 = 64;
/// Most memory of a VM: 1 TiB.
const LARGEST_MIB: u32 = 1 << 20;

/// The VM's memory.
///
/// # Errors
/// It is too little or too much, or an annotation is no number.
pub(crate) fn memory_mib(
    asked_mib: Option<u32>,
    annotations: &Annotations,
    limit_bytes: Option<u64>,
) -> anyhow::Result<u32> {
    let (asked_mib, name) = match (asked_mib, number(annotations, MEMORY)?) {
        (Some(mib), _) => (Some(mib), "--memory".to_owned()),
        (None, Some(mib)) => (Some(u32::try_from(mib).unwrap_or(u32::MAX)), format!("annotations: {MEMORY}")),
        (None, None) => (None, "--memory".to_owned()),
    };
    // A sandbox without limits says 0, or less.
    let sandbox = number(annotations, SANDBOX_MEMORY)?;
    let sandbox_bytes = sandbox.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    let memory_mib = asked_mib.unwrap_or_else(|| {
        let limit_mib = sandbox_bytes
            .or(limit_bytes)
            .map_or(0, |bytes| u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX));
        DEFAULT_MIB.max(limit_mib.saturating_add(OVERHEAD_MIB)).min(LARGEST_MIB)
    });
    if memory_mib < SMALLEST_MIB {
        bail!("{name} {memory_mib}: a pod needs at least {SMALLEST_MIB} MiB");
    }
    if memory_mib > LARGEST_MIB {
        bail!("{name} {memory_mib}: a pod can have at most {LARGEST_MIB} MiB");
    }
    Ok(memory_mib)
}

/// Most processors of a VM.
const MOST_VCPUS: u32 = 64;

/// The VM's processors.
///
/// # Errors
/// An annotation is no number, or one that cannot be.
pub(crate) fn vcpus(asked: Option<u8>, annotations: &Annotations, cpu: CpuHint) -> anyhow::Result<u8> {
    if let Some(vcpus) = asked {
        return Ok(vcpus);
    }
    if let Some(vcpus) = number(annotations, VCPUS)? {
        let vcpus = u8::try_from(vcpus).ok().filter(|vcpus| (1..=MOST_VCPUS as u8).contains(vcpus));
        return vcpus
            .with_context(|| format!("annotations: {VCPUS}: a pod has 1 to {MOST_VCPUS} processors"));
    }
    let quota_us = number(annotations, SANDBOX_CPU_QUOTA)?.filter(|quota| *quota > 0);
    let period_us = number(annotations, SANDBOX_CPU_PERIOD)?.filter(|period| *period > 0);
    let sandbox = quota_us
        .zip(period_us)
        .map(|(quota, period)| u32::try_from((quota - 1) / period + 1).unwrap_or(MOST_VCPUS));
    let named = cpu.highest_cpu.map_or(1, |highest| highest.saturating_add(1));
    Ok(sandbox.or(cpu.quota_cpus).unwrap_or(1).max(named).clamp(1, MOST_VCPUS) as u8)
}

/// The number that an annotation has.
fn number(annotations: &Annotations, name: &str) -> anyhow::Result<Option<i64>> {
    let parse = |text: &String| {
        text.trim().parse().ok().with_context(|| format!("annotations: {name}: {text:?} is not a number"))
    };
    annotations.get(name).map(parse).transpose()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_limit_fits_into_the_vm_with_the_overhead() {
        let of_limit = |limit| memory_mib(None, &of(&[]), limit).unwrap();
        assert_eq!(of_limit(None), 256);
        assert_eq!(of_limit(Some(64 << 20)), 256);
        assert_eq!(of_limit(Some((512 << 20) + 1)), 513 + 96);
        assert_eq!(of_limit(Some(u64::MAX)), 1 << 20);
    }

    #[test]
    fn the_caller_decides_within_reason() {
        assert_eq!(memory_mib(Some(128), &of(&[]), Some(512 << 20)).unwrap(), 128);
        assert!(memory_mib(Some(16), &of(&[]), None).is_err());
        assert!(memory_mib(Some(u32::MAX), &of(&[]), None).is_err());
    }

    #[test]
    fn annotations_decide_where_the_caller_does_not() {
        let own = of(&[("dev.crx.memory-mib", "384"), ("dev.crx.vcpus", "3")]);
        assert_eq!(memory_mib(None, &own, Some(1 << 30)).unwrap(), 384);
        assert_eq!(memory_mib(Some(512), &own, None).unwrap(), 512);
        assert_eq!(vcpus(None, &own, CpuHint::default()).unwrap(), 3);
        let sandbox = of(&[
            ("io.kubernetes.cri.sandbox-memory", "1073741824"),
            ("io.kubernetes.cri.sandbox-cpu-quota", "150000"),
            ("io.kubernetes.cri.sandbox-cpu-period", "100000"),
        ]);
        assert_eq!(memory_mib(None, &sandbox, None).unwrap(), 1024 + 96);
        assert_eq!(vcpus(None, &sandbox, CpuHint::default()).unwrap(), 2);
        let none =
            of(&[("io.kubernetes.cri.sandbox-memory", "0"), ("io.kubernetes.cri.sandbox-cpu-quota", "0")]);
        assert_eq!(memory_mib(None, &none, None).unwrap(), 256);
        assert_eq!(vcpus(None, &none, CpuHint::default()).unwrap(), 1);
    }

    #[test]
    fn annotations_that_cannot_be_are_named() {
        let error = memory_mib(None, &of(&[("dev.crx.memory-mib", "much")]), None).unwrap_err().to_string();
        assert_eq!(error, "annotations: dev.crx.memory-mib: \"much\" is not a number");
        let error = memory_mib(None, &of(&[("dev.crx.memory-mib", "5")]), None).unwrap_err().to_string();
        assert!(error.starts_with("annotations: dev.crx.memory-mib 5: "), "{error}");
        for vcpu_count in ["0", "65", "-1"] {
            assert!(vcpus(None, &of(&[("dev.crx.vcpus", vcpu_count)]), CpuHint::default()).is_err());
        }
    }

    #[test]
    fn limits_get_the_processors_that_they_can_use() {
        let of_hint = |asked, quota_cpus, highest_cpu| {
            vcpus(asked, &of(&[]), CpuHint { quota_cpus, highest_cpu }).unwrap()
        };
        assert_eq!(of_hint(None, None, None), 1);
        assert_eq!(of_hint(None, Some(3), Some(1)), 3);
        assert_eq!(of_hint(None, Some(1), Some(3)), 4);
        assert_eq!(of_hint(None, Some(900), None), 64);
        assert_eq!(of_hint(Some(2), Some(8), None), 2);
    }
}
