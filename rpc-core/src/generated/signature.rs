//! Signature of a method: the types of its arguments and of its return value, and the steps that depend on them.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use super::dispatcher::Invocation;
use super::stub::Stub;
use super::types::{SentReturn, Value};
use crate::client::Call;
use crate::context::Context;
use crate::definition::Method;
use crate::service::{ResponseFuture, RpcService};

/// A method with the arguments `A` that returns `T`.
#[derive(Debug)]
pub struct Signature<A, T, const FALLIBLE: bool>(PhantomData<fn(A) -> T>);

impl<A: Value, T: SentReturn<FALLIBLE>, const FALLIBLE: bool> Signature<A, T, FALLIBLE> {
    /// Calls the method through a stub.
    pub fn call<S: RpcService>(
        stub: &Stub<S>,
        method: &'static Method,
        arguments: A,
    ) -> Call<T::Awaited, S> {
        stub.call(method, arguments, T::from_response)
    }

    /// Runs an `async` handler.
    pub fn run<H, C, F>(invocation: Invocation<H>, call: C) -> ResponseFuture
    where
        H: Send + Sync + 'static,
        C: FnOnce(Arc<H>, Context, A) -> F + Send + 'static,
        F: Future<Output = T> + Send,
    {
        invocation.run(call)
    }

    /// Runs a `blocking` handler.
    pub fn run_blocking<H, C>(invocation: Invocation<H>, call: C) -> ResponseFuture
    where
        H: Send + Sync + 'static,
        C: FnOnce(&H, Context, A) -> T + Send + 'static,
    {
        invocation.run_blocking(call)
    }
}

/// A [`Signature`] of types that cannot be sent. These functions are compiled and never run: `check_argument` or `check_return`
/// rejects the program.
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
