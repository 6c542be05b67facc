//! What containerd is told of: events, over its ttrpc address, one after the other as they happened.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::events::task as messages;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use ttrpc::context;

/// How long containerd may take for an event, and how long after a failure it is tried again: it may be restarting.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(1);

/// Something that happened to a task.
pub(crate) trait Event: MessageFull {
    /// Where containerd files it.
    const TOPIC: &'static str;
}

macro_rules! events {
    ($($message:ident: $topic:ident,)*) => {
        $(impl Event for messages::$message { const TOPIC: &'static str = topics::$topic; })*
    };
}

events! {
    TaskCreate: TASK_CREATE_EVENT_TOPIC,
    TaskStart: TASK_START_EVENT_TOPIC,
    TaskExit: TASK_EXIT_EVENT_TOPIC,
    TaskOOM: TASK_OOM_EVENT_TOPIC,
    TaskDelete: TASK_DELETE_EVENT_TOPIC,
    TaskExecAdded: TASK_EXEC_ADDED_EVENT_TOPIC,
    TaskExecStarted: TASK_EXEC_STARTED_EVENT_TOPIC,
    TaskPaused: TASK_PAUSED_EVENT_TOPIC,
    TaskResumed: TASK_RESUMED_EVENT_TOPIC,
}

/// Takes events, to be sent by a task of its own.
#[derive(Clone)]
pub(crate) struct Publisher {
    namespace: String,
    queue: UnboundedSender<Envelope>,
}

impl Publisher {
    /// Starts to send events to an address. The task ends once all are sent and every publisher is dropped.
    pub(crate) fn start(address: String, namespace: String) -> (Self, JoinHandle<()>) {
        let (queue, events) = unbounded_channel();
        (Self { namespace, queue }, tokio::spawn(send_all(address, events)))
    }

    /// Takes an event.
    pub(crate) fn publish<E: Event>(&self, event: &E) {
        let mut envelope = Envelope::new();
        envelope.timestamp = timestamp(SystemTime::now());
        envelope.namespace.clone_from(&self.namespace);
        envelope.topic = E::TOPIC.to_owned();
        envelope.event = MessageField::some(any(event));
        // The task takes events as long as there is somebody who sends them.
        let _ = self.queue.send(envelope);
    }
}

/// A message as containerd expects it, whose type URLs are bare names.
pub(crate) fn any<M: MessageFull>(message: &M) -> Any {
    let mut any = Any::new();
    any.type_url = M::descriptor().full_name().to_owned();
    // Only a message with required fields could fail; these have none.
    any.value = message.write_to_bytes().unwrap_or_default();
    any
}

/// A time as messages have it.
pub(crate) fn timestamp(time: SystemTime) -> MessageField<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut timestamp = Timestamp::new();
    timestamp.seconds = since.as_secs().cast_signed();
    timestamp.nanos = since.subsec_nanos().cast_signed();
    MessageField::some(timestamp)
}

async fn send_all(address: String, mut events: UnboundedReceiver<Envelope>) {
    let address = format!("unix://{}", address.trim_start_matches("unix://"));
    let mut client = None;
    while let Some(envelope) = events.recv().await {
        let mut request = ForwardRequest::new();
        request.envelope = MessageField::some(envelope);
        while let Err(error) = send(&address, &mut client, &request).await {
            crx::service::warn(&format!("containerd at {address} takes no events: {error}; trying again"));
            client = None;
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn send(
    address: &str,
    client: &mut Option<EventsClient>,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let client = match client {
        Some(client) => client,
        None => client.insert(EventsClient::new(Client::connect(address).await?)),
    };
    client.forward(context::with_duration(PATIENCE), request).await.map(drop)
}
