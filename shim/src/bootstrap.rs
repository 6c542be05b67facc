//! `start`: containerd runs it in the bundle of each container, and it says where the container's shim listens: that of the
//! pod which the container joins, or a new one, which it leaves behind.
//!
//! | containerd | says what it wants                          | hears                                   |
//! |------------|---------------------------------------------|-----------------------------------------|
//! | 1.6        | options, environment                        | the address                             |
//! | 1.7        | the same, `MAX_SHIM_VERSION=2`              | JSON with version 2 of the task service |
//! | 2.0 to 2.2 | the same, `MAX_SHIM_VERSION=3` or more      | JSON with version 3                     |
//! | 2.3        | `BootstrapParams` on stdin, and the options | `BootstrapResult`                       |
//!
//! Older ones have the runtime's options on stdin, an `Any`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use crx::service::{POD_ANNOTATION, SANDBOX_ANNOTATIONS};
use rustix::fs::OFlags;
use serde_json::{Value, json};

use crate::args::Arguments;

/// Directory of the sockets of all shims, as containerd's own has it.
const SOCKETS: &str = "/run/containerd/s";
/// File of a bundle in which containerd 1.6 looks for its shim when it was restarted.
pub(crate) const ADDRESS_FILE: &str = "address";
/// FIFO of a bundle whose lines containerd writes into its own log.
const LOG_FIFO: &str = "log";
/// Where containerd takes events, in the environment of shims.
pub(crate) const EVENTS_ADDRESS: &str = "TTRPC_ADDRESS";
/// Most bytes of stdin: runtime options have some hundred.
const INPUT_MAX_BYTES: u64 = 10 << 20;

/// How containerd wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Json { version: i32 },
    Message,
}

/// Starts a shim, or finds the pod's.
///
/// # Errors
/// The bundle cannot be read, or no shim be started.
pub(crate) fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let mut input = Vec::new();
    if !io::stdin().is_terminal() {
        io::stdin().take(INPUT_MAX_BYTES).read_to_end(&mut input).context("cannot read stdin")?;
    }
    let params = bootstrap_params(&input, arguments);
    let form = form(params.is_some(), std::env::var("MAX_SHIM_VERSION").ok().as_deref());
    let params = params.unwrap_or_default();
    let text = fs::read("config.json").context("cannot read config.json of the bundle")?;
    let config: Value = serde_json::from_slice(&text).context("config.json")?;
    let group = pod_of(&config).unwrap_or(&arguments.id);
    let directory = params.socket_dir.as_deref().filter(|path| !path.is_empty()).unwrap_or(SOCKETS);
    let socket = socket_path(Path::new(directory), &arguments.address, &arguments.namespace, group);
    if let Some(listener) = listen(&socket)? {
        spawn(arguments, &params.containerd_ttrpc_address, listener, &socket)
            .inspect_err(|_| drop(fs::remove_file(&socket)))?;
    }
    let address = format!("unix://{}", socket.display());
    fs::write(ADDRESS_FILE, &address).context("cannot write the file `address` of the bundle")?;
    io::stdout().write_all(&reply(form, &address)?).context("cannot write to stdout")
}

/// Prints the version, as containerd's own shims do.
pub(crate) fn print_version() -> anyhow::Result<()> {
    println!("containerd-shim-crx-v2:\n  Version:  {}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// Prints what containerd 2 shows of a runtime.
pub(crate) fn print_info() -> anyhow::Result<()> {
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() };
    let name = "io.containerd.crx.v2".to_owned();
    let info = RuntimeInfo { name, version: MessageField::some(version), ..Default::default() };
    Ok(io::stdout().write_all(&info.write_to_bytes()?)?)
}

/// What containerd 2.3 says on stdin. Others have there nothing, or an `Any`, which reads like one without most fields.
fn bootstrap_params(input: &[u8], arguments: &Arguments) -> Option<BootstrapParams> {
    let params = BootstrapParams::parse_from_bytes(input).ok()?;
    (params.instance_id == arguments.id && params.namespace == arguments.namespace).then_some(params)
}

fn form(has_params: bool, max_version: Option<&str>) -> Form {
    match max_version.map(|text| text.parse::<i32>().unwrap_or(2)) {
        _ if has_params => Form::Message,
        None => Form::Plain,
        Some(max) => Form::Json { version: max.clamp(2, 3) },
    }
}

fn reply(form: Form, address: &str) -> anyhow::Result<Vec<u8>> {
    let (address, protocol) = (address.to_owned(), "ttrpc".to_owned());
    Ok(match form {
        Form::Plain => address.into_bytes(),
        Form::Json { version } => {
            json!({ "version": version, "address": address, "protocol": protocol }).to_string().into_bytes()
        }
        Form::Message => {
            BootstrapResult { version: 3, address, protocol, ..Default::default() }.write_to_bytes()?
        }
    })
}

/// The container whose pod, and shim, a container joins.
fn pod_of(config: &Value) -> Option<&str> {
    let annotation = |name: &str| config.get("annotations")?.get(name)?.as_str();
    let of_sandbox = |(kind, sandbox): &(&str, &str)| {
        (annotation(kind) == Some("container")).then(|| annotation(sandbox)).flatten()
    };
    annotation(POD_ANNOTATION).or_else(|| SANDBOX_ANNOTATIONS.iter().find_map(of_sandbox))
}

/// Where the shim of a pod listens: of one containerd and one namespace.
fn socket_path(directory: &Path, containerd: &str, namespace: &str, pod: &str) -> PathBuf {
    let name = format!("{containerd}\0{namespace}\0{pod}");
    // FNV-1a with 128 bits: an address of a socket has room for 107 bytes, and an ID alone may have as many.
    let hash = name.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    directory.join(format!("crx-{hash:032x}"))
}

/// Listens at a path, unless somebody does already.
fn listen(socket: &Path) -> anyhow::Result<Option<UnixListener>> {
    let failed = || format!("cannot listen at {}", socket.display());
    let directory = socket.parent().context("the socket has no directory")?;
    fs::DirBuilder::new().recursive(true).mode(0o711).create(directory).with_context(failed)?;
    match UnixListener::bind(socket) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        bound => return Ok(Some(bound.with_context(failed)?)),
    }
    if UnixStream::connect(socket).is_ok() {
        return Ok(None);
    }
    // Of a shim that was killed.
    fs::remove_file(socket).with_context(failed)?;
    Ok(Some(UnixListener::bind(socket).with_context(failed)?))
}

/// Leaves a shim behind, which listens on what it finds as its standard input.
fn spawn(
    arguments: &Arguments,
    events_address: &str,
    listener: UnixListener,
    socket: &Path,
) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::current_exe().context("cannot find the program's own path")?);
    command.args(["-namespace", &arguments.namespace, "-id", &arguments.id]);
    command.args(["-address", &arguments.address, "-bundle"]).arg(socket).arg("serve");
    if !events_address.is_empty() {
        command.env(EVENTS_ADDRESS, events_address);
    }
    if std::env::var_os(EVENTS_ADDRESS).is_none() && events_address.is_empty() {
        bail!("{EVENTS_ADDRESS} is not set: containerd starts this program, see README.md");
    }
    command.current_dir("/").process_group(0);
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(log()?);
    let child = command.spawn().context("cannot start the shim")?;
    // Rather the shim than containerd, which has started this process.
    let score = fs::read_to_string("/proc/self/oom_score_adj").context("/proc/self/oom_score_adj")?;
    let score = score.trim().parse::<i32>().unwrap_or(0).saturating_add(1).min(1000);
    fs::write(format!("/proc/{}/oom_score_adj", child.id()), score.to_string())
        .context("cannot set oom_score_adj of the shim")
}

/// Where the shim says what it has to say. It neither waits for containerd to read nor minds that it stops.
fn log() -> anyhow::Result<Stdio> {
    let is_fifo = fs::metadata(LOG_FIFO).is_ok_and(|file| file.file_type().is_fifo());
    if !is_fifo {
        return Ok(Stdio::null());
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file: File = OpenOptions::new().read(true).write(true).custom_flags(flags).open(LOG_FIFO)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use containerd_shim_protos::protobuf::well_known_types::any::Any;

    use super::*;

    fn arguments() -> Arguments {
        crate::args::parse("-namespace n -id web start".split(' ').map(str::to_owned)).unwrap()
    }

    #[test]
    fn every_containerd_is_answered_as_it_understands() {
        assert_eq!(reply(form(false, None), "unix:///s").unwrap(), b"unix:///s");
        for (max, version) in [("2", 2), ("3", 3), ("4", 3), ("x", 2)] {
            let json: Value =
                serde_json::from_slice(&reply(form(false, Some(max)), "unix:///s").unwrap()).unwrap();
            assert_eq!(json, json!({ "version": version, "address": "unix:///s", "protocol": "ttrpc" }));
        }
        let reply = reply(form(true, Some("3")), "unix:///s").unwrap();
        let result = BootstrapResult::parse_from_bytes(&reply).unwrap();
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s"));
    }

    #[test]
    fn runtime_options_on_stdin_are_no_parameters() {
        let params = BootstrapParams {
            instance_id: "web".to_owned(),
            namespace: "n".to_owned(),
            ..Default::default()
        };
        assert!(bootstrap_params(&params.write_to_bytes().unwrap(), &arguments()).is_some());
        let mut options = Any::new();
        options.type_url = "containerd.runc.v1.Options".to_owned();
        assert!(bootstrap_params(&options.write_to_bytes().unwrap(), &arguments()).is_none());
        assert!(bootstrap_params(&[], &arguments()).is_none());
    }

    #[test]
    fn a_container_joins_the_pod_that_its_annotations_name() {
        let of = |annotations: Value| pod_of(&json!({ "annotations": annotations })).map(str::to_owned);
        let cri = |kind: &str| json!({ "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "box" });
        assert_eq!(of(cri("container")).as_deref(), Some("box"));
        assert_eq!(of(cri("sandbox")), None);
        assert_eq!(of(json!({ "dev.crx.pod": "web" })).as_deref(), Some("web"));
        assert_eq!((of(json!({})), pod_of(&json!({}))), (None, None));
    }

    #[test]
    fn sockets_are_one_for_a_pod_of_a_namespace_of_a_containerd() {
        let path = |containerd, namespace, pod| socket_path(Path::new("/s"), containerd, namespace, pod);
        let one = path("/c.sock", "n", "web");
        assert_eq!(one, path("/c.sock", "n", "web"));
        for other in [path("/d.sock", "n", "web"), path("/c.sock", "m", "web"), path("/c.sock", "n", "db")] {
            assert_ne!(one, other);
        }
        assert!(one.as_os_str().len() < 60);
    }

    #[test]
    fn a_socket_that_nobody_listens_on_any_more_is_taken_over() {
        let directory = std::env::temp_dir().join(format!("crx-shim-listen-{}", std::process::id()));
        let socket = directory.join("s");
        let first = listen(&socket).unwrap().unwrap();
        assert!(listen(&socket).unwrap().is_none(), "somebody listens");
        drop(first);
        assert!(listen(&socket).unwrap().is_some());
        fs::remove_dir_all(directory).unwrap();
    }
}
