//! Calls of running servers, watched from outside.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, BoxStream, FusedStream, SelectAll, Stream};
use futures_util::{FutureExt, StreamExt};
use smol_str::SmolStr;
use tokio::time::{Instant, timeout_at};
use tracing::{Span, debug};

use super::gather::DEFAULT_WITHIN;
use super::introspection::no_instance;
use super::keep_stream::OpenStream;
use super::service::Client;
use super::stream_attempt::FirstAnswer;
use crate::codec;
use crate::deadline;
use crate::error::{ErrorKind, RpcError};
use crate::instances::{InstanceInfo, TapEvent, TapEventKind, TapFilter, TapOutcome, Told};
use crate::message::{ItemStream, StreamError};
use crate::names::{PING, TAP};
use crate::requester::Requester;
use crate::streaming::{DEFAULT_WINDOW, Limits};
use crate::wire::{QUESTION_CONTENT_TYPE, Question, StreamQuestion, StreamTerms};

/// Longest silence of an instance that is watched, and the time for its first answer.
const SILENCE: Duration = Duration::from_secs(15);

/// Most instances that are asked at the same time.
const MAX_ASKED: usize = 16;

impl Client {
    /// Watches the calls that running instances of a service handle: their requests and their answers, as they happen. Watching does
    /// not change the calls. The instances must allow it: [`ServerBuilder::tap`](crate::ServerBuilder::tap).
    ///
    /// All instances that run at this moment are watched; those that start later are not. [`TapQuery`] selects calls, and describes the limits,
    /// the errors and cancellation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Connection, Server, rpc};
    /// use rpc_core::instances::TapEventKind;
    ///
    /// # #[rpc] trait Fib { async fn fib(n: u64) -> u64; }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = Connection::open("memory:").await?;
    /// let dispatcher = FibDispatcher::new(Calculator);
    /// let server = Server::builder(&connection).service(dispatcher).tap(true).build().start().await?;
    /// // Without `expect`, the client waits 1 second for further instances.
    /// let mut tap = connection.client().tap("Fib").method("fib").expect(1).await?;
    ///
    /// FibClient::new(connection.client()).fib(30).await?;
    ///
    /// let request = tap.next().await.ok_or("the server is gone")?;
    /// assert_eq!(request.instance, server.instance_id());
    /// assert!(matches!(request.kind, TapEventKind::Request(_)));
    /// let answer = tap.next().await.ok_or("the server is gone")?;
    /// if let TapEventKind::Answer(answer) = answer.kind {
    ///     println!("{:?} after {:?}", answer.outcome, answer.duration);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn tap(&self, service: impl Into<String>) -> TapQuery {
        TapQuery {
            client: self.clone(),
            filter: TapFilter {
                service: service.into(),
                ..TapFilter::default()
            },
            instance: None,
            within: DEFAULT_WITHIN,
            expected: None,
        }
    }
}

/// Selection of calls to watch, see [`Client::tap`]. Awaiting the selection gives `Result<Tap, RpcError>`: the instances are watched from then on.
///
/// The instances select the events, and send only those. All conditions must hold.
///
/// # Errors
///
/// Awaiting the selection fails with
///
/// - [`ErrorKind::Unroutable`] if no instance answers, or not the one that was named,
/// - [`ErrorKind::PermissionDenied`] if no instance allows to watch its calls, or if the user may not write to the exchange `amq.direct`,
/// - [`ErrorKind::Overloaded`] if 8 programs watch the only instance already,
/// - [`ErrorKind::TooLarge`] if the conditions are longer than 4 KiB,
/// - [`ErrorKind::Timeout`] and [`ErrorKind::Disconnected`] like an [`InstanceQuery`](crate::InstanceQuery).
///
/// If one instance can be watched, awaiting succeeds, and [`Tap::refused`] has the errors of the others.
///
/// # Cancel safety
///
/// Dropping the future watches nothing. An instance may send events, which are dropped, for 15 seconds.
#[derive(Debug)]
#[must_use = "nothing is watched until the selection is awaited"]
pub struct TapQuery {
    client: Client,
    filter: TapFilter,
    instance: Option<String>,
    within: Duration,
    expected: Option<usize>,
}

impl TapQuery {
    /// Watches the calls of this method only, by its name on the wire. Default: all methods.
    pub fn method(mut self, name: impl Into<String>) -> Self {
        self.filter.method = Some(name.into());
        self
    }

    /// Watches only calls whose requests have this header, and replaces an earlier condition on a header. Default: all calls.
    pub fn header(mut self, name: impl Into<String>) -> Self {
        self.filter.header = Some(name.into());
        self.filter.value = None;
        self
    }

    /// Watches only calls whose requests have this header with this value, and replaces an earlier condition on a header. Numbers and `bool`s
    /// compare as text. A secret header has no value that watchers could compare: see [`Headers`](crate::Headers).
    pub fn header_value(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.filter.header = Some(name.into());
        self.filter.value = Some(value.into());
        self
    }

    /// Shows only calls with this outcome. Their requests are shown at the end of the call, together with the answers. Default: calls with any
    /// outcome, whose requests are shown as they begin.
    pub fn outcome(mut self, outcome: TapOutcome) -> Self {
        self.filter.outcome = Some(outcome);
        self
    }

    /// Watches this instance only, by its [id](InstanceInfo::id). Default: all instances.
    pub fn instance(mut self, id: impl Into<String>) -> Self {
        self.instance = Some(id.into());
        self
    }

    /// Sets the time for which calls are watched. Default: 1 minute. An instance ends after 10 minutes, whatever is set here.
    pub fn duration(mut self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.filter.millis = Some(millis);
        self
    }

    /// Sets the time for which the instances of the service are gathered. Default: 1 second. With zero, awaiting fails with
    /// [`ErrorKind::Timeout`].
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Ends the gathering after this number of instances has answered, without waiting for the rest of the time. 0 counts as 1. Default:
    /// no limit except 4,096.
    pub fn expect(mut self, instances: usize) -> Self {
        self.expected = Some(instances);
        self
    }

    async fn open(self) -> Result<Tap, RpcError> {
        let question = StreamQuestion::new(
            TAP,
            &self.filter,
            StreamTerms {
                window: DEFAULT_WINDOW,
                silence: SILENCE,
                deadline: None,
            },
        )?;
        let service = &*self.filter.service;
        let ping = Question {
            method: PING,
            service: Some(service),
        };
        let (requester, asking) = self.client.ask(ping, self.within, self.expected).await?;
        let mut instances = asking.answers::<InstanceInfo>().await?;
        if let Some(id) = &self.instance {
            instances.retain(|told| told.entry.id == *id);
        }
        if instances.is_empty() {
            let condition = self
                .instance
                .as_ref()
                .map(|id| format!(" with the id {id}"));
            return Err(no_instance(service, &condition.unwrap_or_default()));
        }
        instances.sort_by(|a, b| a.entry.id.cmp(&b.entry.id));
        let client = &self.client;
        let opening = stream::iter(instances).map(async |told| {
            let Told {
                entry,
                private_queue,
                round_trip,
            } = told;
            let info = InstanceInfo {
                round_trip,
                ..entry
            };
            let events = open(client, requester.clone(), &question, private_queue).await;
            (info, events)
        });
        let mut opening = opening.buffered(MAX_ASKED);
        let mut tap = Tap {
            instances: Vec::new(),
            refused: Vec::new(),
            events: SelectAll::new(),
        };
        while let Some((instance, events)) = opening.next().await {
            match events {
                Ok(events) => {
                    tap.events.push(events_of(&instance, events));
                    tap.instances.push(instance);
                }
                Err(error) => {
                    debug!(instance = ?instance.id, error = ?error.to_string(), "an instance shows no calls");
                    tap.refused.push((instance, error));
                }
            }
        }
        if tap.instances.is_empty() {
            // The first one stands for all: usually all say the same.
            let mut refused = tap.refused.into_iter();
            let first = refused.next().map(|(_, error)| error);
            return Err(first.unwrap_or_else(|| no_instance(service, "")));
        }
        Ok(tap)
    }
}

/// Opens the stream of an instance.
async fn open(
    client: &Client,
    requester: Arc<Requester>,
    question: &StreamQuestion,
    private_queue: Option<SmolStr>,
) -> Result<ItemStream, RpcError> {
    let private_queue = private_queue.ok_or_else(|| {
        RpcError::new(
            ErrorKind::Unroutable,
            "the instance did not name its private queue",
        )
    })?;
    let started = Instant::now();
    let until = deadline::after(SILENCE);
    let sender = client.sender();
    let answering = async {
        let sent = sender.publish_stream_question(requester, question, private_queue, until);
        sent.await?.answer().await
    };
    let answer = timeout_at(until, answering).await.unwrap_or_else(|_| {
        let reason = "the instance has answered the ping, and not the request for its calls";
        Err(RpcError::new(ErrorKind::Timeout, reason))
    });
    let accepted = match answer {
        Ok(FirstAnswer::Accepted(accepted)) => *accepted,
        Ok(FirstAnswer::Replied(_)) => {
            let reason = "the instance answered with a single result in place of a stream";
            return Err(RpcError::new(ErrorKind::BadReply, reason));
        }
        Err(error) if error.kind() == ErrorKind::UnknownMethod => {
            let reason =
                "the instance has an earlier version of rpc-core, which cannot show its calls";
            return Err(RpcError::new(ErrorKind::UnknownMethod, reason));
        }
        Err(error) => return Err(error),
    };
    // From here on, dropping the reader stops the stream.
    let reader = accepted.waiter.registration.inbox().reader();
    let open = OpenStream {
        registration: accepted.waiter.registration,
        outlet: accepted.outlet,
        limits: Limits {
            silence: SILENCE,
            deadline: None,
            result_within: None,
        },
        connection: client.connection().clone(),
        service: TAP.into(),
        started,
        span: Span::none(),
        _place: (),
    };
    let keeping = async move { open.keep(None).await };
    accepted.requester.runtime().spawn(keeping); // Ends with the stream, at the latest when its reader is dropped.
    Ok(reader)
}

/// The instance that events come from.
#[derive(Clone)]
struct Source {
    instance: String,
    service: String,
}

impl Source {
    /// Returns an event that the client adds.
    fn own(&self, kind: TapEventKind) -> TapEvent {
        TapEvent {
            instance: self.instance.clone(),
            service: self.service.clone(),
            time: SystemTime::now(),
            call: None,
            kind,
        }
    }

    /// Reads an event. An instance cannot speak for another one, and cannot say that the client has ended.
    fn event(&self, item: &[u8]) -> TapEvent {
        let event = codec::decode::<TapEvent>(item, QUESTION_CONTENT_TYPE);
        match event {
            Ok(event) if !matches!(event.kind, TapEventKind::Ended { .. }) => TapEvent {
                instance: self.instance.clone(),
                service: self.service.clone(),
                ..event
            },
            // A later version of the instance may have further kinds of events.
            _ => self.own(TapEventKind::Skipped { events: 1 }),
        }
    }
}

/// Reads the events of an instance, and adds the last one.
fn events_of(instance: &InstanceInfo, items: ItemStream) -> BoxStream<'static, TapEvent> {
    let source = Source {
        instance: instance.id.clone(),
        service: instance.service.clone(),
    };
    let events = stream::unfold(Some(items), move |items| {
        let source = source.clone();
        async move {
            let mut items = items?;
            let ended = |error| source.own(TapEventKind::Ended { error });
            Some(match items.next().await {
                Some(Ok(item)) => (source.event(&item), Some(items)),
                Some(Err(StreamError::Rpc(error))) => (ended(Some(error.to_string())), None),
                Some(Err(StreamError::Own(_))) => {
                    let reason = "the events ended with an error of a service";
                    (ended(Some(reason.to_owned())), None)
                }
                None => (ended(None), None),
            })
        }
    });
    events.boxed()
}

/// Calls of running instances, as they happen. See [`Client::tap`].
///
/// Gives the events of all instances, those of one instance in their order. The last event of each instance is [`TapEventKind::Ended`], with the
/// reason if the instance, or the connection, ended early. The other instances go on. `None` comes after the last instance has ended.
///
/// Events that the program does not read in time are left out, and counted: the instances do not wait. A connection that is lost ends the tap.
///
/// Dropping the tap ends it.
#[must_use = "dropping the tap ends it"]
pub struct Tap {
    instances: Vec<InstanceInfo>,
    refused: Vec<(InstanceInfo, RpcError)>,
    events: SelectAll<BoxStream<'static, TapEvent>>,
}

impl Tap {
    /// Returns the next event; `None` once all instances have ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<TapEvent> {
        self.events.next().await
    }

    /// Returns the instances that are watched, sorted by id.
    pub fn instances(&self) -> &[InstanceInfo] {
        &self.instances
    }

    /// Returns the instances that are not watched, each with the reason, sorted by id.
    pub fn refused(&self) -> &[(InstanceInfo, RpcError)] {
        &self.refused
    }
}

impl Stream for Tap {
    type Item = TapEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TapEvent>> {
        self.events.poll_next_unpin(cx)
    }
}

impl FusedStream for Tap {
    fn is_terminated(&self) -> bool {
        self.events.is_terminated()
    }
}

impl IntoFuture for TapQuery {
    type Output = Result<Tap, RpcError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        self.open().boxed()
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap")
            .field("instances", &self.instances)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_speaks_for_itself_only() {
        let source = Source {
            instance: "one".to_owned(),
            service: "Fib".to_owned(),
        };
        let forged = |kind| {
            let event = TapEvent {
                instance: "other".to_owned(),
                service: "Bank".to_owned(),
                time: SystemTime::UNIX_EPOCH,
                call: None,
                kind,
            };
            codec::encode(&event, QUESTION_CONTENT_TYPE).unwrap()
        };
        let skipped = |events| TapEventKind::Skipped { events };
        let ended = TapEventKind::Ended { error: None };
        for (item, kind) in [
            (
                forged(TapEventKind::StreamOpened),
                TapEventKind::StreamOpened,
            ),
            (forged(skipped(7)), skipped(7)),
            (forged(ended), skipped(1)),
            (b"\xc1".as_slice().into(), skipped(1)),
        ] {
            let event = source.event(&item);
            assert_eq!((&*event.instance, &*event.service), ("one", "Fib"));
            assert_eq!(event.kind, kind);
        }
    }
}
