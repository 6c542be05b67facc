//! The shim itself: serves containerd on the socket that `start` made, until its last container is deleted. Next: [`crate::task`].

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use containerd_shim_protos::shim_async::create_task;
use crx::service::Service;
use tokio::net::UnixListener;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::args::Arguments;
use crate::bootstrap::EVENTS_ADDRESS;
use crate::events::Publisher;
use crate::task::Shim;

/// Where the state of the containers of all namespaces is, beside that of containerd's own shims.
const STATE: &str = "/run/containerd/crx";
/// How long the last answer and the last events may take on their way.
const FAREWELL: Duration = Duration::from_secs(5);

/// The containers of a namespace.
pub(crate) fn service(namespace: &str) -> Service {
    Service::new(PathBuf::from(STATE).join(namespace))
}

/// Serves, with one thread beside those that wait for something.
///
/// # Errors
/// The socket is not one.
pub(crate) fn main(arguments: &Arguments) -> anyhow::Result<()> {
    let listener = StdListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let null = std::fs::File::open("/dev/null").context("/dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("cannot let go of stdin")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(serve(arguments, listener));
    // What still waits for a process has nothing to wait for.
    runtime.shutdown_background();
    result
}

async fn serve(arguments: &Arguments, listener: StdListener) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let address = std::env::var(EVENTS_ADDRESS).context(EVENTS_ADDRESS)?;
    let (events, published) = Publisher::start(address, arguments.namespace.clone());
    let shim = Shim::new(service(&arguments.namespace), events);
    let mut server = Server::new()
        .add_listener(Listener::from(UnixListener::from_std(listener)?))
        .register_service(services(&shim));
    server.start().await?;
    shim.over().await;
    // Nobody finds this shim any more.
    if let Some(socket) = &arguments.bundle {
        let _ = std::fs::remove_file(socket);
    }
    drop(shim);
    let _ = tokio::time::timeout(FAREWELL, server.shutdown()).await;
    drop(server);
    // containerd may be gone: then nobody wants to hear them.
    let _ = tokio::time::timeout(FAREWELL, published).await;
    Ok(())
}

/// The task service under both of its names: version 3 has the messages of version 2.
fn services(shim: &Shim) -> HashMap<String, ttrpc::r#async::Service> {
    let service = || create_task(Arc::new(shim.clone())).into_iter();
    let older = service().map(|(name, service)| (name.replace(".v3.", ".v2."), service));
    service().chain(older).collect()
}
