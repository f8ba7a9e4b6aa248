//! The `#[rpc]` attribute of `rpc-core`, which re-exports it. Depend on `rpc-core` alone.
//!
//! The attribute works in three steps, each a module: `parse` turns tokens into syntax, `model` turns syntax into a checked
//! service and collects all errors, `expand` turns the service into tokens and cannot fail. If there are errors, `fallback`
//! takes the place of `expand`. `pipeline` connects the steps.

mod attributes;
mod dependency;
mod diagnostics;
mod expand;
mod fallback;
#[cfg(test)]
mod fuzzing;
mod model;
mod names;
mod parse;
mod pipeline;

use proc_macro::TokenStream;

/// Turns a trait into a remote service: generates a client that calls the service and a dispatcher that serves it.
///
/// ```
/// use rpc_core::{Context, RpcError, rpc};
/// use serde::{Deserialize, Serialize};
///
/// #[rpc(timeout = "5s")]
/// pub trait Fib {
///     /// The n-th Fibonacci number.
///     async fn fib(n: u64) -> u64;
///
///     /// `fib` with an error type of the service.
///     #[rpc(timeout = "500ms")]
///     async fn checked(&self, #[ctx] cx: Context, n: u64) -> Result<u64, TooLarge>;
///
///     /// `fib` on the blocking pool.
///     #[rpc(blocking)]
///     fn slow(n: u64) -> u64 {
///         (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
///     }
/// }
///
/// #[derive(Debug, Serialize, Deserialize)]
/// pub struct TooLarge;
///
/// struct Calculator;
///
/// impl Fib for Calculator {
///     async fn fib(&self, n: u64) -> u64 {
///         self.slow(n)
///     }
///
///     async fn checked(&self, cx: Context, n: u64) -> Result<u64, TooLarge> {
///         let is_retry = cx.redelivered();
///         if n > 93 || is_retry { Err(TooLarge) } else { Ok(self.slow(n)) }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), RpcError> {
/// // Calls the handler without a broker. With a broker: `FibClient::new(connection.client())`.
/// let fib = FibClient::new(FibDispatcher::new(Calculator));
/// assert_eq!(fib.fib(30).await?, 832_040);
/// assert_eq!(fib.slow(30).await?, 832_040);
/// assert!(fib.checked(94).await.is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Options of the trait
///
/// | option | meaning | default |
/// |---|---|---|
/// | `name = "…"` | the service's name; at most 241 bytes | the trait's identifier |
/// | `queue = "…"` | the request queue; its name has at most 244 bytes | `rpc.` and the name |
/// | `timeout = "2s"` | the timeout of calls, unless the method or the call sets one: a whole number and `ms`, `s`, `m` or `h` | the client's, 30 seconds |
/// | `version = "…"` | the service's version, which descriptions of instances name | the version of the crate that the trait is in |
/// | `crate = "…"` | the path to `rpc_core` if another crate exports it | `::rpc_core`, or its new name if `Cargo.toml` renames it |
///
/// # Options of a method
///
/// Method options stand above the method: `#[rpc(oneway, priority = 5)]`.
///
/// | option | meaning | default |
/// |---|---|---|
/// | `name = "…"` | the method's name on the wire; must not begin with `rpc.`, which is reserved for built-in methods | the identifier, without `r#` |
/// | `queue = "…"` | a separate request queue, so that slow methods do not delay fast ones; several methods may name the same queue | the trait's |
/// | `timeout = "500ms"` | the timeout of the method's calls; of a method with streams at least 3 seconds, because the timeout bounds the silence between signs of life, and an idle stream does not end by it | the trait's |
/// | `oneway` | no reply: the call resolves when the broker has accepted the request; the method must return `()` | a reply |
/// | `blocking` | the handler runs on the blocking pool; declared with `fn` or `async fn`, implemented with `fn` | an `async fn` on the runtime |
/// | `default` | serves requests that name no method; not for methods with streams | only if the trait has no other method |
/// | `idempotent` | safe to run twice: until the deadline, the client sends the request again after a lost connection, a refusal by the broker, or a server's stop | sent once |
/// | `at_most_once` | acknowledged before it runs: a crash loses the request, and no server runs it twice. Contradicts `idempotent` | acknowledged after the reply: if a server dies, another server runs the request again |
/// | `persistent` | requests survive a restart of the broker, until their deadline | lost in a restart |
/// | `priority = 5` | AMQP priority of requests, from 0 to 255 | none |
///
/// A server consumes every queue of a service, each with its own prefetch limit, and runs a method no matter which of these
/// queues its request came through. So the option `queue` can be added to a method that is in use: update servers first,
/// because clients fail while the queue does not exist.
///
/// # Methods
///
/// Methods are `async fn`, with or without `&self`. Handlers implement them with `&self`, as plain `async fn` with futures
/// that are `Send`. A method with a default body can be added to a service without breaking existing handlers. A method
/// returns a value or a `Result`, also through a type alias. The error of a `Result` belongs to the service and reaches
/// the caller unchanged.
///
/// Arguments and results own their data and are `Serialize + DeserializeOwned + Send + 'static`. The name of an argument is
/// also its name on the wire, so it must not begin with an underscore, unless `#[serde(rename = "…")]` sets another name.
/// An argument may have these attributes:
///
/// - `#[ctx]`, on one argument of type `Context`: the server gives the context to the handler, and the client's method does
///   not have the argument;
/// - every `#[serde(…)]` attribute of fields: with `#[serde(default)]`, callers may omit the argument, so that an argument
///   can be added to a service that is in use;
/// - lint levels, such as `#[allow(unused_variables)]`.
///
/// Methods cannot be generic, but traits can: in `trait Store<T>`, write all bounds that `T` needs to be sent. The service's
/// name and queue do not depend on `T`: servers of `Store<String>` and `Store<u64>` consume the same queue and receive each
/// other's requests. Separate them with `with_queue` or `with_queue_prefix`, on clients and dispatchers alike. In a generic
/// trait, a return type that depends on `T` counts as a `Result` if its name ends in `Result`.
///
/// A method cannot be called `with_queue`, `with_queue_prefix`, `into` or `try_into`: these are other methods of the client.
///
/// # Streams
///
/// A method may return a stream, receive one, or both:
///
/// ```
/// use futures_util::{TryStreamExt as _, stream};
/// use rpc_core::{Incoming, RpcError, Stream, rpc};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Serialize, Deserialize)]
/// pub struct Refused(String);
///
/// #[rpc]
/// pub trait Logs {
///     /// An `Err` ends the stream.
///     async fn tail(file: String) -> impl Stream<Item = Result<String, Refused>>;
///     /// May refuse before the first item.
///     async fn open(file: String) -> Result<impl Stream<Item = String>, Refused>;
///     async fn upload(name: String, parts: impl Stream<Item = Vec<u8>>) -> Result<u64, Refused>;
///     async fn shout(said: impl Stream<Item = String>) -> impl Stream<Item = Result<String, Refused>>;
/// }
///
/// struct Disk {
///     lines: Vec<String>,
/// }
///
/// impl Logs for Disk {
///     async fn tail(&self, _: String) -> impl Stream<Item = Result<String, Refused>> {
///         stream::iter(self.lines.iter().cloned().map(Ok))
///     }
///
///     async fn open(&self, file: String) -> Result<impl Stream<Item = String>, Refused> {
///         match file.as_str() {
///             "secret" => Err(Refused(file)),
///             _ => Ok(stream::iter(self.lines.iter().cloned())),
///         }
///     }
///
///     async fn upload(&self, _: String, mut parts: Incoming<Vec<u8>>) -> Result<u64, Refused> {
///         let mut len = 0;
///         while let Some(part) = parts.next().await {
///             len += part.map_err(|error| Refused(error.to_string()))?.len() as u64;
///         }
///         Ok(len)
///     }
///
///     async fn shout(&self, said: Incoming<String>) -> impl Stream<Item = Result<String, Refused>> {
///         said.map_ok(|text| text.to_uppercase()).map_err(|error| Refused(error.to_string()))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let logs = LogsClient::new(LogsDispatcher::new(Disk { lines: vec!["one".to_owned()] }));
/// let mut lines = logs.tail("a".to_owned()).await?;
/// while let Some(line) = lines.next().await {
///     println!("{}", line?);
/// }
/// let parts = stream::iter([vec![1, 2], vec![3]]);
/// assert_eq!(logs.upload("a".to_owned(), parts).await?, 3);
/// # Ok(())
/// # }
/// # impl std::fmt::Display for Refused {
/// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) }
/// # }
/// # impl std::error::Error for Refused {}
/// ```
///
/// | the trait says | awaiting the call gives |
/// |---|---|
/// | `impl Stream<Item = T>` | `Result<Streaming<T, RpcError>, RpcError>` |
/// | `impl Stream<Item = Result<T, E>>` | `Result<Streaming<T, CallError<E>>, RpcError>` |
/// | `Result<impl Stream<Item = T>, E>` | `Result<Streaming<T, RpcError>, CallError<E>>` |
/// | `Result<impl Stream<Item = Result<T, F>>, E>` | `Result<Streaming<T, CallError<F>>, CallError<E>>` |
///
/// `Stream` is the trait of the crate `futures`, under any path; `rpc_core::Stream` is the same. Handlers are plain `async fn` that return a stream,
/// which is `Send` and may borrow from `self`. The stream runs like the handler: in its context, until its deadline, until the caller is gone. An
/// `Err` ends a stream of `Result`s: later items are not sent.
///
/// A method has one stream at most among its arguments. Callers pass any stream that is `Send + 'static`, and the handler receives an
/// `Incoming<T>`. An `Err` in it means that the caller's items are incomplete: the handler returns an error of its own. The stream's name is not
/// sent. Items are `Serialize + DeserializeOwned + Send + 'static`, like other arguments and results.
///
/// A stream cannot be inside a type other than the returned `Result`, which is recognized by a name that ends in `Result`. A method with
/// streams cannot be `oneway`, `blocking` or `default`. `timeout` bounds the wait for the first answer and the silence after it: see
/// `Call::timeout`.
///
/// # Generated items
///
/// For `trait Fib`, with the trait's visibility:
///
/// - **`trait Fib`** with the supertraits `Send`, `Sync` and `'static`. A method `async fn fib(n: u64) -> u64` becomes
///   `fn fib(&self, n: u64) -> impl Future<Output = u64> + Send`.
/// - **`struct FibClient<S = Client>`**, which is `Debug`, and `Clone` if `S` is:
///   - `FibClient::new(service)` takes a `Client`, a dispatcher, or any other `RpcService`.
///   - `with_queue(queue)` sends requests to this queue instead of the trait's. Methods with a separate queue keep their queue.
///   - `with_queue_prefix(prefix)` puts the prefix before the name of every queue. Deployments with different prefixes can
///     share a broker.
///   - It implements `instances::ServiceClient`, which gives the contract that it was compiled with.
///   - Each method of the trait takes `&self` and returns a `Call`. Awaiting the call gives `Result<T, RpcError>` if the method
///     returns `T`, and `Result<T, CallError<E>>` if it returns `Result<T, E>`. For streams see above.
/// - **`struct FibDispatcher<H>`**, which is `Clone` and `Debug`, and implements `Dispatch` and
///   `tower_service::Service<Request>` if `H: Fib`:
///   - `FibDispatcher::new(handler)` takes a handler, `FibDispatcher::from(arc)` a handler that the program shares.
///   - `with_queue(queue)` and `with_queue_prefix(prefix)` serve the queues of clients with the same settings.
///   - `with_version(version)` replaces the trait's version in descriptions.
///   - `with_queue_options(options)` declares the queues with these options.
///
/// For `trait Store<T>` the structs are `StoreClient<T, S = Client>` and `StoreDispatcher<T, H>`. If a method is called
/// `new`, there is also a hidden struct `__FibClientNew`, to which the client dereferences: `FibClient::new(service)` creates
/// a client, and `client.new(…)` calls the method.
///
/// The client takes over the docs of the trait and its methods. All generated items take over `cfg`, `deprecated` and lint
/// levels, also inside `cfg_attr`. All attributes except `#[rpc]` stay on the trait. Attributes that rewrite a trait, such as
/// `#[mockall::automock]`, must stand below `#[rpc]`. `#[async_trait]` is not needed and not accepted.
#[proc_macro_attribute]
pub fn rpc(options: TokenStream, item: TokenStream) -> TokenStream {
    pipeline::run(options.into(), item.into()).into()
}
