//! Calls by the names of methods, for programs that learn a contract at run time.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};

use super::call::Call;
use super::service::Client;
use super::streaming::{Reading, Streaming};
use crate::codec::{ContentType, Encoded};
use crate::error::{CallError, ErrorKind, RpcError};
use crate::instances::{MethodInfo, MethodKind, ServiceInfo};
use crate::message::{
    ItemSource, Outcome, Request, Response, Slot, StreamCall, StreamError, UntypedRequest,
};
use crate::names::QUEUE_PREFIX;
use crate::service::RpcService;

/// A client that calls methods by their names, with [encoded](Encoded) values. Tools and gateways use such a client, which needs no trait.
///
/// A client of a [description](Self::described) knows the queues, the kinds and the options of the methods, such as `idempotent` and `timeout`. A
/// client without one sends every request to one queue, and knows no option.
///
/// Arguments are checked by the server alone: it refuses a request that lacks one, and ignores unknown ones.
///
/// A request is sent in the format of its arguments, whatever the format of the client is. A [plain](crate::ClientBuilder::plain) client sends JSON
/// as it is, so the argument of a method with one argument is the bare value: `30`.
///
/// The methods return a [`Call`], with all its setters and [`to_all_instances`](Call::to_all_instances), and `S` may have layers, as with
/// a generated client. Names of methods become labels of metrics and names of spans, so a gateway should pass names that it knows.
///
/// # Examples
///
/// ```
/// use rpc_core::{CallError, Connection, Encoded, Server, UntypedClient, rpc};
///
/// # #[rpc] trait Fib { async fn fib(n: u64) -> u64; }
/// # struct Calculator;
/// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0 } }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let connection = Connection::open("memory:").await?;
/// # let server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
/// let client = connection.client();
/// let description = client.describe("Fib").expect(1).await?;
/// let fib = UntypedClient::described(client, description);
/// match fib.call("fib", Encoded::from_json(r#"{"n": 30}"#)?).await {
///     Ok(result) => assert_eq!(result.to_json()?, "832040"),
///     Err(CallError::App(error)) => println!("the service's own error: {}", error.to_json()?),
///     Err(CallError::Rpc(error)) => println!("{error}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct UntypedClient<S = Client> {
    service: S,
    name: Cow<'static, str>,
    queue: Arc<str>,
    description: Option<Arc<ServiceInfo>>,
}

/// Output of a call that returns one value: the value, or the service's own error.
type Reply = Result<Encoded, CallError<Encoded>>;

/// Output of a call that returns a stream.
type StreamReply = Result<Streaming<Encoded, CallError<Encoded>>, CallError<Encoded>>;

impl<S> UntypedClient<S> {
    /// Sends requests through `service`, to the queue `rpc.<name>`. Nothing is known of the methods: the caller chooses the one of
    /// [`call`](Self::call), [`oneway`](Self::oneway), [`server_streaming`](Self::server_streaming),
    /// [`client_streaming`](Self::client_streaming) and [`bidirectional`](Self::bidirectional) that fits.
    pub fn new(service: S, name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            service,
            queue: [QUEUE_PREFIX, &name].concat().into(),
            name: name.into(),
            description: None,
        }
    }

    /// Sends requests through `service`, to the queues of a description. A method that the description lacks, or one of another kind, is refused
    /// before anything is sent.
    pub fn described(service: S, description: ServiceInfo) -> Self {
        Self {
            service,
            queue: description.queue.as_str().into(),
            name: description.name.clone().into(),
            description: Some(Arc::new(description)),
        }
    }

    /// Replaces the service's queue. Methods with a queue of their own keep theirs.
    #[must_use]
    pub fn with_queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = queue.into().into();
        self
    }

    /// Returns the description, if the client has one.
    pub fn description(&self) -> Option<&ServiceInfo> {
        self.description.as_deref()
    }
}

impl<S: RpcService> UntypedClient<S> {
    /// Calls a method that returns one value. Awaiting the call gives the value, or the service's own error as [`CallError::App`]. For a
    /// described method that is `oneway`, the value is nil.
    ///
    /// With an empty name, the server calls its only method, or the one that its trait marks as default.
    ///
    /// # Errors
    ///
    /// Those of any [`Call`]. With a description, [`ErrorKind::UnknownMethod`] if the method is not in it, and [`ErrorKind::Encode`] if the method
    /// has a stream; then nothing is sent.
    pub fn call(&self, method: &str, arguments: Encoded) -> Call<Reply, S> {
        self.made(
            method,
            arguments,
            &[MethodKind::Unary, MethodKind::Oneway],
            None,
            reply,
        )
    }

    /// Calls a method that is `oneway`, like [`call`](Self::call), without a description too. Awaiting the call gives `()` once the request is
    /// on its way.
    pub fn oneway(&self, method: &str, arguments: Encoded) -> Call<Result<(), RpcError>, S> {
        self.made(
            method,
            arguments,
            &[MethodKind::Oneway],
            None,
            |result, _| result.map(drop),
        )
    }

    /// Calls a method that returns a stream, like [`call`](Self::call). Awaiting the call gives the stream. An error that the method returns
    /// before the stream is an error of the call, and one in the stream is its last item; both are [`CallError::App`].
    pub fn server_streaming(&self, method: &str, arguments: Encoded) -> Call<StreamReply, S> {
        self.made(
            method,
            arguments,
            &[MethodKind::ServerStreaming],
            None,
            stream_reply,
        )
    }

    /// Calls a method that takes a stream and returns one value, like [`call`](Self::call). The arguments are those beside the stream. Items
    /// are sent in the format of the arguments.
    pub fn client_streaming(
        &self,
        method: &str,
        arguments: Encoded,
        items: impl Stream<Item = Encoded> + Send + 'static,
    ) -> Call<Reply, S> {
        let items = Some(source(items));
        self.made(
            method,
            arguments,
            &[MethodKind::ClientStreaming],
            items,
            reply,
        )
    }

    /// Calls a method that takes a stream and returns another, like [`client_streaming`](Self::client_streaming) and
    /// [`server_streaming`](Self::server_streaming).
    pub fn bidirectional(
        &self,
        method: &str,
        arguments: Encoded,
        items: impl Stream<Item = Encoded> + Send + 'static,
    ) -> Call<StreamReply, S> {
        let items = Some(source(items));
        self.made(
            method,
            arguments,
            &[MethodKind::Bidirectional],
            items,
            stream_reply,
        )
    }

    /// Makes a call of a method that has one of `kinds`. Without a description the first one counts.
    fn made<R>(
        &self,
        method: &str,
        arguments: Encoded,
        kinds: &[MethodKind],
        items: Option<ItemSource>,
        decode: fn(Result<Response, RpcError>, &mut Reading) -> R,
    ) -> Call<R, S> {
        let (request, timeout) = match self.request(method, arguments, kinds, items) {
            Ok((request, timeout)) => (Ok(request), timeout),
            Err(error) => (Err(error), None),
        };
        Call::new(self.service.clone(), request, timeout, decode)
    }

    fn request(
        &self,
        method: &str,
        arguments: Encoded,
        kinds: &[MethodKind],
        items: Option<ItemSource>,
    ) -> Result<(Request, Option<Duration>), RpcError> {
        let known = self.known(method)?;
        let kind = known.map_or(kinds[0], |known| known.kind);
        if !kinds.contains(&kind) {
            return Err(self.other_kind(method, kind));
        }
        let queue = known.and_then(|known| known.queue.as_deref());
        let returns_items = kind.returns_items();
        let streams = (returns_items || items.is_some()).then(|| {
            Box::new(StreamCall {
                returns_items,
                sends_items: items.is_some(),
                items: items.map(Slot::new),
                ..StreamCall::default()
            })
        });
        let request = Request::untyped(UntypedRequest {
            service: self.name.clone(),
            queue: queue.map_or_else(|| self.queue.clone(), Arc::from),
            method,
            arguments,
            oneway: kind == MethodKind::Oneway,
            idempotent: known.is_some_and(|known| known.idempotent),
            persistent: known.is_some_and(|known| known.persistent),
            priority: known.and_then(|known| known.priority),
            streams,
        });
        Ok((request, known.and_then(|known| known.timeout)))
    }

    /// Returns the description of a method; `None` for any method without a description of the service.
    fn known(&self, method: &str) -> Result<Option<&MethodInfo>, RpcError> {
        let Some(description) = &self.description else {
            return Ok(None);
        };
        let mut methods = description.methods.iter();
        let found = match method {
            "" if description.methods.len() == 1 => methods.next(),
            "" => methods.find(|known| known.default),
            name => methods.find(|known| known.name == name),
        };
        found.map(Some).ok_or_else(|| {
            let service = &self.name;
            let reason = format!("the description of {service} has no method '{method}'");
            RpcError::new(ErrorKind::UnknownMethod, reason)
        })
    }

    fn other_kind(&self, method: &str, kind: MethodKind) -> RpcError {
        let service = &self.name;
        let right = match kind {
            MethodKind::Unary => "call".to_owned(),
            // The functions have the names of the kinds.
            other => other.to_string(),
        };
        RpcError::new(
            ErrorKind::Encode,
            format!("{service}.{method} has another kind: call it with `UntypedClient::{right}`"),
        )
    }
}

/// Returns the source of a caller's items.
fn source(items: impl Stream<Item = Encoded> + Send + 'static) -> ItemSource {
    Box::new(move |content_type| {
        Box::pin(items.map(move |item| {
            item.body_as(content_type).map_err(|cause| {
                let reason =
                    format!("an item of the caller's stream could not be encoded: {cause}");
                StreamError::Rpc(RpcError::new(ErrorKind::Encode, reason))
            })
        }))
    })
}

fn reply(response: Result<Response, RpcError>, _: &mut Reading) -> Reply {
    let Response {
        outcome,
        content_type,
        body,
        ..
    } = response?;
    let value = Encoded::new(content_type, body);
    match outcome {
        Outcome::Result => Ok(value),
        Outcome::Error => Err(CallError::App(value)),
    }
}

fn stream_reply(response: Result<Response, RpcError>, call: &mut Reading) -> StreamReply {
    let response = response?;
    match response.outcome {
        Outcome::Result => Ok(Streaming::from_response(response, item, call)?),
        Outcome::Error => Err(CallError::App(Encoded::new(
            response.content_type,
            response.body,
        ))),
    }
}

fn item(
    item: Result<Bytes, StreamError>,
    content_type: ContentType,
    _is_unreadable: &mut bool,
) -> Result<Encoded, CallError<Encoded>> {
    match item {
        Ok(item) => Ok(Encoded::new(content_type, item)),
        Err(StreamError::Own(error)) => Err(CallError::App(Encoded::new(content_type, error))),
        Err(StreamError::Rpc(error)) => Err(error.into()),
    }
}

impl<S> fmt::Debug for UntypedClient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UntypedClient")
            .field("service", &self.name)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}
