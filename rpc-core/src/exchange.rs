//! What each method exchanges: arguments one way, an answer the other.
//!
//! That a type cannot be sent is the commonest mistake in a service. Left alone, the compiler reports it at every bound
//! that it breaks, a dozen times for one type. So generated code states the bounds in one place, which is never run
//! ([`check_argument`], [`check_answer`]), and goes through [`Exchange`] everywhere else, where types that break them find
//! [`Unsendable`] instead, which compiles with any.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{Call, Stub};
use crate::codec::ContentType;
use crate::context::Context;
use crate::definition::Method;
use crate::error::{CallError, ErrorKind, RpcError};
use crate::message::{Outcome, Response};
use crate::server::Invocation;
use crate::service::{ResponseFuture, RpcService};

/// A type that can be sent: an argument, what a method returns, or its error.
pub trait Value: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Value for T {}

/// A [`Value`] that a method returns, with what to say of a type that is none.
///
/// `Unnamed` is the type of [`unnamed`], which no program can write. The compiler therefore does not propose this trait as a bound of a
/// type parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent over the wire",
    label = "not `Serialize + DeserializeOwned + Send + 'static`",
    note = "for a type of your own, write `#[derive(serde::Serialize, serde::Deserialize)]`",
    note = "for a type of another crate, enable the feature `serde` of that crate, if it has one",
    note = "for a type parameter of the trait, write the bounds: `trait Store<T: Serialize + DeserializeOwned + Send + 'static>`"
)]
pub trait Sent<Unnamed> {}

#[diagnostic::do_not_recommend]
impl<T: Value, Unnamed> Sent<Unnamed> for T {}

/// The same of an argument without `#[ctx]`, which may be the context under another name or inside another type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent over the wire",
    label = "not `Serialize + DeserializeOwned + Send + 'static`",
    note = "for a type of your own, write `#[derive(serde::Serialize, serde::Deserialize)]`",
    note = "for a type of another crate, enable the feature `serde` of that crate, if it has one",
    note = "for a type parameter of the trait, write the bounds: `trait Store<T: Serialize + DeserializeOwned + Send + 'static>`",
    note = "for the context of the call, which the server gives to a handler and callers do not send, write `#[ctx] cx: rpc_core::Context`"
)]
pub trait SentArgument<Unnamed> {}

#[diagnostic::do_not_recommend]
impl<T: Value, Unnamed> SentArgument<Unnamed> for T {}

/// The same of an argument whose type is called `Context` and has no `#[ctx]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent over the wire, and the argument is not marked `#[ctx]`",
    label = "neither marked `#[ctx]` nor `Serialize + DeserializeOwned + Send + 'static`",
    note = "the server gives a handler its `rpc_core::Context`, and callers do not send it: write `#[ctx]` before the argument, as in \
            `#[ctx] cx: Context`",
    note = "for a type of your own that is called `Context`, write `#[derive(serde::Serialize, serde::Deserialize)]`"
)]
pub trait SentContext<Unnamed> {}

#[diagnostic::do_not_recommend]
impl<T: Value, Unnamed> SentContext<Unnamed> for T {}

/// The same of a service's own error.
#[diagnostic::on_unimplemented(
    message = "the error `{Self}` cannot be sent over the wire",
    label = "its error is not `Serialize + DeserializeOwned + Send + 'static`",
    note = "for an error of your own, write `#[derive(Debug, serde::Serialize, serde::Deserialize)]`",
    note = "serde knows nothing of `anyhow::Error`, `std::io::Error` and their like: return an error type of your own, and have the handler \
            turn others into it, such as with `.map_err(|error| OrderError::Internal(error.to_string()))`",
    note = "every call can fail with `RpcError`, whatever its method returns: instead of `Result<u64, RpcError>` return `u64`",
    note = "for a type parameter of the trait, write the bounds: `trait Store<E: Serialize + DeserializeOwned + Send + 'static>`"
)]
pub trait SentError<Unnamed> {}

#[diagnostic::do_not_recommend]
impl<T: Value, Unnamed> SentError<Unnamed> for T {}

/// A function whose type has no name.
pub fn unnamed() {}

/// The type of an argument that is marked `#[ctx]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is marked `#[ctx]` and is not the context of a call",
    label = "not `rpc_core::Context`",
    note = "write `#[ctx] cx: rpc_core::Context`, or remove `#[ctx]` from an argument that callers send"
)]
pub trait FromContext {
    /// Gives the handler its context.
    fn from_context(context: Context) -> Self;
}

impl FromContext for Context {
    fn from_context(context: Context) -> Self {
        context
    }
}

/// What the caller gets for what a method returns: with `FALLIBLE` that is a `Result` whose error is the service's own,
/// else any value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is called a `Result` and is none",
    label = "not a `core::result::Result`",
    note = "in a generic trait `#[rpc]` goes by the name of the return type: use another name, or an alias with another name"
)]
pub trait Answer<const FALLIBLE: bool> {
    /// What awaiting the call gives.
    type Awaited;
    /// What the server sends when it went well.
    type Value;
    /// What it sends when the service failed.
    type Error;
}

impl<T> Answer<false> for T {
    type Awaited = Result<T, RpcError>;
    type Value = T;
    type Error = ();
}

impl<T, E> Answer<true> for Result<T, E> {
    type Awaited = Result<T, CallError<E>>;
    type Value = T;
    type Error = E;
}

/// An answer that can be sent.
pub trait Returns<const FALLIBLE: bool>: Answer<FALLIBLE> + Send + 'static {
    /// Encodes it.
    fn into_response(self, content_type: ContentType) -> Result<Response, RpcError>;

    /// Decodes it; `unreadable` becomes true if that is not possible.
    fn from_answer(answer: Result<Response, RpcError>, unreadable: &mut bool) -> Self::Awaited;
}

impl<T: Value> Returns<false> for T {
    fn into_response(self, content_type: ContentType) -> Result<Response, RpcError> {
        Response::encode(Outcome::Result, content_type, &self)
    }

    fn from_answer(
        answer: Result<Response, RpcError>,
        unreadable: &mut bool,
    ) -> Result<T, RpcError> {
        let response = answer?;
        match response.outcome {
            Outcome::Result => read(&response, unreadable),
            Outcome::Error => {
                *unreadable = true;
                Err(RpcError::new(
                    ErrorKind::BadReply,
                    "the server answered with an error of its own, but the method declares none",
                ))
            }
        }
    }
}

impl<T: Value, E: Value> Returns<true> for Result<T, E> {
    fn into_response(self, content_type: ContentType) -> Result<Response, RpcError> {
        match self {
            Ok(value) => Response::encode(Outcome::Result, content_type, &value),
            Err(error) => Response::encode(Outcome::Error, content_type, &error),
        }
    }

    fn from_answer(
        answer: Result<Response, RpcError>,
        unreadable: &mut bool,
    ) -> Result<T, CallError<E>> {
        let response = answer?;
        match response.outcome {
            Outcome::Result => Ok(read(&response, unreadable)?),
            Outcome::Error => Err(CallError::App(read(&response, unreadable)?)),
        }
    }
}

fn read<T: Value>(response: &Response, unreadable: &mut bool) -> Result<T, RpcError> {
    let value = response.decode();
    *unreadable = value.is_err();
    value
}

/// States that an argument can be sent.
pub fn check_argument<A: SentArgument<U>, U>(_unnamed: U) {}

/// States the same of an argument whose type is called `Context`.
pub fn check_context<A: SentContext<U>, U>(_unnamed: U) {}

/// States that an answer can be sent.
pub fn check_answer<const FALLIBLE: bool, T, U>(_unnamed: U)
where
    T: Answer<FALLIBLE, Value: Sent<U>, Error: SentError<U>>,
{
}

/// A method with the arguments `A` that returns `T`.
#[derive(Debug)]
pub struct Exchange<A, T, const FALLIBLE: bool>(PhantomData<fn(A) -> T>);

impl<A: Value, T: Returns<FALLIBLE>, const FALLIBLE: bool> Exchange<A, T, FALLIBLE> {
    /// The caller's side.
    pub fn call<S: RpcService>(
        stub: &Stub<S>,
        method: &'static Method,
        arguments: A,
    ) -> Call<T::Awaited, S> {
        stub.call(method, arguments, T::from_answer)
    }

    /// The server's side, with an `async` handler.
    pub fn run<H, C, F>(invocation: Invocation<H>, call: C) -> ResponseFuture
    where
        H: Send + Sync + 'static,
        C: FnOnce(Arc<H>, Context, A) -> F + Send + 'static,
        F: Future<Output = T> + Send,
    {
        invocation.run(call)
    }

    /// The server's side, with a `blocking` handler.
    pub fn run_blocking<H, C>(invocation: Invocation<H>, call: C) -> ResponseFuture
    where
        H: Send + Sync + 'static,
        C: FnOnce(&H, Context, A) -> T + Send + 'static,
    {
        invocation.run_blocking(call)
    }
}

/// An [`Exchange`] of types that cannot be sent. What stands here is compiled and never runs: the program is rejected by
/// [`check_argument`] or [`check_answer`].
pub trait Unsendable {
    /// In place of [`Exchange::call`].
    fn call<S, A, R>(_: &Stub<S>, _: &'static Method, _: A) -> Call<R, S> {
        unreachable!("a program with this call does not compile")
    }

    /// In place of [`Exchange::run`].
    fn run<H, C>(_: Invocation<H>, _: C) -> ResponseFuture {
        unreachable!("a program with this handler does not compile")
    }

    /// In place of [`Exchange::run_blocking`].
    fn run_blocking<H, C>(_: Invocation<H>, _: C) -> ResponseFuture {
        unreachable!("a program with this handler does not compile")
    }
}

impl<A, T, const FALLIBLE: bool> Unsendable for Exchange<A, T, FALLIBLE> {}

/// Tells at compile time whether a type is a `Result`, whatever alias names it: what is inherent is preferred to what is the
/// trait's, wherever it applies.
#[derive(Debug)]
pub struct Probe<T>(PhantomData<T>);

/// [`Probe::SHAPE`] of a `Result`.
#[derive(Debug)]
pub struct IsResult;

/// [`Probe::SHAPE`] of anything else.
#[derive(Debug)]
pub struct IsPlain;

impl<T, E> Probe<Result<T, E>> {
    /// That it is one.
    pub const IS_RESULT: bool = true;
    /// The same as a type.
    pub const SHAPE: IsResult = IsResult;
}

/// See [`Probe`].
pub trait NotResult {
    /// That it is none.
    const IS_RESULT: bool = false;
    /// The same as a type.
    const SHAPE: IsPlain = IsPlain;
}

impl<T> NotResult for Probe<T> {}

/// What [`check_is_plain`] accepts.
#[diagnostic::on_unimplemented(
    message = "this type is a `Result` that is not called so",
    label = "an alias of `core::result::Result`",
    note = "in a generic trait `#[rpc]` goes by the name: write `Result<T, E>`, or an alias whose name ends in `Result`"
)]
pub trait Plain {}

impl Plain for IsPlain {}

/// States that a type, whose name does not say so, is not a `Result`. (Only a type tells that in generic code: the value of
/// a constant is known too late.)
pub fn check_is_plain<P: Plain>(_: P) {}
