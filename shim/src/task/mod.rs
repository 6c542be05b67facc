//! The task service: what containerd asks of the containers of a pod. This file has the requests; [`table`] the containers
//! that there are, [`process`] one process's life, [`stats`] their accounting.

mod process;
mod stats;
mod table;

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim_async::Task;
use crx::service::Service;
use ttrpc::Code;
use ttrpc::r#async::TtrpcContext;
use ttrpc::error::get_rpc_status;

use self::table::Table;
use crate::events::{self, Publisher};

/// The task service. Copies of it are the same service.
#[derive(Clone)]
pub(crate) struct Shim(Arc<Table>);

impl Shim {
    pub(crate) fn new(service: Service, events: Publisher) -> Self {
        Self(Arc::new(Table::new(service, events)))
    }

    /// Waits until the shim has nothing more to do.
    pub(crate) async fn over(&self) {
        self.0.over().await;
    }
}

/// Does something to its end, also when containerd does not wait for that any more: a request of a connection that
/// breaks is dropped where it stands.
async fn whole<T: Send + 'static>(
    future: impl Future<Output = ttrpc::Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    tokio::spawn(future).await.unwrap_or_else(|error| Err(failed(&error.into())))
}

/// Does something that blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// What containerd shows of an error.
fn failed(error: &anyhow::Error) -> ttrpc::Error {
    get_rpc_status(Code::UNKNOWN, format!("{error:#}"))
}

#[async_trait]
impl Task for Shim {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return Err(unsupported("restoring a checkpoint"));
        }
        let table = self.0.clone();
        let pid = whole(async move { table.create(request).await }).await?;
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let table = self.0.clone();
        let pid = whole(async move { table.start(&request.id, &request.exec_id).await }).await?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = self.0.find(&request.id).await?;
        let process = container.process(&request.exec_id).await?;
        let names = process.names.clone();
        let mut response = StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: container.bundle.display().to_string(),
            pid: process.pid(),
            status: process.phase().status().into(),
            stdin: names.stdin,
            stdout: names.stdout,
            stderr: names.stderr,
            terminal: names.terminal,
            ..Default::default()
        };
        if let Some(end) = process.phase().end() {
            (response.exit_status, response.exited_at) = (end.code, events::timestamp(end.at));
        }
        Ok(response)
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let process = self.0.find(&request.id).await?.process(&request.exec_id).await?;
        let end = process.ended().await;
        Ok(WaitResponse { exit_status: end.code, exited_at: events::timestamp(end.at), ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let table = self.0.clone();
        let (pid, end) = whole(async move { table.delete(&request.id, &request.exec_id).await }).await?;
        Ok(DeleteResponse {
            pid,
            exit_status: end.code,
            exited_at: events::timestamp(end.at),
            ..Default::default()
        })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        self.0.add_exec(request).await?;
        Ok(Empty::new())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let table = self.0.clone();
        whole(async move { table.kill(&request).await }).await?;
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let table = self.0.clone();
        whole(async move { table.pause(&request.id).await }).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let table = self.0.clone();
        whole(async move { table.resume(&request.id).await }).await?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(unsupported("checkpointing a container"))
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pids = self.0.ask(&request.id, |service, id| service.pids(&id)).await?;
        let info = |pid| ProcessInfo { pid, ..Default::default() };
        Ok(PidsResponse { processes: pids.into_iter().map(info).collect(), ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let files = self.0.ask(&request.id, |service, id| service.accounting(&id)).await?;
        let stats = MessageField::some(events::any(&stats::metrics(&files)));
        Ok(StatsResponse { stats, ..Default::default() })
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let resources = request.resources.value.clone();
        self.0.ask(&request.id, move |service, id| service.update(&id, &resources)).await?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let size = |characters| u16::try_from(characters).unwrap_or(u16::MAX);
        let process = self.0.find(&request.id).await?.process(&request.exec_id).await?;
        process.resize(size(request.height), size(request.width));
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        if request.stdin {
            self.0.find(&request.id).await?.process(&request.exec_id).await?.close_stdin();
        }
        Ok(Empty::new())
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        // Asked about no container, it is the shim that is wanted.
        let task_pid = match self.0.find(&request.id).await {
            Ok(container) => container.init.pid(),
            Err(_) => 0,
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, version, ..Default::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.0.shut_down(request.now).await;
        Ok(Empty::new())
    }
}

fn unsupported(what: &str) -> ttrpc::Error {
    get_rpc_status(
        Code::UNIMPLEMENTED,
        format!("{what} is not supported: a pod's VM cannot be saved with its container"),
    )
}
