//! The open streams of a server, by their ids: messages of their callers come through the private queue.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smol_str::SmolStr;
use tokio::sync::mpsc;
use tracing::debug;
use uuid::Uuid;

use crate::cancellation::Cancellation;
use crate::streaming::Inbox;
use crate::transport::Message;
use crate::wire::{self, Frame};

/// The open streams of a server. All sessions share them, because a stream may end over a link that was replaced.
#[derive(Debug)]
pub(super) struct Streams {
    max: usize,
    open: Mutex<FxHashMap<SmolStr, Inbox>>,
    /// Given once the server is told to stop.
    stopping: Cancellation,
}

/// A stream that counts as open. Dropping it ends the registration.
#[derive(Debug)]
pub(super) struct OpenStream<'a> {
    streams: &'a Streams,
    pub(super) id: SmolStr,
    pub(super) inbox: Inbox,
}

impl Streams {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            open: Mutex::default(),
            stopping: Cancellation::default(),
        }
    }

    /// Registers a stream under a fresh id, which only its caller learns. `None` if too many streams are open.
    pub(super) fn register(&self, inbox: Inbox) -> Option<OpenStream<'_>> {
        let id = wire::correlation_id(Uuid::new_v4());
        let mut open = self.open.lock();
        if open.len() >= self.max {
            return None;
        }
        open.insert(id.clone(), inbox.clone());
        Some(OpenStream {
            streams: self,
            id,
            inbox,
        })
    }

    /// Takes a message of a caller. Never waits.
    pub(super) fn take(&self, message: Message) {
        let Some(inbox) = self.inbox(&message) else {
            return debug!("a message of a stream that is not open was ignored");
        };
        match Frame::from_message(message) {
            Some(frame) => inbox.take(frame),
            None => inbox.take_malformed(),
        }
    }

    /// Stops the streams whose messages the broker returns: their callers' queues are gone.
    pub(super) async fn take_returns(&self, mut returns: mpsc::UnboundedReceiver<Message>) {
        while let Some(message) = returns.recv().await {
            if let Some(inbox) = self.inbox(&message) {
                inbox.take(Frame::Stop);
            }
        }
    }

    /// Returns `true` if the stream that a message names is one of these.
    pub(super) fn has(&self, message: &Message) -> bool {
        self.inbox(message).is_some()
    }

    fn inbox(&self, message: &Message) -> Option<Inbox> {
        let id = message.message_id.as_ref()?;
        self.open.lock().get(id).cloned()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.lock().is_empty()
    }

    /// Ends all streams, and lets no other begin.
    pub(super) fn stop(&self) {
        self.stopping.cancel();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Resolves once all streams are to end.
    pub(super) async fn stopped(&self) {
        self.stopping.cancelled().await;
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        let removed = self.streams.open.lock().remove(&self.id);
        drop(removed); // Without holding the lock.
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::streaming::{DEFAULT_WINDOW, Side};
    use crate::telemetry::StreamMeter;
    use crate::transport::Content;

    fn inbox() -> Inbox {
        Inbox::new(
            Side::Server,
            Some(DEFAULT_WINDOW),
            StreamMeter::of_server("Service", "method"),
        )
    }

    fn message(id: &str, kind: &str) -> Message {
        let mut message = Message::from(Content {
            kind: Some(kind.into()),
            message_id: Some(id.into()),
            ..Content::default()
        });
        message.headers.insert("rpc-sequence", 0_i64);
        message
    }

    #[test]
    fn streams_beyond_the_limit_are_not_registered() {
        let streams = Streams::new(2);
        let first = streams.register(inbox()).unwrap();
        let second = streams.register(inbox()).unwrap();
        assert_ne!(first.id, second.id);
        assert!(streams.register(inbox()).is_none());
        drop(first);
        assert!(streams.register(inbox()).is_some());
        assert!(Streams::new(0).register(inbox()).is_none());
    }

    #[tokio::test]
    async fn a_message_reaches_the_stream_that_it_names() {
        let streams = Streams::new(2);
        let [named, other] = [(); 2].map(|()| streams.register(inbox()).unwrap());
        let mut readers = [&named, &other].map(|stream| stream.inbox.reader());
        streams.take(message("unknown", "end"));
        streams.take(message(&named.id, "end"));
        let [of_named, of_other] = &mut readers;
        assert!(of_named.next().await.is_none());
        assert!(futures_util::poll!(of_other.next()).is_pending());
        let id = named.id.clone();
        drop(named);
        streams.take(message(&id, "items"));
        assert_eq!(streams.open.lock().len(), 1);
    }
}
