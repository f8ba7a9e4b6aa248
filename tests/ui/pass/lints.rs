//! Generated code under strict lints.
#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    missing_copy_implementations,
    missing_debug_implementations,
    unreachable_pub,
    unnameable_types,
    unused_qualifications,
    unused_lifetimes,
    unused_results,
    unit_bindings,
    single_use_lifetimes,
    trivial_casts,
    trivial_numeric_casts,
    elided_lifetimes_in_paths,
    explicit_outlives_requirements,
    let_underscore_drop,
    meta_variable_misuse,
    non_local_definitions,
    non_ascii_idents,
    redundant_lifetimes,
    variant_size_differences,
    ambiguous_negative_literals,
    redundant_imports,
    future_incompatible,
    rust_2018_idioms,
    rust_2021_compatibility,
    rust_2024_compatibility,
    nonstandard_style,
    let_underscore
)]

use rpc_core::{Context, rpc};

/// An error.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Failure;

/// A documented service.
#[rpc(timeout = "2s")]
pub trait Fib {
    /// Asynchronous.
    async fn fib(n: u64) -> u64;
    /// Fallible, with a body.
    async fn checked(&self, n: u64, #[ctx] cx: Context) -> Result<u64, Failure> {
        if cx.redelivered() { Err(Failure) } else { Ok(n) }
    }
    /// Blocking.
    #[rpc(blocking)]
    fn slow(n: u64) -> u64;
    /// Blocking, and declared with `async fn`.
    #[rpc(blocking)]
    async fn slower(&self, n: u64) -> u64;
    /// One way.
    #[rpc(oneway)]
    async fn notify(&self);
    /// A method with the name of a constructor.
    async fn new(n: u64) -> Result<u64, Failure>;
}

/// A generic service.
#[rpc]
pub trait Store<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    /// Gets.
    async fn get(&self, key: String, #[serde(default)] fallback: Option<T>) -> Option<T>;
}

/// Neither implemented nor called.
#[rpc]
trait Unused {
    /// Not called.
    async fn fib(n: u64) -> Result<u64, Failure>;
    /// Not called either.
    async fn new(n: u64) -> u64;
}

fn main() {}
