//! A call: a request that has not been sent yet, and the future that sends it.

use std::any::TypeId;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::Journey;
use crate::Client;
use crate::context::Context;
use crate::error::RpcError;
use crate::headers::{HeaderValue, Headers};
use crate::message::{Request, Response, deadline_after};
use crate::service::{self, RpcService};
use crate::telemetry::Observed;

/// A call of a remote method: set what is special about it, then `.await` it.
///
/// `R` is what awaiting gives: `Result<T, RpcError>`, or `Result<T, CallError<E>>` for a method that returns `Result<T, E>`.
///
/// A call is a future, which is `Send` and `Unpin`: it can be spawned, joined and selected on as it is. Nothing happens before the
/// first poll, and its time counts from there. The setters come before that; afterwards they change nothing, since the request is on
/// its way. It ends by its deadline, whatever happens: the call's own
/// [`timeout`](Self::timeout) or [`deadline`](Self::deadline), else the method's or the trait's `timeout`, else the
/// client's, which is 30 seconds unless set.
///
/// # Panics
///
/// A call that is polled again after it has given its answer panics, as futures do.
///
/// # Cancel safety
///
/// Dropping the future abandons the call: its reply will be discarded, and servers are told to stop working on it, see
/// [`ClientBuilder::cancellation`](crate::ClientBuilder::cancellation). What has been done by then is not undone.
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
/// // Two at once, one of them in a task of its own.
/// let other = tokio::spawn(fib.fib(2));
/// assert_eq!(fib.fib(3).await?, 3);
/// assert_eq!(other.await??, 2);
/// # Ok(())
/// # }
/// ```
#[must_use = "a call does nothing unless it is awaited"]
pub struct Call<R, S = Client>(State<R, R, S>);

/// The future of a [`Call`] that gives the headers of the reply, too; see [`Call::with_headers`].
#[must_use = "a call does nothing unless it is awaited"]
pub struct CallWithHeaders<R, S = Client>(State<R, (R, Headers), S>);

/// The state of a call whose answer is decoded as an `R` and given as a `T`.
enum State<R, T, S> {
    /// Until the first poll.
    Made(Made<R, S>),
    Sent(Pin<Box<dyn Future<Output = T> + Send>>),
}

/// A call before it is sent. The request holds its time limit, and the call in whose handler it was made.
struct Made<R, S> {
    service: S,
    request: Result<Request, RpcError>,
    decode: Decode<R>,
}

/// The function that turns an answer into what awaiting gives.
pub(super) type Decode<R> = fn(Result<Response, RpcError>, &mut bool) -> R;

impl<R, S> Call<R, S> {
    pub(crate) fn new(
        service: S,
        request: Result<Request, RpcError>,
        timeout: Option<Duration>,
        decode: Decode<R>,
    ) -> Self {
        let made = Made {
            service,
            request,
            decode,
        };
        Self(State::Made(made)).change(|request| {
            request.0.timeout = timeout;
            request.0.parent = Context::current();
        })
    }

    fn change(mut self, change: impl FnOnce(&mut Request)) -> Self {
        if let State::Made(Made {
            request: Ok(request),
            ..
        }) = &mut self.0
        {
            change(request);
        }
        self
    }

    /// Waits at most this long, counted from the first poll; replaces every default, and an earlier deadline. In a handler the
    /// call ends with the handler's own time in any case, see [`Context`](crate::Context#what-nested-calls-inherit).
    ///
    /// Zero fails at once with [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) and sends nothing. The broker and the server are told, so a
    /// request that nobody waits for any more is not run. Longer than 30 years is cut to 30 years.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.change(|request| (request.0.timeout, request.0.deadline) = (Some(timeout), None))
    }

    /// Waits until this moment, like [`timeout`](Self::timeout).
    pub fn deadline(self, deadline: Instant) -> Self {
        self.change(|request| {
            (request.0.timeout, request.0.deadline) = (None, Some(deadline.into()));
        })
    }

    /// Sends a header with the request; the handler reads it with [`Context::header`](crate::Context::header).
    ///
    /// See [`Headers`] for the limits of names and values. Beyond them the call fails with
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode), or [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge), and nothing is sent.
    pub fn header(self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.change(|request| request.set_header(name.into(), value.into()))
    }

    /// Sends a header, like [`header`](Self::header), that the calls which the handler makes send on, and their handlers'
    /// calls, to the end of the chain: a tenant, a request id. Secrets are better given to each call that needs them.
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

    /// Sends the request with this priority; it matters where the queue was declared with priorities
    /// (<https://www.rabbitmq.com/docs/priority>). Default: the method's, else none, which counts as 0.
    pub fn priority(self, priority: u8) -> Self {
        self.change(|request| request.0.priority = Some(priority))
    }

    /// Lets the request survive a restart of the broker (delivery mode 2, confirmed), until its deadline: after that it is not
    /// run, as any other. Default: the method's, else not.
    pub fn persistent(self) -> Self {
        self.change(|request| request.0.persistent = true)
    }
}

impl<R: 'static, S: RpcService> Call<R, S> {
    /// Gives the headers of the reply, too, which the handler set with
    /// [`Context::set_reply_header`](crate::Context::set_reply_header). They come with the service's own error as with a value;
    /// with an [`RpcError`] there are none. It comes after the other setters.
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
            State::Made(made) => State::Made(made),
            // The setters come before the first poll. This one cannot change what the other gives.
            State::Sent(sent) => State::Sent(sent.map(|answer| (answer, Headers::new())).boxed()),
        })
    }
}

impl<R: 'static, T: 'static, S: RpcService> State<R, T, S> {
    /// Begins the call if this is the first poll.
    fn poll(
        &mut self,
        cx: &mut task::Context<'_>,
        finish: impl Fn(Decode<R>, Answer, &mut bool) -> T + Copy + Send + 'static,
    ) -> Poll<T> {
        loop {
            match self {
                Self::Sent(sent) => return sent.as_mut().poll(cx),
                Self::Made(_) => {
                    // A future without a size, so that nothing is allocated for it.
                    let made = std::mem::replace(self, Self::Sent(Box::pin(pending())));
                    if let Self::Made(made) = made {
                        *self = Self::Sent(Box::pin(made.send(finish)));
                    }
                }
            }
        }
    }
}

type Answer = Result<Response, RpcError>;

impl<R: 'static, S: RpcService> Made<R, S> {
    /// Sends the request when it is polled. Its time counts from there, and it is part of the call that is handled there.
    fn send<T: 'static>(
        self,
        finish: impl FnOnce(Decode<R>, Answer, &mut bool) -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        let Self {
            service,
            request,
            decode,
        } = self;
        async move {
            let mut unreadable = false;
            let mut request = match request {
                Ok(request) => request,
                Err(error) => return finish(decode, Err(error), &mut unreadable),
            };
            // A client alone keeps its deadline itself.
            begin(&mut request, TypeId::of::<S>() != TypeId::of::<Client>());
            let mut observed = Observed::by_client(&mut request);
            let is_alone = request.0.journey.is_none() && request.0.parent.is_none();
            let answer = if is_alone && observed.is_none() {
                service::call(service, request).await
            } else {
                // Boxed, so that it takes no room in the others.
                let answer = surrounded(service, request);
                match &mut observed {
                    Some(observed) => observed.follow(answer).boxed().await,
                    None => answer.boxed().await,
                }
            };
            let answer = finish(decode, answer, &mut unreadable);
            if let Some(observed) = &mut observed
                && unreadable
            {
                observed.unreadable();
            }
            answer
        }
    }
}

/// Fixes the deadline of a call, and the call of which it is part.
fn begin(request: &mut Request, has_layers: bool) {
    if let Some(timeout) = request.0.timeout.take() {
        request.0.deadline = Some(deadline_after(timeout));
    }
    if has_layers {
        request.0.journey = Some(Journey::begin());
    }
    // One that was made elsewhere may be run inside of a scope.
    if let Some(parent) = Context::current().or_else(|| request.0.parent.take()) {
        parent.hand_on(request);
    }
}

impl<R: 'static, S: RpcService> Future for Call<R, S> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<R> {
        let finish = |decode: Decode<R>, answer, unreadable: &mut bool| decode(answer, unreadable);
        self.0.poll(cx, finish)
    }
}

impl<R: 'static, S: RpcService> Future for CallWithHeaders<R, S> {
    type Output = (R, Headers);

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<(R, Headers)> {
        let finish = |decode: Decode<R>, mut answer: Answer, unreadable: &mut bool| {
            let headers = match &mut answer {
                Ok(response) => std::mem::take(&mut response.headers),
                Err(_) => Headers::new(),
            };
            (decode(answer, unreadable), headers)
        };
        self.0.poll(cx, finish)
    }
}

// Nothing in a call is pinned but what is in its box.
impl<R, S> Unpin for Call<R, S> {}
impl<R, S> Unpin for CallWithHeaders<R, S> {}

/// Calls through layers, as part of another call, or for those who listen.
async fn surrounded<S: RpcService>(service: S, request: Request) -> Answer {
    let (parent, own) = (request.0.parent.clone(), request.0.deadline);
    let journey = request.0.journey.clone();
    let answer = async {
        match journey {
            None => service::call(service, request).await,
            Some(journey) => journey.through_layers(service, request).await,
        }
    };
    match parent {
        None => answer.await,
        Some(parent) => parent.within(own, answer).await,
    }
}

impl<R, T, S> fmt::Debug for State<R, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(made) => f.debug_tuple("Made").field(&made.request).finish(),
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

    /// The part of a call that its service tells of: the time left, and a header.
    type Seen = (Option<Duration>, Option<String>);

    /// A call whose service answers with what it sees.
    fn call() -> Call<Seen, impl RpcService> {
        let service = service_fn(|request: Request| async move {
            let left = request
                .0
                .deadline
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
        Call::new(service, request, None, |answer, _| {
            answer.and_then(|response| response.decode()).unwrap()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_call_counts_from_its_first_poll() {
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
    async fn a_call_is_part_of_the_one_in_which_it_is_polled_or_else_of_the_one_in_which_it_was_made()
     {
        let made = || context("a").sync_scope(call);
        assert_eq!(made().await.1.as_deref(), Some("a"));
        assert_eq!(tokio::spawn(made()).await.unwrap().1.as_deref(), Some("a"));
        assert_eq!(context("b").scope(made()).await.1.as_deref(), Some("b"));
        assert_eq!(Context::default().scope(made()).await.1, None);
        assert_eq!(context("b").scope(call()).await.1.as_deref(), Some("b"));
        assert_eq!(call().await.1, None);
    }

    #[test]
    fn a_call_takes_little_room() {
        assert!(size_of::<Call<Seen>>() <= 4 * size_of::<usize>());
    }

    #[tokio::test]
    #[should_panic(expected = "resumed after completion")]
    async fn a_call_that_has_given_its_answer_is_not_polled_again() {
        let mut call = call();
        (&mut call).await;
        (&mut call).await;
    }
}
