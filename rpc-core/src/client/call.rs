//! A call: a request that has not been sent yet, and the future that sends it.

use std::any::TypeId;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::layers::through_layers;
use super::service::Client;
use super::streaming::Reading;
use crate::context::Context;
use crate::deadline::LayeredDeadline;
use crate::error::RpcError;
use crate::headers::{HeaderValue, Headers};
use crate::message::{Request, Response};
use crate::service::{self, RpcService};
use crate::telemetry::Observed;

/// A call of a remote method: a future with setters for its options.
///
/// Awaiting a call gives an `R`: `Result<T, RpcError>`, or `Result<T, CallError<E>>` for a method that returns `Result<T, E>`. For a method that
/// returns a stream, `T` is a [`Streaming`](crate::Streaming), and the call resolves when the server has accepted the stream.
///
/// The future is `Send` and `Unpin`, so it can be spawned, joined and selected on as it is. Nothing happens before the first poll, and the
/// timeout counts from there. Setters come before the first poll; later they change nothing, because the request is already on its way.
///
/// A call always ends by its deadline: its own [`timeout`](Self::timeout) or [`deadline`](Self::deadline), else the `timeout` of the
/// method or the trait, else the client's, which is 30 seconds unless set. A call with streams has no deadline unless one is set: its timeout
/// bounds the wait for the first answer, and silence after it.
///
/// # Panics
///
/// Panics if the call is polled again after its completion, like most futures.
///
/// # Cancel safety
///
/// Dropping the future abandons the call: its reply is discarded, and servers are told to stop working on it, see
/// [`ClientBuilder::cancellation`](crate::ClientBuilder::cancellation). Work that the server has done by then is not undone.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use rpc_core::{Connection, RpcError, Server, rpc};
/// #[rpc]
/// trait Fib {
///     async fn fib(n: u64) -> u64;
/// }
/// # struct Calculator;
/// # impl Fib for Calculator {
/// #     async fn fib(&self, n: u64) -> u64 { n }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let connection = Connection::open("memory:").await?;
/// # let _server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
/// let fib = FibClient::new(connection.client());
/// let n = fib.fib(1).timeout(Duration::from_secs(2)).header("tenant", "a").await?;
/// # assert_eq!(n, 1);
///
/// // Two calls at once, one of them in a task of its own.
/// let other = tokio::spawn(fib.fib(2));
/// assert_eq!(fib.fib(3).await?, 3);
/// assert_eq!(other.await??, 2);
/// # Ok(())
/// # }
/// ```
#[must_use = "a call does nothing unless it is awaited"]
pub struct Call<R, S = Client>(State<R, R, S>);

/// A [`Call`] that also gives the headers of the reply; see [`Call::with_headers`].
#[must_use = "a call does nothing unless it is awaited"]
pub struct CallWithHeaders<R, S = Client>(State<R, (R, Headers), S>);

/// State of a call whose response is decoded as an `R` and given as a `T`.
enum State<R, T, S> {
    Unsent(Unsent<R, S>),
    Sent(Pin<Box<dyn Future<Output = T> + Send>>),
}

/// A call before its first poll.
pub(super) struct Unsent<R, S> {
    pub(super) service: S,
    /// The request, and the context in which the call was made. The pair takes no more room than the request alone.
    pub(super) request: Result<(Request, Option<Context>), RpcError>,
    pub(super) decode: Decode<R>,
}

/// Function that turns the response into the value that awaiting a call gives.
pub(crate) type Decode<R> = fn(Result<Response, RpcError>, &mut Reading) -> R;

impl<R, S> Call<R, S> {
    pub(crate) fn new(
        service: S,
        request: Result<Request, RpcError>,
        timeout: Option<Duration>,
        decode: Decode<R>,
    ) -> Self {
        let unsent = Unsent {
            service,
            request: request.map(|request| (request, Context::current())),
            decode,
        };
        Self(State::Unsent(unsent)).change(|request| set_timeout(request, timeout))
    }

    fn change(mut self, change: impl FnOnce(&mut Request)) -> Self {
        if let State::Unsent(Unsent {
            request: Ok((request, _)),
            ..
        }) = &mut self.0
        {
            change(request);
        }
        self
    }

    /// Returns the call before its first poll; `None` for a call that was polled.
    pub(super) fn into_unsent(self) -> Option<Unsent<R, S>> {
        match self.0 {
            State::Unsent(unsent) => Some(unsent),
            State::Sent(_) => None,
        }
    }

    /// Sets the timeout of the call, counted from the first poll. Replaces every default, and an earlier deadline. In a handler the
    /// call ends with the handler's own deadline in any case, see [`Context`](crate::Context#inheritance-by-nested-calls).
    ///
    /// With zero the call fails at once with [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) and sends nothing. The broker and the server
    /// learn the deadline, so a request is not run after its caller has stopped waiting. Longer than 30 years is cut to 30 years.
    ///
    /// The timeout of a call with streams is no deadline, and leaves a deadline as it is. The timeout bounds the wait for the first answer and
    /// every silence of the server after it. The library gives a sign of life after a third of the timeout, after at least a second and at most
    /// a minute, so an idle stream does not end by its timeout. That takes a timeout of 3 seconds or more. After the end of the caller's own stream, the result of a method without a stream in its result is due
    /// within the timeout. In the direct form the handler is alive in the caller's process, so the timeout bounds the wait for the
    /// first answer and for such a result only.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.change(|request| set_timeout(request, Some(timeout)))
    }

    /// Sets the moment at which the call ends. Otherwise this setter works like [`timeout`](Self::timeout).
    ///
    /// A call with streams ends at this moment as a whole, streams included, with [`ErrorKind::Timeout`](crate::ErrorKind::Timeout), and its
    /// [`timeout`](Self::timeout) stays in force. Default for a call with streams: none.
    pub fn deadline(self, deadline: Instant) -> Self {
        self.change(|request| request.0.deadline.set_moment(deadline.into()))
    }

    /// Sets the window of the stream that the call returns: the number of items that the server may send before the program has read them.
    /// Items beyond the window wait in the handler, which is not polled until the program reads on. 0 counts as 1, and more than 2^20 as 2^20. The window has a limit in
    /// bytes, too. One item may always be on its way, however large.
    ///
    /// Default: the client's, which is 1,024 items and 1 MiB unless set. A larger window takes more memory for a stream that is not read. A
    /// smaller one takes more messages, because credit goes to the server by halves of the window. No effect on a call that returns no stream, and
    /// in the direct form, where the handler makes each item when the program asks for it.
    pub fn window(self, items: usize) -> Self {
        self.change(|request| {
            if let Some(streams) = &mut request.0.streams {
                streams.window_items = Some(items.max(1) as u64);
            }
        })
    }

    /// Sends a header with the request. The handler reads it with [`Context::header`](crate::Context::header).
    ///
    /// [`Headers`] describes the limits of names and values. Beyond them the call fails with
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode) or [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge), and nothing is sent.
    pub fn header(self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.change(|request| request.set_header(name.into(), value.into()))
    }

    /// Sends a header, like [`header`](Self::header), that propagates: the handler's own calls send the header on, and so do the calls of
    /// their handlers, to the end of the chain. Typical headers are a tenant and a request id. Pass secrets to each call that needs them
    /// instead.
    pub fn propagating_header(
        self,
        name: impl Into<String>,
        value: impl Into<HeaderValue>,
    ) -> Self {
        let name = name.into();
        self.change(|request| {
            request.propagate_header(name.clone());
            request.set_header(name, value.into());
        })
    }

    /// Sets the priority of the request. It has an effect in a queue that was declared with priorities
    /// (<https://www.rabbitmq.com/docs/priority>). Default: the method's, else none, which counts as 0.
    pub fn priority(self, priority: u8) -> Self {
        self.change(|request| request.0.priority = Some(priority))
    }

    /// Makes the request survive a restart of the broker (delivery mode 2, confirmed). After its deadline it is not run, like any other
    /// request. Default: the method's setting, else not persistent.
    pub fn persistent(self) -> Self {
        self.change(|request| request.0.persistent = true)
    }
}

impl<R: 'static, S: RpcService> Call<R, S> {
    /// Gives the headers of the reply along with the result. The handler sets them with
    /// [`Context::set_reply_header`](crate::Context::set_reply_header). Values and the service's own errors come with headers; an
    /// [`RpcError`] comes without. Call this method after the setters.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Context, RpcError, rpc};
    /// #[rpc]
    /// trait Files {
    ///     async fn read(name: String, #[ctx] cx: Context) -> String;
    /// }
    ///
    /// struct Disk;
    /// impl Files for Disk {
    ///     async fn read(&self, name: String, cx: Context) -> String {
    ///         cx.set_reply_header("version", 7);
    ///         format!("what is in {name}")
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), RpcError> {
    /// # let files = FilesClient::new(FilesDispatcher::new(Disk));
    /// let (text, headers) = files.read("a".to_owned()).with_headers().await;
    /// assert_eq!(text?, "what is in a");
    /// assert_eq!(headers.get_as("version"), Some(7));
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_headers(self) -> CallWithHeaders<R, S> {
        CallWithHeaders(match self.0 {
            State::Unsent(unsent) => State::Unsent(unsent),
            // The output of a call is fixed at its first poll, so this call gives no headers.
            State::Sent(sent) => State::Sent(sent.map(|result| (result, Headers::new())).boxed()),
        })
    }
}

impl<R: 'static, T: 'static, S: RpcService> State<R, T, S> {
    /// Starts the call if this is the first poll.
    fn poll(
        &mut self,
        cx: &mut task::Context<'_>,
        finish: impl Fn(Decode<R>, Result<Response, RpcError>, &mut Reading) -> T
        + Copy
        + Send
        + 'static,
    ) -> Poll<T> {
        loop {
            match self {
                Self::Sent(sent) => return sent.as_mut().poll(cx),
                Self::Unsent(_) => {
                    // A future without a size needs no allocation.
                    let unsent = std::mem::replace(self, Self::Sent(Box::pin(pending())));
                    if let Self::Unsent(unsent) = unsent {
                        *self = Self::Sent(unsent.send(finish));
                    }
                }
            }
        }
    }
}

impl<R: 'static, S: RpcService> Unsent<R, S> {
    /// Starts the call: the timeout counts from now, and the call inherits from the current context.
    fn send<T: 'static>(
        self,
        finish: impl FnOnce(Decode<R>, Result<Response, RpcError>, &mut Reading) -> T + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = T> + Send>> {
        let Self {
            service,
            request,
            decode,
        } = self;
        let (mut request, parent) = match request {
            Ok(request) => request,
            Err(error) => {
                return async move { finish(decode, Err(error), &mut Reading::default()) }.boxed();
            }
        };
        // The scope of the first poll comes before the scope in which the call was made.
        let parent = Context::current().or(parent);
        request.0.deadline.start();
        if let Some(parent) = &parent {
            parent.hand_on(&mut request);
        }
        let layered = has_layers::<S>().then(|| request.0.deadline.enter_layers());
        let observed = Observed::by_client(&mut request);
        if parent.is_none() && layered.is_none() && observed.is_none() {
            // Most calls: a future of their own keeps a waiting call small.
            return async move {
                let result = service::call(service, request).await;
                finish(decode, result, &mut Reading::default())
            }
            .boxed();
        }
        let mut reading = Reading::of(observed, parent.as_ref(), &request);
        let calling = surrounded(service, request, parent, layered);
        async move {
            let result = match reading.observed() {
                None => calling.await,
                Some(observed) => observed.follow(calling).await,
            };
            finish(decode, result, &mut reading)
        }
        .boxed()
    }
}

/// Sets the timeout of a call. The timeout of a call with streams is no deadline.
fn set_timeout(request: &mut Request, timeout: Option<Duration>) {
    match &mut request.0.streams {
        None => request.0.deadline.set_timeout(timeout),
        Some(streams) => streams.silence = timeout,
    }
}

/// Returns `true` unless the service is a client, which ends the call at the deadline itself.
pub(super) fn has_layers<S: 'static>() -> bool {
    TypeId::of::<S>() != TypeId::of::<Client>()
}

impl<R: 'static, S: RpcService> Future for Call<R, S> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<R> {
        let finish = |decode: Decode<R>, result, reading: &mut Reading| decode(result, reading);
        self.0.poll(cx, finish)
    }
}

impl<R: 'static, S: RpcService> Future for CallWithHeaders<R, S> {
    type Output = (R, Headers);

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<(R, Headers)> {
        let finish =
            |decode: Decode<R>, mut result: Result<Response, RpcError>, reading: &mut Reading| {
                let headers = match &mut result {
                    // A stream has headers, too.
                    Ok(response) if response.items.is_some() => response.headers.clone(),
                    Ok(response) => std::mem::take(&mut response.headers),
                    Err(_) => Headers::new(),
                };
                (decode(result, reading), headers)
            };
        self.0.poll(cx, finish)
    }
}

// Only the future in the box is pinned.
impl<R, S> Unpin for Call<R, S> {}
impl<R, S> Unpin for CallWithHeaders<R, S> {}

/// Makes a call through layers, or as part of another call.
pub(super) async fn surrounded<S: RpcService>(
    service: S,
    request: Request,
    parent: Option<Context>,
    layered: Option<LayeredDeadline>,
) -> Result<Response, RpcError> {
    let is_inherited = request.0.deadline.is_inherited();
    let calling = async {
        match layered {
            None => service::call(service, request).await,
            Some(layered) => through_layers(layered, service, request).await,
        }
    };
    match parent {
        None => calling.await,
        Some(parent) => parent.within(is_inherited, calling).await,
    }
}

impl<R, T, S> fmt::Debug for State<R, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsent(unsent) => f.debug_tuple("Unsent").field(&unsent.request).finish(),
            Self::Sent(_) => f.write_str("Sent"),
        }
    }
}

impl<R, S> fmt::Debug for Call<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Call").field(&self.0).finish()
    }
}

impl<R, S> fmt::Debug for CallWithHeaders<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallWithHeaders").field(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use tower::util::service_fn;

    use super::*;
    use crate::codec::{self, ContentType};
    use crate::definition::{Method, Service};
    use crate::error::BoxError;
    use crate::message::Outcome;

    const GET: &Method = &Method::new("get", &[]);
    const SERVICE: &Service = &Service::new("Shelf", "rpc.Shelf", &[GET]);
    const SECOND: Duration = Duration::from_secs(1);

    /// The time left and a header, as the service sees them.
    type Seen = (Option<Duration>, Option<String>);

    /// A call whose response tells the time left and a header.
    fn call() -> Call<Seen, impl RpcService> {
        let service = service_fn(|request: Request| async move {
            let left = request
                .0
                .deadline
                .moment()
                .map(|deadline| deadline.duration_since(tokio::time::Instant::now()));
            let tenant: Option<&str> = request.headers().get_as("tenant");
            let seen = codec::encode(&(left, tenant), ContentType::MessagePack)?;
            Ok::<_, BoxError>(Response::new(
                Outcome::Result,
                ContentType::MessagePack,
                seen,
            ))
        });
        let request = Request::new(SERVICE, GET, "rpc.Shelf", &());
        Call::new(service, request, None, |result, _| {
            result.and_then(|response| response.decode()).unwrap()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeout_of_a_call_counts_from_its_first_poll() {
        let made = [
            call(),
            call().timeout(SECOND),
            call().deadline(Instant::now()).timeout(SECOND),
        ];
        let at = tokio::time::Instant::now() + 3 * SECOND;
        let until = call().timeout(SECOND).deadline(at.into_std());
        tokio::time::advance(2 * SECOND).await;
        let mut left = Vec::new();
        for call in made {
            left.push(call.await.0);
        }
        assert_eq!(left, [None, Some(SECOND), Some(SECOND)]);
        assert_eq!(until.await.0, Some(SECOND));
    }

    fn context(tenant: &str) -> Context {
        Context::builder()
            .propagating_header("tenant", tenant)
            .build()
    }

    #[tokio::test]
    async fn a_call_belongs_to_the_scope_of_its_poll_or_else_of_its_construction() {
        let made = || context("a").sync_scope(call);
        assert_eq!(made().await.1.as_deref(), Some("a"));
        assert_eq!(tokio::spawn(made()).await.unwrap().1.as_deref(), Some("a"));
        assert_eq!(context("b").scope(made()).await.1.as_deref(), Some("b"));
        assert_eq!(Context::default().scope(made()).await.1, None);
        assert_eq!(context("b").scope(call()).await.1.as_deref(), Some("b"));
        assert_eq!(call().await.1, None);
    }

    #[test]
    fn a_call_before_its_first_poll_is_small() {
        assert!(size_of::<Call<Seen>>() <= 4 * size_of::<usize>());
    }

    #[tokio::test]
    #[should_panic(expected = "resumed after completion")]
    async fn polling_a_completed_call_panics() {
        let mut call = call();
        (&mut call).await;
        (&mut call).await;
    }
}
