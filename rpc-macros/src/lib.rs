//! The `#[rpc]` attribute of [`rpc-core`](https://docs.rs/rpc-core), which re-exports it: depend on that crate alone.
//!
//! A trait goes through three steps, each with a module of its own: `parse` turns tokens into syntax, `model` turns syntax
//! into a checked service and collects every mistake on the way, `expand` turns the service into tokens and cannot fail.
//! Where there were mistakes, `fallback` takes the place of `expand`.

mod attributes;
mod dependency;
mod expand;
mod fallback;
#[cfg(test)]
mod fuzzing;
mod mistakes;
mod model;
mod parse;
mod steps;

use proc_macro::TokenStream;

/// Turns a trait into a remote service: a client to call it with, and a dispatcher to serve it with.
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
///     /// The same with an error of the service's own.
///     #[rpc(timeout = "500ms")]
///     async fn checked(&self, #[ctx] cx: Context, n: u64) -> Result<u64, TooLarge>;
///
///     /// The same without holding up the runtime.
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
/// // Without a broker; with one it is `FibClient::new(connection.client())`.
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
/// | `name = "…"` | the service's name | the trait's identifier |
/// | `queue = "…"` | the queue that requests go to, at most 244 bytes long | `rpc.` and the name |
/// | `timeout = "2s"` | the deadline of calls, unless the method or the call has its own: a whole number and `ms`, `s`, `m` or `h` | the client's, 30 seconds |
/// | `crate = "…"` | the path to `rpc_core`, where another crate exports it | `::rpc_core`, or what `Cargo.toml` renames it to |
///
/// # Options of a method
///
/// They are written above the method, `#[rpc(oneway, priority = 5)]`.
///
/// | option | meaning | default |
/// |---|---|---|
/// | `name = "…"` | the method's name on the wire | its identifier, without `r#` |
/// | `queue = "…"` | a queue of its own, so that slow methods do not hold up fast ones; methods may share one | the trait's |
/// | `timeout = "500ms"` | the deadline of its calls | the trait's |
/// | `oneway` | no reply: the call is done when the broker has the request; the method returns nothing | it replies |
/// | `blocking` | the handler is a plain `fn` and runs on the blocking pool; it is declared with `fn` or `async fn`, and implemented with `fn` | an `async fn` |
/// | `default` | requests that name no method are for this one | only if it is the only method |
/// | `idempotent` | safe to run twice: within the deadline its client sends it again after a lost connection, a refusal by the broker or a server that was told to stop | it is sent once |
/// | `at_most_once` | acknowledged before it runs; a crash loses it, nothing runs it twice. Not together with `idempotent` | acknowledged after its reply: if its server dies, another one runs it again |
/// | `persistent` | requests survive a restart of the broker, until their deadline | they do not |
/// | `priority = 5` | their AMQP priority, from 0 to 255 | none |
///
/// A server reads every queue of a service with a prefetch of its own, and runs a method whichever of them its request came
/// through. So the option `queue` can be added to a method in use: servers first, for clients would not find the queue.
///
/// # Methods
///
/// Methods are `async fn`, with or without `&self`; the handler implements them with `&self`, as plain `async fn` whose
/// futures are `Send`. A default body spares handlers the method, so that a method can be added to a service without
/// breaking anybody. What is returned is a value, or a `Result` by whatever alias, whose error then belongs to the service
/// and reaches the caller as it is.
///
/// Arguments and results own their data, and are `Serialize + DeserializeOwned + Send + 'static`. An argument's name is its
/// name on the wire, so it does not begin with an underscore unless it has a `#[serde(rename = "…")]`. Arguments can have
///
/// - `#[ctx]`, on one argument of type `Context`: the handler gets it from the server, and the client does not have it;
/// - any `#[serde(…)]` of a field: with `#[serde(default)]` a caller may leave the argument out, which is how one is added
///   to a service that is in use;
/// - lint levels, such as `#[allow(unused_variables)]`.
///
/// The methods of a trait cannot be generic, but the trait can: in `trait Store<T>` write all the bounds that `T` needs to
/// be sent. The name and the queue do not depend on `T`: servers of `Store<String>` and of `Store<u64>` read one queue, and are given
/// each other's requests. Give each a queue of its own with `with_queue` or `with_queue_prefix`, on clients and dispatchers alike. In such a trait a return type that depends on `T` is a `Result` if its name ends in `Result`. A method may have
/// any name but `with_queue`, `with_queue_prefix`, `into` and `try_into`, which mean something else on a client.
///
/// # What is generated
///
/// For `trait Fib`, all with the trait's visibility:
///
/// - **`trait Fib`** itself, with the supertraits `Send`, `Sync` and `'static`. An `async fn fib(n: u64) -> u64` has become
///   `fn fib(&self, n: u64) -> impl Future<Output = u64> + Send`.
/// - **`struct FibClient<S = Client>`**, which is `Clone` where `S` is, `Debug`, and has
///   - `FibClient::new(service)`, with a `Client`, a dispatcher, or any other `RpcService`,
///   - `with_queue(queue)`, to send requests to another queue than the trait's; methods with a queue of their own keep it,
///   - `with_queue_prefix(prefix)`, to put this before the name of every queue, given here or in the trait: with a prefix
///     each, deployments on one broker are apart,
///   - every method of the trait, with `&self`, returning a `Call` to be awaited: it gives `Result<T, RpcError>` for a
///     method that returns `T`, and `Result<T, CallError<E>>` for one that returns `Result<T, E>`.
/// - **`struct FibDispatcher<H>`**, which is `Clone` and `Debug`, and for every `H: Fib` a `Dispatch` and a
///   `tower_service::Service<Request>`, and has
///   - `FibDispatcher::new(handler)`, and `FibDispatcher::from(arc)` for a handler in an `Arc`, which the rest of the program keeps,
///   - `with_queue(queue)` and `with_queue_prefix(prefix)`, to serve what clients send to with the same.
///
/// For `trait Store<T>` they are `StoreClient<T, S = Client>` and `StoreDispatcher<T, H>`. A trait with a method called
/// `new` also has a hidden `__FibClientNew`, to which the client derefs: `FibClient::new(service)` makes a client,
/// `client.new(…)` calls the method.
///
/// The docs of the trait and its methods are carried over to the client, `cfg`, `deprecated` and lint levels to everything
/// that is generated for them, also where `cfg_attr` hides them. All attributes but `#[rpc]` stay on the trait. Attributes that rewrite a
/// trait, such as `#[mockall::automock]`, stand below `#[rpc]`. `#[async_trait]` is neither needed nor accepted.
#[proc_macro_attribute]
pub fn rpc(options: TokenStream, item: TokenStream) -> TokenStream {
    steps::expanded(options.into(), item.into()).into()
}
