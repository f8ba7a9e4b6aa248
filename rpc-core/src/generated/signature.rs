//! Signature of a method: the types of its arguments and of its return value, and the steps that depend on them.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use super::dispatcher::Invocation;
use super::emitter::{Emitter, Encoders};
use super::inputs::Inputs;
use super::stub::Stub;
use super::types::{AwaitedStream, SentReturn, stream_from_response};
use crate::client::Call;
use crate::context::Context;
use crate::definition::Method;
use crate::service::{ResponseFuture, RpcService};

/// A method with the arguments `I` that returns `T`.
#[derive(Debug)]
pub struct Signature<I, T, const FALLIBLE: bool>(PhantomData<fn(I) -> T>);

impl<I: Inputs, T: SentReturn<FALLIBLE>, const FALLIBLE: bool> Signature<I, T, FALLIBLE> {
    /// Calls the method through a stub.
    pub fn call<S: RpcService>(
        stub: &Stub<S>,
        method: &'static Method,
        inputs: I,
    ) -> Call<T::Awaited, S> {
        stub.call(method, inputs, T::from_response)
    }

    /// Runs an `async` handler.
    pub fn run<H, C, F>(invocation: Invocation<H>, call: C) -> ResponseFuture
    where
        H: Send + Sync + 'static,
        C: FnOnce(Arc<H>, Context, I::Received) -> F + Send + 'static,
        F: Future<Output = T> + Send,
    {
        invocation.run::<FALLIBLE, I, T, C, F>(call)
    }

    /// Runs a `blocking` handler.
    pub fn run_blocking<H, C>(invocation: Invocation<H>, call: C) -> ResponseFuture
    where
        H: Send + Sync + 'static,
        C: FnOnce(&H, Context, I::Received) -> T + Send + 'static,
    {
        invocation.run_blocking::<FALLIBLE, I, T, C>(call)
    }
}

/// A method with the arguments `I` that returns a stream of `T`. `O` is the return type with `()` in place of the stream: `()`, or a `Result`.
#[derive(Debug)]
pub struct StreamSignature<I, T, const FALLIBLE_ITEMS: bool, O, const FALLIBLE: bool>(
    PhantomData<fn(I) -> (T, O)>,
);

impl<
    I: Inputs,
    T: SentReturn<FALLIBLE_ITEMS>,
    O: SentReturn<FALLIBLE>,
    const FALLIBLE_ITEMS: bool,
    const FALLIBLE: bool,
> StreamSignature<I, T, FALLIBLE_ITEMS, O, FALLIBLE>
{
    /// Calls the method through a stub.
    pub fn call<S: RpcService>(
        stub: &Stub<S>,
        method: &'static Method,
        inputs: I,
    ) -> Call<AwaitedStream<T, O, FALLIBLE_ITEMS, FALLIBLE>, S> {
        let decode = stream_from_response::<T, O, FALLIBLE_ITEMS, FALLIBLE>;
        stub.call(method, inputs, decode)
    }

    /// Runs an `async` handler and drives its stream.
    pub fn run<H, C, F>(invocation: Invocation<H>, call: C) -> ResponseFuture
    where
        H: Send + Sync + 'static,
        C: FnOnce(Arc<H>, Context, I::Received, Emitter<T, O::Error>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
        O::Error: 'static,
    {
        let encoders = Encoders {
            item: T::into_item,
            refusal: O::refusal,
        };
        invocation.run_streaming::<I, T, O::Error, C, F>(encoders, call)
    }
}

/// A [`Signature`] or [`StreamSignature`] of types that cannot be sent. These functions are compiled and never run: `check_argument` or
/// `check_return` rejects the program.
pub trait Unsendable {
    /// In place of [`Signature::call`].
    fn call<S, A, R>(_: &Stub<S>, _: &'static Method, _: A) -> Call<R, S> {
        unreachable!("a program with this call does not compile")
    }

    /// In place of [`Signature::run`].
    fn run<H, C>(_: Invocation<H>, _: C) -> ResponseFuture {
        unreachable!("a program with this handler does not compile")
    }

    /// In place of [`Signature::run_blocking`].
    fn run_blocking<H, C>(_: Invocation<H>, _: C) -> ResponseFuture {
        unreachable!("a program with this handler does not compile")
    }
}

impl<A, T, const FALLIBLE: bool> Unsendable for Signature<A, T, FALLIBLE> {}

impl<I, T, const FALLIBLE_ITEMS: bool, O, const FALLIBLE: bool> Unsendable
    for StreamSignature<I, T, FALLIBLE_ITEMS, O, FALLIBLE>
{
}
