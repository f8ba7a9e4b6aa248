//! A call that has not been sent yet, and the future that sends it.

use std::any::TypeId;
use std::fmt;
use std::future::{Future, IntoFuture};
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
/// Nothing happens before the call is awaited. To spawn it, or to have several in flight at once, turn it into a future with
/// `into_future()`. It ends by its deadline, whatever happens: the call's own
/// [`timeout`](Self::timeout) or [`deadline`](Self::deadline), else the method's or the trait's `timeout`, else the
/// client's, which is 30 seconds unless set.
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
/// # Ok(())
/// # }
/// ```
#[must_use = "a call does nothing unless it is awaited"]
pub struct Call<R, S = Client> {
    service: S,
    request: Result<Request, RpcError>,
    limit: Limit,
    decode: Decode<R>,
}

/// How what awaiting gives is made of the answer.
pub(super) type Decode<R> = fn(Result<Response, RpcError>, &mut bool) -> R;

/// When the caller gives up.
enum Limit {
    /// When the client's default says so.
    Default,
    After(Duration),
    At(Instant),
}

impl<R, S> Call<R, S> {
    pub(crate) fn new(
        service: S,
        request: Result<Request, RpcError>,
        timeout: Option<Duration>,
        decode: Decode<R>,
    ) -> Self {
        Self {
            service,
            request,
            limit: timeout.map_or(Limit::Default, Limit::After),
            decode,
        }
    }

    fn change(mut self, change: impl FnOnce(&mut Request)) -> Self {
        if let Ok(request) = &mut self.request {
            change(request);
        }
        self
    }

    /// Waits at most this long, counted from the `.await`; replaces every default, and an earlier deadline. In a handler the
    /// call ends with the handler's own time in any case, see [`Context`](crate::Context#what-nested-calls-inherit).
    ///
    /// Zero fails at once with [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) and sends nothing. The broker and the server are told, so a
    /// request that nobody waits for any more is not run. Longer than 30 years is cut to 30 years.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limit = Limit::After(timeout);
        self
    }

    /// Waits until this moment, like [`timeout`](Self::timeout).
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.limit = Limit::At(deadline);
        self
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
    /// with an [`RpcError`] there are none.
    ///
    /// The timeout counts from here.
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
    pub fn with_headers(self) -> CallFuture<(R, Headers)> {
        self.send(|decode, mut answer, unreadable| {
            let headers = match &mut answer {
                Ok(response) => std::mem::take(&mut response.headers),
                Err(_) => Headers::new(),
            };
            (decode(answer, unreadable), headers)
        })
    }

    /// Sends the request when it is polled. Its time counts from here, and it is part of the call that is handled here.
    fn send<T: 'static>(
        self,
        finish: fn(Decode<R>, Result<Response, RpcError>, &mut bool) -> T,
    ) -> CallFuture<T> {
        let Self {
            service,
            mut request,
            limit,
            decode,
        } = self;
        if let Ok(request) = &mut request {
            request.0.deadline = match limit {
                Limit::Default => None,
                Limit::After(timeout) => Some(deadline_after(timeout)),
                Limit::At(deadline) => Some(deadline.into()),
            };
            // A client alone needs nobody to keep its deadline.
            if TypeId::of::<S>() != TypeId::of::<Client>() {
                request.0.journey = Some(Journey::begin());
            }
        }
        let mut parent = Context::current();
        CallFuture(Box::pin(async move {
            let mut unreadable = false;
            let mut request = match request {
                Ok(request) => request,
                Err(error) => return finish(decode, Err(error), &mut unreadable),
            };
            // One that was made outside of a scope may be run inside.
            parent = parent.or_else(Context::current);
            if let Some(parent) = &parent {
                parent.hand_on(&mut request);
            }
            let mut observed = Observed::by_client(&mut request);
            let answer = if request.0.journey.is_none() && parent.is_none() && observed.is_none() {
                service::call(service, request).await
            } else {
                // Boxed, so that it takes no room in the others.
                let answer = surrounded(parent, service, request);
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
        }))
    }
}

impl<R: 'static, S: RpcService> IntoFuture for Call<R, S> {
    type Output = R;
    type IntoFuture = CallFuture<R>;

    fn into_future(self) -> CallFuture<R> {
        self.send(|decode, answer, unreadable| decode(answer, unreadable))
    }
}

/// A call that goes through layers, is part of another one, or is heard of.
async fn surrounded<S: RpcService>(
    parent: Option<Context>,
    service: S,
    request: Request,
) -> Result<Response, RpcError> {
    let (journey, own) = (request.0.journey.clone(), request.0.deadline);
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

impl<R, S> fmt::Debug for Call<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// The future of a [`Call`].
#[must_use = "futures do nothing unless polled"]
pub struct CallFuture<R>(Pin<Box<dyn Future<Output = R> + Send>>);

impl<R> Future for CallFuture<R> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<R> {
        self.0.as_mut().poll(cx)
    }
}

impl<R> fmt::Debug for CallFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallFuture")
    }
}
