//! `linux.resources`: the numbers of cgroup v1, in which the specification is written, to cgroup v2's, with
//! the conversions and checks of runc 1.1.

use std::collections::BTreeMap;

use crx_proto::{Cgroup, CpuLimits, Device, HugetlbLimit, IoDeviceLimit, IoLimits, MemoryLimits};

use crate::devices;
use crate::error::{SpecError, quote};
use crate::json::Field;

/// "max" in the plan.
const MAX: u64 = u64::MAX;
/// Lowest memory limit. The kernel charges a cgroup in batches of 64 pages (MEMCG_CHARGE_BATCH), 256 KiB, for
/// each CPU, and a process needs a stack, page tables and the pages of its binary before its first instruction:
/// below this exec itself runs out of memory.
const MEMORY_MIN_BYTES: i64 = 1 << 20;
/// Range of cgroup v1's cpu.shares (MIN_SHARES and MAX_SHARES of kernel/sched/sched.h).
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
/// Range of a CPU period and least quota (kernel/sched/core.c, min_cfs_quota_period and max_cfs_quota_period).
const CPU_PERIOD_US: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
const CPU_QUOTA_MIN_US: i64 = 1_000;
const CPU_PERIOD_DEFAULT_US: u64 = 100_000;
/// Highest processor or memory node number that is taken for meant (NR_CPUS_RANGE_END of arch/x86/Kconfig).
const CPUSET_MAX: u32 = 8191;
/// Range of cgroup v1's blkio.weight.
const BLKIO_WEIGHT: std::ops::RangeInclusive<u64> = 10..=1000;

/// What the limits ask of the pod's processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuHint {
    /// Processors that the CPU quota can use, rounded up.
    pub quota_cpus: Option<u32>,
    /// Highest processor number that `cpus` names.
    pub highest_cpu: Option<u32>,
}

/// The limits of the container.
pub(crate) fn cgroup(
    linux: Option<&Field<'_>>,
    devices: &[Device],
    warnings: &mut Vec<String>,
) -> Result<Cgroup, SpecError> {
    let resources = linux.map(|linux| linux.get("resources")).transpose()?.flatten();
    let Some(resources) = resources else { return Ok(Cgroup::default()) };
    let mut ignored = Vec::new();
    let limits = limits(&resources, &mut ignored)?;
    warnings.extend(ignored.into_iter().map(|text| format!("config.json: {text}")));
    Ok(Cgroup { devices: devices::rules(&resources, devices)?, ..limits })
}

/// The limits of a resources object, without its device rules.
pub(crate) fn limits(resources: &Field<'_>, warnings: &mut Vec<String>) -> Result<Cgroup, SpecError> {
    if let Some(rdma) = resources.get("rdma")?.filter(Field::is_filled) {
        return Err(rdma.error("a pod has no RDMA devices"));
    }
    for (section, names) in [
        ("memory", &["kernel", "kernelTCP", "swappiness", "disableOOMKiller"][..]),
        ("cpu", &["realtimeRuntime", "realtimePeriod"]),
        ("blockIO", &["leafWeight", "weightDevice"]),
        ("network", &["classID", "priorities"]),
    ] {
        ignore(resources, section, names, warnings)?;
    }
    Ok(Cgroup {
        memory: resources
            .get("memory")?
            .map_or_else(|| Ok(MemoryLimits::default()), |field| memory(&field))?,
        cpu: resources.get("cpu")?.map_or_else(|| Ok(CpuLimits::default()), |field| cpu(&field))?,
        pids_max: resources.get("pids")?.map(|pids| pids_max(&pids)).transpose()?.flatten(),
        io: resources.get("blockIO")?.map_or_else(|| Ok(IoLimits::default()), |field| io(&field))?,
        hugetlb: hugetlb(resources)?,
        devices: Vec::new(),
        unified: unified(resources)?,
    })
}

/// Settings that cgroup v2 has not: runc passes over them as well.
fn ignore(
    resources: &Field<'_>,
    section: &str,
    names: &[&str],
    warnings: &mut Vec<String>,
) -> Result<(), SpecError> {
    let Some(section) = resources.get(section)? else { return Ok(()) };
    for name in names {
        if let Some(field) = section.get(name)?
            && field.is_filled()
            && !field.boolean().is_ok_and(|value| !value)
        {
            warnings.push(format!("{}: cgroup v2 has no such setting, ignored", field.path()));
        }
    }
    Ok(())
}

/// A limit where 0 is none and -1 is "max".
fn limit(object: &Field<'_>, name: &str) -> Result<Option<i64>, SpecError> {
    let Some(field) = object.get(name)? else { return Ok(None) };
    match field.signed()? {
        0 => Ok(None),
        value if value < -1 => Err(field.error(format!("{value} is neither a limit nor -1 for none"))),
        value => Ok(Some(value)),
    }
}

/// A number of cgroup v2, where -1 became "max".
fn or_max(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(MAX)
}

fn memory(field: &Field<'_>) -> Result<MemoryLimits, SpecError> {
    let max = limit(field, "limit")?;
    if let Some(bytes) = max.filter(|bytes| (0..MEMORY_MIN_BYTES).contains(bytes)) {
        let problem =
            format!("{bytes} bytes are too few to start a process; the least is {MEMORY_MIN_BYTES}");
        return Err(field.child_error("limit", problem));
    }
    let swap = limit(field, "swap")?;
    // cgroup v1's swap limit counts memory as well.
    let swap_max = match (swap, max) {
        (None, Some(-1)) | (Some(-1), _) => Some(MAX),
        (None, _) => None,
        (Some(_), None | Some(-1)) => {
            return Err(field.child_error("swap", "needs a limit of memory next to it"));
        }
        (Some(swap), Some(max)) if swap < max => {
            let problem = format!("{swap} is memory and swap together, and below the memory limit {max}");
            return Err(field.child_error("swap", problem));
        }
        (Some(swap), Some(max)) => Some((swap - max).unsigned_abs()),
    };
    Ok(MemoryLimits { max: max.map(or_max), low: limit(field, "reservation")?.map(or_max), swap_max })
}

fn cpu(field: &Field<'_>) -> Result<CpuLimits, SpecError> {
    let shares = field.opt_unsigned("shares")?.filter(|shares| *shares != 0);
    let period_us = field.opt_unsigned("period")?.filter(|period| *period != 0);
    if let Some(period) = period_us.filter(|period| !CPU_PERIOD_US.contains(period)) {
        return Err(field.child_error("period", format!("{period} is not in 1000 to 1000000 microseconds")));
    }
    let quota = field.opt_signed("quota")?.filter(|quota| *quota != 0);
    if let Some(quota) = quota.filter(|quota| (1..CPU_QUOTA_MIN_US).contains(quota)) {
        let problem = format!("{quota} is below the least quota of {CPU_QUOTA_MIN_US} microseconds");
        return Err(field.child_error("quota", problem));
    }
    // A negative quota is none.
    let quota_us = quota.map_or(MAX, or_max);
    let has_max = quota.is_some() || period_us.is_some();
    let burst_us = field.opt_unsigned("burst")?;
    if let Some(burst) = burst_us.filter(|burst| *burst > quota_us) {
        return Err(field.child_error("burst", format!("{burst} is above the quota {quota_us}")));
    }
    let idle = field.opt_signed("idle")?;
    if let Some(idle) = idle.filter(|idle| !(0..=1).contains(idle)) {
        return Err(field.child_error("idle", format!("{idle} is neither 0 nor 1")));
    }
    Ok(CpuLimits {
        weight: shares.map(weight_of_shares),
        max: has_max.then_some((quota_us, period_us.unwrap_or(CPU_PERIOD_DEFAULT_US))),
        burst_us,
        idle,
        cpus: cpuset(field, "cpus")?,
        mems: cpuset(field, "mems")?,
    })
}

/// 2 to 262144 onto 1 to 10000, as runc 1.1 does.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(SHARES_MIN, SHARES_MAX) - SHARES_MIN) * 9_999 / (SHARES_MAX - SHARES_MIN)
}

/// A list as in cpuset(7): numbers and ranges, with commas between them.
fn cpuset(object: &Field<'_>, name: &str) -> Result<Option<String>, SpecError> {
    let Some(field) = object.get(name)?.filter(Field::is_filled) else { return Ok(None) };
    let text = field.string()?;
    if highest_of_cpuset(text).is_none() {
        return Err(field.error(format!("{} is not a list like \"0-3,7\"", quote(text))));
    }
    Ok(Some(text.to_owned()))
}

/// The highest number of a list; none if it is not a list.
fn highest_of_cpuset(text: &str) -> Option<u32> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| digits && *number <= CPUSET_MAX)
    };
    let last = |part: &str| match part.trim().split_once('-') {
        None => number(part.trim()),
        Some((first, last)) => {
            Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last).map(|range| range.1)
        }
    };
    text.split(',').map(last).try_fold(0, |highest, last| Some(highest.max(last?)))
}

/// What the launch has to know about processors.
pub(crate) fn cpu_hint(cpu: &CpuLimits) -> CpuHint {
    let quota = cpu.max.filter(|(quota_us, _)| *quota_us != MAX);
    CpuHint {
        quota_cpus: quota
            .map(|(quota_us, period_us)| u32::try_from(quota_us.div_ceil(period_us)).unwrap_or(u32::MAX)),
        highest_cpu: cpu.cpus.as_deref().and_then(highest_of_cpuset),
    }
}

/// Anything up to 0 is none.
fn pids_max(pids: &Field<'_>) -> Result<Option<u64>, SpecError> {
    Ok(pids
        .opt_signed("limit")?
        .map(|limit| u64::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(MAX)))
}

fn io(field: &Field<'_>) -> Result<IoLimits, SpecError> {
    let weight = field.opt_unsigned("weight")?.filter(|weight| *weight != 0);
    if let Some(weight) = weight.filter(|weight| !BLKIO_WEIGHT.contains(weight)) {
        return Err(field.child_error("weight", format!("{weight} is not in 10 to 1000")));
    }
    // One line of io.max for each device, whatever the number of lists that name it.
    let mut lines: BTreeMap<(u32, u32), IoDeviceLimit> = BTreeMap::new();
    for list in [
        "throttleReadBpsDevice",
        "throttleWriteBpsDevice",
        "throttleReadIOPSDevice",
        "throttleWriteIOPSDevice",
    ] {
        for entry in field.list(list)? {
            let number = |name| entry.require(name)?.unsigned_to(u32::MAX);
            let (major, minor) = (number("major")?, number("minor")?);
            let rate = entry.require("rate")?.unsigned()?;
            let line = lines.entry((major, minor)).or_insert(IoDeviceLimit {
                major,
                minor,
                read_bytes: None,
                write_bytes: None,
                read_operations: None,
                write_operations: None,
            });
            let slot = match list {
                "throttleReadBpsDevice" => &mut line.read_bytes,
                "throttleWriteBpsDevice" => &mut line.write_bytes,
                "throttleReadIOPSDevice" => &mut line.read_operations,
                _ => &mut line.write_operations,
            };
            // 0 lifts a limit in cgroup v1.
            *slot = Some(if rate == 0 { MAX } else { rate });
        }
    }
    let max = lines.into_values().collect();
    // 10 to 1000 onto 1 to 10000, as runc does.
    Ok(IoLimits { weight: weight.map(|weight| 1 + (weight - 10) * 9_999 / 990), max })
}

fn hugetlb(resources: &Field<'_>) -> Result<Vec<HugetlbLimit>, SpecError> {
    let limit = |entry: Field<'_>| {
        let size_field = entry.require("pageSize")?;
        let size = size_field.string()?;
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
        let is_number = |digits: &str| {
            !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits.is_some_and(is_number) {
            return Err(size_field.error(format!("{} is not a page size like \"2MB\"", quote(size))));
        }
        Ok(HugetlbLimit { page_size: size.to_owned(), limit_bytes: entry.require("limit")?.unsigned()? })
    };
    resources.list("hugepageLimits")?.into_iter().map(limit).collect()
}

fn unified(resources: &Field<'_>) -> Result<Vec<(String, String)>, SpecError> {
    let entry = |(name, field): (&str, Field<'_>)| {
        let is_name = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
        if !is_name {
            return Err(field.error("not the name of a file of a cgroup"));
        }
        Ok((name.to_owned(), field.string()?.to_owned()))
    };
    resources.entries("unified")?.into_iter().map(entry).collect()
}
