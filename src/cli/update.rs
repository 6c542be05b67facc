//! `crx update`: other limits for a container that is there.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use crate::runtime::state::{self, Container};
use crate::runtime::{exit, log};

/// Most bytes of a resources file: as of a config.json, which has more.
const FILE_MAX_BYTES: u64 = crx_oci::bundle::CONFIG_MAX_BYTES;

/// Change the limits of a container
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// File with the limits, as linux.resources of config.json has them, or - for standard input; other options are
    /// ignored then
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Memory, in bytes or with a unit such as 64m; -1 for no limit
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    memory: Option<i64>,
    /// Memory that is taken last when there is too little, likewise
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    memory_reservation: Option<i64>,
    /// Memory and swap together, likewise
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Period of the processor quota, in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_period: Option<u64>,
    /// Processor time in each period, in microseconds; -1 for no limit
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Unused processor time that may be used later, in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_burst: Option<u64>,
    /// Share of the processors, beside those of other containers
    #[arg(long, value_name = "SHARES", visible_alias = "cpu-shares")]
    cpu_share: Option<u64>,
    /// Run only when nothing else does (1), or as others (0)
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    /// Processors to use, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Share of block devices, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u64>,
    /// Refused: cgroup v2 has no realtime limits
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_rt_period: Option<String>,
    /// Refused: cgroup v2 has no realtime limits
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<String>,
    /// Refused: a pod has no cache allocation
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Refused: a pod has no memory bandwidth allocation
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// For compatibility: cgroup v2 has no limit of kernel memory
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    /// For compatibility: cgroup v2 has no limit of kernel memory
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let container = Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    let resources = match &arguments.resources {
        Some(path) => read(path)?,
        None => {
            arguments.refuse()?;
            arguments.resources().to_string().into_bytes()
        }
    };
    container.update(&resources)?;
    Ok(exit::SUCCESS)
}

impl Arguments {
    /// Refuses what a pod cannot do, and warns of what means nothing.
    fn refuse(&self) -> anyhow::Result<()> {
        for (option, value, why) in [
            ("--cpu-rt-period", &self.cpu_rt_period, "cgroup v2 has no realtime limits"),
            ("--cpu-rt-runtime", &self.cpu_rt_runtime, "cgroup v2 has no realtime limits"),
            ("--l3-cache-schema", &self.l3_cache_schema, "a pod has no cache allocation"),
            ("--mem-bw-schema", &self.mem_bw_schema, "a pod has no memory bandwidth allocation"),
        ] {
            if value.as_ref().is_some_and(|value| !value.is_empty() && value != "0") {
                bail!("{option}: {why}; leave the option out");
            }
        }
        for (option, value) in
            [("--kernel-memory", &self.kernel_memory), ("--kernel-memory-tcp", &self.kernel_memory_tcp)]
        {
            if value.is_some() {
                log::warning(&format!("{option}: cgroup v2 has no such setting, ignored"));
            }
        }
        Ok(())
    }

    /// The options as `linux.resources` has them.
    fn resources(&self) -> Value {
        json!({
            "memory": section([
                ("limit", self.memory.map(Value::from)),
                ("reservation", self.memory_reservation.map(Value::from)),
                ("swap", self.memory_swap.map(Value::from)),
            ]),
            "cpu": section([
                ("period", self.cpu_period.map(Value::from)),
                ("quota", self.cpu_quota.map(Value::from)),
                ("burst", self.cpu_burst.map(Value::from)),
                ("shares", self.cpu_share.map(Value::from)),
                ("idle", self.cpu_idle.map(Value::from)),
                ("cpus", self.cpuset_cpus.clone().map(Value::from)),
                ("mems", self.cpuset_mems.clone().map(Value::from)),
            ]),
            "pids": section([("limit", self.pids_limit.map(Value::from))]),
            "blockIO": section([("weight", self.blkio_weight.map(Value::from))]),
        })
    }
}

/// An object of what is there.
fn section<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The text of a file or, for `-`, of standard input.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let from: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| format!("--resources: cannot open {}", path.display()))?)
    };
    let mut text = Vec::new();
    let read = from.take(FILE_MAX_BYTES + 1).read_to_end(&mut text);
    read.with_context(|| format!("--resources: cannot read {}", path.display()))?;
    if text.len() as u64 > FILE_MAX_BYTES {
        bail!("--resources: {}: larger than {FILE_MAX_BYTES} bytes", path.display());
    }
    Ok(text)
}

/// A number of bytes, with or without a unit: powers of 1024, as runc reads them.
fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a number of bytes such as 67108864 or 64m");
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let power = match lower[digits.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let number: i64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << (10 * power)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc::channel;

    use clap::Parser;
    use crx_proto::{Answer, Cgroup, MemoryLimits};

    use super::*;
    use crate::cli;
    use crate::runtime::channel::{Command, Failure, Report};
    use crate::runtime::fake_pod::{FakePod, ID};

    /// Runs `crx update` on a container whose pod gives this report.
    fn run(pod: &FakePod, options: &[&str]) -> anyhow::Result<u8> {
        let root = pod.root().to_str().unwrap();
        let words = ["crx", "--root", root, "update"].into_iter().chain(options.iter().copied()).chain([ID]);
        let global = cli::Arguments::try_parse_from(words)?;
        let cli::Verb::Update(arguments) = &global.verb else { bail!("not update") };
        main(&global, arguments)
    }

    #[test]
    fn the_pod_is_told_and_the_configuration_kept() {
        let (sender, limits) = channel();
        let config = r#"{"linux": {"resources": {"cpu": {"period": 40000}}}}"#;
        let pod = FakePod::new(config, move |command| {
            let Command::Update { container, limits } = command else { return Vec::new() };
            sender.send((container, *limits)).unwrap();
            vec![Report::Answer(Answer::Done)]
        });
        run(&pod, &["--memory", "64m", "--memory-swap", "-1", "--cpu-quota=20000", "--pids-limit", "-1"])
            .unwrap();
        let (container, limits) = limits.recv().unwrap();
        assert_eq!(container, ID);
        let expected = Cgroup {
            memory: MemoryLimits { max: Some(64 << 20), low: None, swap_max: Some(u64::MAX) },
            cpu: crx_proto::CpuLimits { max: Some((20_000, 40_000)), ..Default::default() },
            pids_max: Some(u64::MAX),
            ..Cgroup::default()
        };
        assert_eq!(limits, expected);
        let kept = &pod.config()["linux"]["resources"];
        assert_eq!(kept["cpu"], json!({"period": 40_000, "quota": 20_000}));
        assert_eq!((&kept["memory"]["limit"], &kept["pids"]["limit"]), (&json!(64 << 20), &json!(-1)));
    }

    #[test]
    fn what_the_pod_refuses_is_not_kept() {
        let pod = FakePod::new("{}", |_| {
            let message = "memory.max: Device or resource busy".to_owned();
            vec![Report::Failed(Failure { exit_code: 1, message, console: Vec::new() })]
        });
        let error = run(&pod, &["--memory", "64m"]).unwrap_err().to_string();
        assert_eq!(error, "memory.max: Device or resource busy");
        assert_eq!(pod.config(), json!({}));
    }

    #[test]
    fn what_a_pod_has_not_is_refused() {
        let pod = FakePod::new("{}", |_| vec![Report::Answer(Answer::Done)]);
        for option in ["--cpu-rt-period", "--cpu-rt-runtime", "--l3-cache-schema", "--mem-bw-schema"] {
            let error = run(&pod, &[option, "5"]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{option}: ")), "{error}");
        }
        run(&pod, &["--kernel-memory", "5", "--cpu-rt-period", "0"]).unwrap();
    }

    #[test]
    fn bytes_have_runc_s_units() {
        for (text, expected) in [
            ("0", 0),
            ("-1", -1),
            ("5b", 5),
            ("64k", 64 << 10),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("2gb", 2 << 30),
            ("1t", 1 << 40),
            ("1P", 1 << 50),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "1x", "1.5", "0x10", "9999999p", "1 m", "é", "5é"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
