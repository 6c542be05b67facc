//! The containers that this shim has, and what is done with them. Events are told in the order in which things happen.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use containerd_shim_protos::api::{CreateTaskRequest, ExecProcessRequest, KillRequest};
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::MessageField;
use crx::service::{self, Service};
use tokio::sync::{Mutex, Notify, oneshot};
use ttrpc::Code;
use ttrpc::error::get_rpc_status;

use super::process::{End, Phase, Process};
use super::{blocking, failed};
use crate::events::{Publisher, timestamp};
use crate::io::Names;
use crate::rootfs;

/// The exit status of what was never started.
const NOT_STARTED: u32 = 128 + 9;

/// The containers.
pub(super) struct Table {
    service: Arc<Service>,
    events: Publisher,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    over: Notify,
}

/// A container.
pub(super) struct Container {
    pub(super) bundle: PathBuf,
    pub(super) init: Arc<Process>,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
}

impl Container {
    /// One of its processes: its first, or the one of this name.
    pub(super) async fn process(&self, exec_id: &str) -> ttrpc::Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        let found = self.execs.lock().await.get(exec_id).cloned();
        found.ok_or_else(|| get_rpc_status(Code::NOT_FOUND, format!("process {exec_id:?} does not exist")))
    }
}

impl Table {
    pub(super) fn new(service: Service, events: Publisher) -> Self {
        Self { service: Arc::new(service), events, containers: Mutex::default(), over: Notify::new() }
    }

    /// Waits until there is nothing more to do.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }

    pub(super) async fn find(&self, id: &str) -> ttrpc::Result<Arc<Container>> {
        let found = self.containers.lock().await.get(id).cloned();
        found.ok_or_else(|| get_rpc_status(Code::NOT_FOUND, format!("container {id:?} does not exist")))
    }

    /// Asks the runtime about a container.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        id: &str,
        question: impl FnOnce(&Service, String) -> anyhow::Result<T> + Send + 'static,
    ) -> ttrpc::Result<T> {
        let container = self.find(id).await?;
        let (service, own_id) = (self.service.clone(), id.to_owned());
        let answer = blocking(move || question(&service, own_id)).await;
        answer.map_err(|error| match container.init.phase().end() {
            Some(_) => get_rpc_status(Code::NOT_FOUND, format!("container {id:?} has ended")),
            None => failed(&error),
        })
    }

    /// Makes a container; returns the process ID that stands for it.
    pub(super) async fn create(self: Arc<Self>, request: CreateTaskRequest) -> ttrpc::Result<u32> {
        let names = Names {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let id = request.id;
        if self.containers.lock().await.contains_key(&id) {
            return Err(get_rpc_status(Code::ALREADY_EXISTS, format!("container {id:?} exists")));
        }
        let bundle = PathBuf::from(&request.bundle);
        let made = {
            let (service, id, bundle) = (self.service.clone(), id.clone(), bundle.clone());
            let (names, mounts) = (names.clone(), request.rootfs.clone());
            blocking(move || {
                let target = bundle.join("rootfs");
                rootfs::mount_all(&mounts, &target)?;
                let make = || -> anyhow::Result<_> {
                    let (stdio, stdin) = names.open()?;
                    let process = service.create(&id, &bundle, stdio)?;
                    Ok((process.control()?, process, stdin))
                };
                make().inspect_err(|_| drop(rootfs::unmount(&target)))
            })
            .await
        };
        let (control, process, stdin) = made.map_err(|error| failed(&error))?;
        let pid = process.pid();
        let init = Arc::new(Process::new(String::new(), names.clone(), Vec::new()));
        init.made(pid, control, stdin);
        let container = Container { bundle, init: init.clone(), execs: Mutex::default() };
        self.containers.lock().await.insert(id.clone(), Arc::new(container));
        let io = TaskIO {
            stdin: names.stdin,
            stdout: names.stdout,
            stderr: names.stderr,
            terminal: names.terminal,
            ..Default::default()
        };
        self.events.publish(&TaskCreate {
            container_id: id.clone(),
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: MessageField::some(io),
            pid,
            ..Default::default()
        });
        self.attend(id, init, process)?;
        Ok(pid)
    }

    /// Starts a container, or a process that was added to it; returns the process ID that stands for it.
    pub(super) async fn start(self: Arc<Self>, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        let process = self.find(id).await?.process(exec_id).await?;
        let _order = process.order.lock().await;
        if process.phase() != Phase::Created || (!exec_id.is_empty() && process.pid() != 0) {
            let message = format!("process {exec_id:?} of container {id:?} was started before");
            return Err(get_rpc_status(Code::FAILED_PRECONDITION, message));
        }
        let (service, container_id) = (self.service.clone(), id.to_owned());
        if exec_id.is_empty() {
            blocking(move || service.start(&container_id)).await.map_err(|error| failed(&error))?;
            process.reached(Phase::Running);
            let pid = process.pid();
            self.events.publish(&TaskStart { container_id: id.to_owned(), pid, ..Default::default() });
            return Ok(pid);
        }
        let (names, spec) = (process.names.clone(), process.spec.clone());
        let made = blocking(move || {
            let (stdio, stdin) = names.open()?;
            let process = service.exec(&container_id, &spec, stdio)?;
            Ok((process.control()?, process, stdin))
        });
        let (control, executed, stdin) = match made.await {
            Ok(made) => made,
            Err(error) => {
                let code = service::exit_code(&error).into();
                process.reached(Phase::Ended(End { code, at: SystemTime::now() }));
                return Err(failed(&error));
            }
        };
        let pid = executed.pid();
        process.made(pid, control, stdin);
        process.reached(Phase::Running);
        self.events.publish(&TaskExecStarted {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            pid,
            ..Default::default()
        });
        self.attend(id.to_owned(), process.clone(), executed)?;
        Ok(pid)
    }

    /// Stays with a process to its end, which is told then.
    fn attend(
        self: &Arc<Self>,
        id: String,
        process: Arc<Process>,
        attended: service::Process,
    ) -> ttrpc::Result<()> {
        let (sender, ended) = oneshot::channel();
        let (events, container_id) = (self.events.clone(), id.clone());
        let of_container = process.exec_id.is_empty();
        let wait = move || {
            let code = attended.wait(|| {
                if of_container {
                    let container_id = container_id.clone();
                    events.publish(&TaskOOM { container_id, ..Default::default() });
                }
            });
            // Nobody listens any more when the shim ends.
            let _ = sender.send((u32::from(code), SystemTime::now()));
        };
        let thread = std::thread::Builder::new().name("crx-attend".to_owned());
        thread.spawn(wait).map_err(|error| failed(&error.into()))?;
        let events = self.events.clone();
        tokio::spawn(async move {
            let Ok((code, at)) = ended.await else { return };
            let _order = process.order.lock().await;
            let exec_id = if of_container { &id } else { &process.exec_id };
            let exit = TaskExit {
                container_id: id.clone(),
                id: exec_id.clone(),
                pid: process.pid(),
                exit_status: code,
                exited_at: timestamp(at),
                ..Default::default()
            };
            process.reached(Phase::Ended(End { code, at }));
            events.publish(&exit);
        });
        Ok(())
    }

    /// Adds a process to a container, to be started later.
    pub(super) async fn add_exec(&self, request: ExecProcessRequest) -> ttrpc::Result<()> {
        let container = self.find(&request.id).await?;
        let names = Names {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let spec = request.spec.into_option().unwrap_or_default().value;
        let process = Arc::new(Process::new(request.exec_id.clone(), names, spec));
        let mut execs = container.execs.lock().await;
        if execs.contains_key(&request.exec_id) {
            let message = format!("process {:?} exists", request.exec_id);
            return Err(get_rpc_status(Code::ALREADY_EXISTS, message));
        }
        execs.insert(request.exec_id.clone(), process);
        self.events.publish(&TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
            ..Default::default()
        });
        Ok(())
    }

    pub(super) async fn kill(&self, request: &KillRequest) -> ttrpc::Result<()> {
        let process = self.find(&request.id).await?.process(&request.exec_id).await?;
        let signal = u8::try_from(request.signal).ok().filter(|signal| *signal <= 64);
        let Some(signal) = signal else {
            return Err(get_rpc_status(Code::INVALID_ARGUMENT, format!("no signal {}", request.signal)));
        };
        if process.phase().end().is_some() {
            return Err(get_rpc_status(Code::NOT_FOUND, "process already finished"));
        }
        if request.exec_id.is_empty() {
            let all = request.all;
            return self.ask(&request.id, move |service, id| service.kill(&id, signal, all)).await;
        }
        process.signal(signal);
        Ok(())
    }

    pub(super) async fn pause(&self, id: &str) -> ttrpc::Result<()> {
        self.ask(id, |service, id| service.pause(&id)).await?;
        self.find(id).await?.init.reached(Phase::Paused);
        self.events.publish(&TaskPaused { container_id: id.to_owned(), ..Default::default() });
        Ok(())
    }

    pub(super) async fn resume(&self, id: &str) -> ttrpc::Result<()> {
        self.ask(id, |service, id| service.resume(&id)).await?;
        self.find(id).await?.init.reached(Phase::Running);
        self.events.publish(&TaskResumed { container_id: id.to_owned(), ..Default::default() });
        Ok(())
    }

    /// Forgets a process that has ended, and of a container everything; returns its process ID and how it ended.
    pub(super) async fn delete(&self, id: &str, exec_id: &str) -> ttrpc::Result<(u32, End)> {
        let container = self.find(id).await?;
        let process = container.process(exec_id).await?;
        let never_started = || End { code: NOT_STARTED, at: SystemTime::now() };
        let end = match process.phase() {
            Phase::Ended(end) => end,
            Phase::Created => never_started(),
            _ => {
                let message = format!("process {exec_id:?} of container {id:?} runs");
                return Err(get_rpc_status(Code::FAILED_PRECONDITION, message));
            }
        };
        if !exec_id.is_empty() {
            container.execs.lock().await.remove(exec_id);
            return Ok((process.pid(), end));
        }
        let (service, own_id, target) =
            (self.service.clone(), id.to_owned(), container.bundle.join("rootfs"));
        let removed = blocking(move || {
            service.delete(&own_id, true)?;
            rootfs::unmount(&target)
        });
        removed.await.map_err(|error| failed(&error))?;
        self.containers.lock().await.remove(id);
        self.events.publish(&TaskDelete {
            container_id: id.to_owned(),
            pid: process.pid(),
            exit_status: end.code,
            exited_at: timestamp(end.at),
            ..Default::default()
        });
        Ok((process.pid(), end))
    }

    /// Ends the shim, if it has no more containers or is not to mind that.
    pub(super) async fn shut_down(&self, now: bool) {
        if now || self.containers.lock().await.is_empty() {
            self.over.notify_one();
        }
    }
}
