//! Hygiene of generated code: names that collide with it, and unusual places. All calls use the direct form, without a
//! broker: `FibClient::new(FibDispatcher::new(handler))`.
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    non_local_definitions,
    unreachable_pub,
    unused_qualifications,
    clippy::all
)]

extern crate rpc_core as renamed_at_the_root;

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use rpc_core::{CallError, Client, Context, ErrorKind, RpcError, RpcService, rpc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

fn assert_send_sync<T: Send + Sync>() {}
fn assert_unwind_safe<T: UnwindSafe + RefUnwindSafe>() {}
fn assert_send<T: Send>(value: T) -> T {
    value
}

/// All forms of methods.
#[rpc]
pub trait Fib {
    /// Without `&self`.
    async fn fib(n: u64) -> u64;
    /// With `&self`, fallible.
    async fn checked(&self, n: u64) -> Result<u64, TooLarge>;
    /// Blocking.
    #[rpc(blocking)]
    fn slow(n: u64) -> u64;
    /// Returns `()`.
    #[rpc(at_most_once)]
    async fn nothing(&self);
    /// Has no reply.
    #[rpc(
        oneway,
        timeout = "1s",
        priority = 5,
        persistent,
        queue = "notifications"
    )]
    async fn notify(n: u64);
    /// With a context among the arguments.
    async fn tenant(a: String, #[ctx] cx: Context, b: String) -> Option<String>;
}

/// An error of the service.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct TooLarge {
    n: u64,
}

/// A handler.
#[derive(Debug)]
pub struct Calculator;

impl Fib for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n + 1
    }
    async fn checked(&self, n: u64) -> Result<u64, TooLarge> {
        if n > 93 { Err(TooLarge { n }) } else { Ok(n) }
    }
    fn slow(&self, n: u64) -> u64 {
        n + 2
    }
    async fn nothing(&self) {}
    async fn notify(&self, _: u64) {}
    async fn tenant(&self, a: String, cx: Context, b: String) -> Option<String> {
        let tenant = cx.header("tenant").map(|value| format!("{value:?}"))?;
        Some(format!("{a} {} {b}", tenant.contains("acme")))
    }
}

#[tokio::test]
async fn all_forms_of_methods_can_be_called() {
    let fib = FibClient::new(FibDispatcher::new(Calculator));
    assert_eq!(fib.fib(30).await.unwrap(), 31);
    assert_eq!(fib.checked(30).await.unwrap(), 30);
    match fib.checked(94).await {
        Err(CallError::App(error)) => assert_eq!(error, TooLarge { n: 94 }),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        fib.slow(30).timeout(Duration::from_secs(1)).await.unwrap(),
        32
    );
    let () = fib.nothing().await.unwrap();
    let () = fib.notify(5).await.unwrap();
    assert_eq!(fib.tenant("a".into(), "b".into()).await.unwrap(), None);
    let tenant = fib
        .tenant("a".into(), "b".into())
        .header("tenant", "acme")
        .await
        .unwrap();
    assert_eq!(tenant.as_deref(), Some("a true b"));
}

#[test]
fn contexts_and_embedded_brokers_cross_catch_unwind() {
    assert_unwind_safe::<Context>();
    assert_unwind_safe::<rpc_core::testing::EmbeddedBroker>();
    fn assert_ref_unwind_safe<T: RefUnwindSafe>() {}
    assert_ref_unwind_safe::<rpc_core::ContextBuilder>();
}

#[tokio::test]
async fn clients_and_dispatchers_are_cloneable_handles() {
    assert_send_sync::<FibClient>();
    assert_send_sync::<FibClient<Client>>();
    assert_send_sync::<FibClient<FibDispatcher<Calculator>>>();
    assert_send_sync::<FibDispatcher<Calculator>>();
    assert_send_sync::<rpc_core::HealthWatch>();
    let dispatcher = FibDispatcher::new(Calculator).with_queue("other");
    let fib = FibClient::new(dispatcher.clone()).with_queue(String::from("other"));
    assert!(format!("{:?} {:?}", fib.clone(), dispatcher).contains("other"));
    let dispatcher = dispatcher.with_queue_prefix("staging.");
    let fib = fib.with_queue_prefix(String::from("staging."));
    for shown in [format!("{fib:?}"), format!("{dispatcher:?}")] {
        assert!(shown.contains("\"staging.other\""), "{shown}");
        assert!(shown.contains("\"staging.notifications\""), "{shown}");
    }
    assert_eq!(assert_send(fib.fib(1).into_future()).await.ok(), Some(2));
}

#[tokio::test]
async fn handlers_can_be_shared_with_the_program() {
    /// Counts calls.
    #[derive(Default)]
    struct Counter(AtomicU64);

    #[rpc]
    trait Count {
        async fn count() -> u64;
    }

    #[rpc]
    trait Add<T: Serialize + DeserializeOwned + Send + 'static> {
        async fn add(n: T) -> u64;
    }

    impl Count for Counter {
        async fn count(&self) -> u64 {
            self.0.fetch_add(1, Ordering::Relaxed) + 1
        }
    }

    impl Add<u8> for Counter {
        async fn add(&self, n: u8) -> u64 {
            self.0.fetch_add(n.into(), Ordering::Relaxed) + u64::from(n)
        }
    }

    let counter = Arc::new(Counter::default());
    let client = CountClient::new(CountDispatcher::from(counter.clone()));
    assert_eq!(client.count().await.unwrap(), 1);
    let client = AddClient::new(AddDispatcher::from(counter.clone()));
    assert_eq!(client.add(2).await.unwrap(), 3);
    let same: CountDispatcher<_> = counter.clone().into();
    assert_eq!(CountClient::new(same).count().await.unwrap(), 4);
    assert_eq!(counter.0.load(Ordering::Relaxed), 4);
}

/// Spawns calls over any service.
async fn spawned_over_any_service<S: RpcService + Sync>(
    fib: FibClient<S>,
) -> Result<u64, RpcError> {
    let fib_again = fib.clone();
    let call = tokio::spawn(async move { fib_again.fib(1).await });
    let owned = tokio::spawn(fib.fib(2).into_future());
    Ok(call.await.expect("the task does not panic")?
        + owned.await.expect("the task does not panic")?)
}

/// Spawns calls to any handler.
async fn spawned_over_any_handler<H: Fib>(handler: H) -> Result<u64, RpcError> {
    let fib = FibClient::new(FibDispatcher::new(handler));
    tokio::spawn(async move { fib.fib(1).await })
        .await
        .expect("the task does not panic")
}

#[tokio::test]
async fn calls_can_be_spawned_in_generic_code() -> Result<(), RpcError> {
    assert_eq!(
        spawned_over_any_service(FibClient::new(FibDispatcher::new(Calculator))).await?,
        5
    );
    assert_eq!(spawned_over_any_handler(Calculator).await?, 2);
    Ok(())
}

pub mod no_prelude {
    //! A module without the standard prelude.
    #![no_implicit_prelude]
    #![allow(missing_docs)]

    use ::rpc_core::rpc;

    #[rpc(timeout = "5s")]
    pub trait Bare {
        async fn id(n: u64) -> u64;
        async fn text(
            &self,
            s: ::std::string::String,
        ) -> ::std::option::Option<::std::string::String>;
        async fn fails(n: u64) -> ::std::result::Result<u64, ::std::string::String> {
            ::std::result::Result::Err(::std::string::ToString::to_string(&n))
        }
        #[rpc(blocking)]
        fn blocks(#[ctx] cx: ::rpc_core::Context) -> bool;
        async fn new();
        async fn sums(
            #[ctx] cx: ::rpc_core::Context,
            start: u64,
            numbers: impl ::rpc_core::Stream<Item = u64>,
        ) -> ::std::result::Result<
            impl ::rpc_core::Stream<Item = ::std::result::Result<u64, ::std::string::String>>,
            u8,
        >;
    }

    #[rpc]
    pub trait Generic<
        T: ::serde::Serialize + ::serde::de::DeserializeOwned + ::std::marker::Send + 'static,
        const N: usize,
    >
    {
        async fn get(n: [T; 2], #[serde(default)] m: u8) -> T;
        async fn both(
            #[serde(default)] first: ::std::option::Option<T>,
            more: impl ::rpc_core::Stream<Item = T>,
        ) -> impl ::rpc_core::Stream<Item = ::std::option::Option<T>>;
    }

    #[derive(::std::fmt::Debug)]
    pub struct Handler;

    impl Bare for Handler {
        async fn id(&self, n: u64) -> u64 {
            n
        }
        async fn text(
            &self,
            s: ::std::string::String,
        ) -> ::std::option::Option<::std::string::String> {
            ::std::option::Option::Some(s)
        }
        fn blocks(&self, cx: ::rpc_core::Context) -> bool {
            ::std::option::Option::is_some(&cx.deadline())
        }
        async fn new(&self) {}
        async fn sums(
            &self,
            _: ::rpc_core::Context,
            start: u64,
            numbers: ::rpc_core::Incoming<u64>,
        ) -> ::std::result::Result<
            impl ::rpc_core::Stream<Item = ::std::result::Result<u64, ::std::string::String>>,
            u8,
        > {
            ::std::result::Result::Ok(::futures_util::StreamExt::map(numbers, move |number| {
                ::std::result::Result::map(
                    ::std::result::Result::map_err(number, |error| {
                        ::std::string::ToString::to_string(&error)
                    }),
                    |number| start + number,
                )
            }))
        }
    }

    impl Generic<u8, 3> for Handler {
        async fn get(&self, n: [u8; 2], m: u8) -> u8 {
            n[0] + n[1] + m
        }
        async fn both(
            &self,
            first: ::std::option::Option<u8>,
            more: ::rpc_core::Incoming<u8>,
        ) -> impl ::rpc_core::Stream<Item = ::std::option::Option<u8>> {
            ::std::mem::drop(more);
            ::futures_util::stream::iter([first])
        }
    }
}

#[tokio::test]
async fn generated_code_needs_no_prelude() {
    use no_prelude::{BareClient, BareDispatcher, GenericClient, GenericDispatcher, Handler};
    let bare = BareClient::new(BareDispatcher::new(Handler));
    assert_eq!(bare.id(5).await.unwrap(), 5);
    assert_eq!(bare.text("x".into()).await.unwrap().as_deref(), Some("x"));
    assert!(matches!(bare.fails(5).await, Err(CallError::App(text)) if text == "5"));
    let _: bool = bare.blocks().await.unwrap();
    let () = bare.new().await.unwrap();
    let generic = GenericClient::<_, 3, _>::new(GenericDispatcher::new(Handler));
    assert_eq!(generic.get([1, 2], 3).await.unwrap(), 6);
    let mut sums = bare.sums(1, stream::iter([2])).await.unwrap();
    assert_eq!(sums.next().await.unwrap().unwrap(), 3);
    let mut both = generic.both(Some(7), stream::empty()).await.unwrap();
    assert_eq!(both.next().await.unwrap().unwrap(), Some(7));
}

pub mod colliding_types {
    //! Types of the user with the names of types that generated code uses.
    #![allow(missing_docs, dead_code, non_camel_case_types)]

    use rpc_core::rpc;
    use serde::{Deserialize, Serialize};

    macro_rules! types {
        ($($name:ident)*) => {
            $(#[derive(Debug, PartialEq, Clone, Default, Serialize, Deserialize)] pub struct $name;)*
        };
    }
    types! {
        String Client Call Request Response Future Vec Arc Box Context Stub Service Method Dispatcher Dispatch Duration
        Pin Poll PhantomData Send Sync Into From Clone_ Serialize_ Deserialize_ RpcError CallError RpcService Awaited S H T
        TypeInfo ServiceInfo ServiceClient DescribedType DescribedMethod DescribedArgument Probe Undescribed Direction JsonSchema
        S1 H1 A C F E Handler_ core std Stream Streaming Incoming WithItems Emitter Signature StreamSignature
    }

    #[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
    pub enum Option {
        Some(u64),
        None,
    }

    #[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
    pub struct Result {
        pub value: u64,
    }

    /// A function with a name of the prelude.
    pub const fn drop() {}

    #[rpc]
    pub trait Colliding {
        async fn strings(a: String, b: Vec, c: Box, d: Arc) -> Option;
        async fn result(a: Call, context: Context) -> Result;
        async fn results(a: Request, b: Response) -> ::std::result::Result<Future, Context>;
        async fn parameters(s: S, h: H, t: T) -> (S1, H1);
        #[rpc(blocking)]
        fn client(client: Client, a: A, c: C, f: F, e: E) -> Service;
        async fn streams(
            items: Emitter,
            emitter: impl rpc_core::Stream<Item = Incoming>,
        ) -> impl rpc_core::Stream<Item = Streaming>;
        async fn results_of_streams(
            result: impl rpc_core::Stream<Item = Stream>,
        ) -> ::std::result::Result<
            impl rpc_core::Stream<Item = ::std::result::Result<WithItems, Signature>>,
            StreamSignature,
        >;
    }

    #[derive(Debug)]
    pub struct Handler;

    impl Colliding for Handler {
        async fn strings(&self, _: String, _: Vec, _: Box, _: Arc) -> Option {
            Option::Some(5)
        }
        async fn result(&self, _: Call, _: Context) -> Result {
            Result { value: 6 }
        }
        async fn results(&self, _: Request, _: Response) -> ::std::result::Result<Future, Context> {
            Err(Context)
        }
        async fn parameters(&self, _: S, _: H, _: T) -> (S1, H1) {
            (S1, H1)
        }
        fn client(&self, _: Client, _: A, _: C, _: F, _: E) -> Service {
            Service
        }
        async fn streams(
            &self,
            _: Emitter,
            emitter: rpc_core::Incoming<Incoming>,
        ) -> impl rpc_core::Stream<Item = Streaming> {
            futures_util::StreamExt::map(emitter, |_| Streaming)
        }
        async fn results_of_streams(
            &self,
            _: rpc_core::Incoming<Stream>,
        ) -> ::std::result::Result<
            impl rpc_core::Stream<Item = ::std::result::Result<WithItems, Signature>>,
            StreamSignature,
        > {
            Ok(futures_util::stream::iter([Err(Signature)]))
        }
    }
}

#[tokio::test]
async fn types_may_have_colliding_names() {
    use colliding_types as ty;
    let client = ty::CollidingClient::new(ty::CollidingDispatcher::new(ty::Handler));
    assert_eq!(
        client
            .strings(ty::String, ty::Vec, ty::Box, ty::Arc)
            .await
            .unwrap(),
        ty::Option::Some(5)
    );
    // A struct called `Result` is an ordinary value.
    assert_eq!(
        client.result(ty::Call, ty::Context).await.unwrap(),
        ty::Result { value: 6 }
    );
    assert!(matches!(
        client.results(ty::Request, ty::Response).await,
        Err(CallError::App(ty::Context))
    ));
    assert_eq!(
        client.parameters(ty::S, ty::H, ty::T).await.unwrap(),
        (ty::S1, ty::H1)
    );
    assert_eq!(
        client
            .client(ty::Client, ty::A, ty::C, ty::F, ty::E)
            .await
            .unwrap(),
        ty::Service
    );
    let mut items = client
        .streams(ty::Emitter, stream::iter([ty::Incoming]))
        .await
        .unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), ty::Streaming);
    let mut items = client.results_of_streams(stream::empty()).await.unwrap();
    let last = items.next().await;
    assert!(matches!(last, Some(Err(CallError::App(ty::Signature)))));
}

macro_rules! colliding_methods {
    ($($name:ident)*) => {
        /// Methods and arguments with names that generated code or Rust uses.
        #[rpc]
        pub trait CollidingMethods {
            $(
                /// Adds.
                #[allow(clippy::should_implement_trait, clippy::new_ret_no_self, clippy::wrong_self_convention)]
                async fn $name(&self, $name: u64, other: u64) -> u64 {
                    $name + other
                }
            )*
            /// The name on the wire is `type`.
            async fn r#type(r#type: String, r#match: u64) -> u64;
            /// Arguments only.
            #[allow(clippy::too_many_arguments)]
            async fn arguments(
                service: u8, handler: u8, queue: u8, client: u8, request: u8, invocation: u8, arguments: u8, context: u8,
                method: u8, stub: u8, inner: u8, marker: u8, formatter: u8, refusal: u8, dispatcher: u8, self_: u8,
                new: u8, output: u8, cx: u8,
            ) -> u8;
        }

        #[tokio::test]
        async fn methods_and_arguments_may_have_colliding_names() -> Result<(), RpcError> {
            let client = CollidingMethodsClient::new(CollidingMethodsDispatcher::new(Calculator));
            $(assert_eq!(client.$name(1, 2).await?, 3);)*
            assert_eq!(client.r#type("ab".into(), 1).await?, 3);
            let sum = client.arguments(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1).await?;
            assert_eq!(sum, 19);
            Ok(())
        }
    };
}

colliding_methods! {
    new clone client request call run self_ stub fmt deref into_future poll_ready timeout header queue service handler
    dispatcher accept method main default drop from eq as_ref borrow to_owned type_id r#async unknown_method arguments_of
    service_info served_info types schema accepts_missing describe with_version version
}

impl CollidingMethods for Calculator {
    async fn r#type(&self, r#type: String, r#match: u64) -> u64 {
        r#type.len() as u64 + r#match
    }
    async fn arguments(
        &self,
        service: u8,
        handler: u8,
        queue: u8,
        client: u8,
        request: u8,
        invocation: u8,
        arguments: u8,
        context: u8,
        method: u8,
        stub: u8,
        inner: u8,
        marker: u8,
        formatter: u8,
        refusal: u8,
        dispatcher: u8,
        self_: u8,
        new: u8,
        output: u8,
        cx: u8,
    ) -> u8 {
        [
            service, handler, queue, client, request, invocation, arguments, context, method, stub,
            inner, marker, formatter, refusal, dispatcher, self_, new, output, cx,
        ]
        .iter()
        .sum()
    }
}

#[tokio::test]
async fn raw_identifiers_have_no_prefix_on_the_wire() -> Result<(), RpcError> {
    /// The same service with explicit names on the wire.
    #[rpc(name = "CollidingMethods")]
    trait Plain {
        #[rpc(name = "type")]
        async fn kind(
            #[serde(rename = "type")] text: String,
            #[serde(rename = "match")] n: u64,
        ) -> u64;
    }
    let client = PlainClient::new(CollidingMethodsDispatcher::new(Calculator));
    assert_eq!(client.kind("ab".into(), 1).await?, 3);
    Ok(())
}

pub mod renamed {
    //! `rpc_core` under other names.
    #![allow(missing_docs)]

    pub mod deep {
        pub use rpc_core as inner;
    }

    #[rpc_core::rpc(crate = "renamed_at_the_root")]
    pub trait AtTheRoot {
        async fn id(n: u64) -> u64;
    }

    #[rpc_core::rpc(crate = crate::renamed::deep::inner)]
    pub trait ByPath {
        async fn id(n: u64) -> Result<u64, String>;
    }

    #[rpc_core::rpc(crate = "self::deep::inner")]
    pub trait BySelf<T: Send + Sync + serde::Serialize + serde::de::DeserializeOwned + 'static> {
        async fn id(n: T) -> T;
    }

    impl AtTheRoot for super::Calculator {
        async fn id(&self, n: u64) -> u64 {
            n
        }
    }
    impl ByPath for super::Calculator {
        async fn id(&self, n: u64) -> Result<u64, String> {
            Ok(n)
        }
    }
    impl BySelf<u64> for super::Calculator {
        async fn id(&self, n: u64) -> u64 {
            n
        }
    }
}

#[tokio::test]
async fn crate_may_be_renamed() {
    use renamed::{
        AtTheRootClient, AtTheRootDispatcher, ByPathClient, ByPathDispatcher, BySelfClient,
        BySelfDispatcher,
    };
    assert_eq!(
        AtTheRootClient::new(AtTheRootDispatcher::new(Calculator))
            .id(5)
            .await
            .unwrap(),
        5
    );
    assert_eq!(
        ByPathClient::new(ByPathDispatcher::new(Calculator))
            .id(5)
            .await
            .unwrap(),
        5
    );
    assert_eq!(
        BySelfClient::new(BySelfDispatcher::new(Calculator))
            .id(5)
            .await
            .unwrap(),
        5
    );
}

/// An alias of `Result` with one parameter.
pub type StoreResult<T> = Result<T, TooLarge>;
/// An alias of `Result` with the other parameter.
pub type Done<E> = Result<(), E>;
/// An alias of `Result` without parameters.
pub type Always = Result<u8, TooLarge>;
/// An alias of another type.
pub type Number = u64;

/// Return types that are aliases.
#[rpc]
pub trait Aliases {
    /// `Ok` only.
    async fn one(n: u64) -> StoreResult<u64>;
    /// `Err` only.
    async fn other(n: u64) -> Done<TooLarge>;
    /// Without parameters.
    async fn none(n: u64) -> Always;
    /// No `Result`.
    async fn number(n: Number) -> Number;
    /// A `Result` in a `Result`.
    async fn nested(n: u64) -> Result<Result<u64, String>, TooLarge>;
    /// A `Result` in a tuple is a value.
    async fn tuple(n: u64) -> (Result<u64, String>,);
}

impl Aliases for Calculator {
    async fn one(&self, n: u64) -> StoreResult<u64> {
        Ok(n)
    }
    async fn other(&self, n: u64) -> Done<TooLarge> {
        Err(TooLarge { n })
    }
    async fn none(&self, n: u64) -> Always {
        Err(TooLarge { n })
    }
    async fn number(&self, n: Number) -> Number {
        n
    }
    async fn nested(&self, n: u64) -> Result<Result<u64, String>, TooLarge> {
        Ok(Err(n.to_string()))
    }
    async fn tuple(&self, n: u64) -> (Result<u64, String>,) {
        (Ok(n),)
    }
}

#[tokio::test]
async fn aliases_of_result_are_resolved() {
    let client = AliasesClient::new(AliasesDispatcher::new(Calculator));
    let one: Result<u64, CallError<TooLarge>> = client.one(1).await;
    assert_eq!(one.unwrap(), 1);
    let other: Result<(), CallError<TooLarge>> = client.other(2).await;
    assert!(matches!(other, Err(CallError::App(TooLarge { n: 2 }))));
    assert!(matches!(
        client.none(3).await,
        Err(CallError::App(TooLarge { n: 3 }))
    ));
    let number: Result<u64, RpcError> = client.number(4).await;
    assert_eq!(number.unwrap(), 4);
    let nested: Result<Result<u64, String>, CallError<TooLarge>> = client.nested(5).await;
    assert_eq!(nested.unwrap(), Err("5".to_owned()));
    assert_eq!(client.tuple(6).await.unwrap(), (Ok(6),));
}

/// Parameters of all kinds, with bounds in all places. Generated code would otherwise call its parameters `S` and `H`.
#[rpc(timeout = "10s")]
pub trait Store<S, H, const N: usize = 2, T = u8>: Send
where
    Self: Sync,
    S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    H: Serialize + DeserializeOwned + Send + Sync + 'static,
    T: Serialize + DeserializeOwned + Send + Sync + Default + 'static,
    Vec<S>: Send,
{
    /// Parameters as arguments and result.
    async fn put(&self, key: S, values: [H; 2]) -> Option<(S, H)>;
    /// A parameter without a type around it.
    async fn bare(&self, value: T) -> T;
    /// Fallible by an alias.
    async fn fallible(&self, value: T) -> StoreResult<T>;
    /// Fallible without an alias, and without parameters in the arguments.
    async fn written(&self, ok: bool) -> Result<Vec<S>, H>;
    /// Without parameters.
    async fn concrete(&self, n: u64) -> StoreResult<u64>;
    /// `#[serde(…)]` on a field whose type is a parameter.
    async fn defaulted(&self, #[serde(default)] value: T, #[serde(default)] n: u8) -> T;
    /// Without arguments.
    async fn nothing(&self);
    /// Adds a hidden struct to the client.
    async fn new(&self, value: S) -> S {
        value
    }
    /// Blocking.
    #[rpc(blocking)]
    fn slow(&self, value: H) -> H {
        value
    }
}

impl Store<String, u64, 3, u16> for Calculator {
    async fn put(&self, key: String, values: [u64; 2]) -> Option<(String, u64)> {
        Some((key, values[0] + values[1]))
    }
    async fn bare(&self, value: u16) -> u16 {
        value
    }
    async fn fallible(&self, value: u16) -> StoreResult<u16> {
        Err(TooLarge { n: value.into() })
    }
    async fn written(&self, ok: bool) -> Result<Vec<String>, u64> {
        if ok { Ok(vec![]) } else { Err(7) }
    }
    async fn concrete(&self, n: u64) -> StoreResult<u64> {
        Ok(n)
    }
    async fn defaulted(&self, value: u16, n: u8) -> u16 {
        value + u16::from(n)
    }
    async fn nothing(&self) {}
}

#[tokio::test]
async fn traits_may_be_generic() {
    assert_send_sync::<StoreClient<String, u64>>();
    assert_send_sync::<
        StoreClient<String, u64, 3, u16, StoreDispatcher<String, u64, 3, u16, Calculator>>,
    >();
    let dispatcher = StoreDispatcher::<String, u64, 3, u16, _>::new(Calculator);
    let store = StoreClient::<String, u64, 3, u16, _>::new(dispatcher.clone())
        .with_queue("other")
        .clone();
    assert!(format!("{store:?} {dispatcher:?}").contains("other"));
    assert_eq!(
        store.put("key".into(), [1, 2]).await.unwrap(),
        Some(("key".into(), 3))
    );
    assert_eq!(store.bare(5).await.unwrap(), 5);
    assert!(matches!(
        store.fallible(5).await,
        Err(CallError::App(TooLarge { n: 5 }))
    ));
    assert_eq!(store.written(true).await.unwrap(), Vec::<String>::new());
    assert!(matches!(store.written(false).await, Err(CallError::App(7))));
    assert_eq!(store.concrete(8).await.unwrap(), 8);
    assert_eq!(store.defaulted(9, 1).await.unwrap(), 10);
    store.nothing().await.unwrap();
    assert_eq!(store.new("value".into()).await.unwrap(), "value");
    assert_eq!(store.slow(11).await.unwrap(), 11);
}

/// Spawns a call of a generic service over any service.
async fn spawned_generic<V, S>(store: StoreClient<V, V, 2, V, S>, value: V) -> Result<V, RpcError>
where
    V: Serialize + DeserializeOwned + Clone + Default + Send + Sync + 'static,
    S: RpcService + Sync,
{
    tokio::spawn(async move { store.bare(value).await })
        .await
        .expect("the task does not panic")
}

#[tokio::test]
async fn generic_services_can_be_spawned_in_generic_code() -> Result<(), RpcError> {
    struct Echo;
    impl<V: Serialize + DeserializeOwned + Clone + Default + Send + Sync + 'static>
        Store<V, V, 2, V> for Echo
    {
        async fn put(&self, key: V, _: [V; 2]) -> Option<(V, V)> {
            Some((key.clone(), key))
        }
        async fn bare(&self, value: V) -> V {
            value
        }
        async fn fallible(&self, value: V) -> StoreResult<V> {
            Ok(value)
        }
        async fn written(&self, _: bool) -> Result<Vec<V>, V> {
            Err(V::default())
        }
        async fn concrete(&self, n: u64) -> StoreResult<u64> {
            Ok(n)
        }
        async fn defaulted(&self, value: V, _: u8) -> V {
            value
        }
        async fn nothing(&self) {}
    }
    let store = StoreClient::new(StoreDispatcher::<u64, _, 2, _, _>::new(Echo));
    assert_eq!(spawned_generic(store, 5).await?, 5);
    Ok(())
}

/// Methods with default bodies.
#[rpc]
pub trait Defaults {
    /// `?`, an early `return` and a conversion.
    async fn checked(&self, mut text: String) -> Result<u64, String> {
        text.push('0');
        if text == "00" {
            return Err("zero".into());
        }
        let number: u64 = text.parse().map_err(|error| format!("{error}"))?;
        tokio::task::yield_now().await;
        Ok(number)
    }
    /// Calls another method through `self`.
    async fn both(&self, a: String, b: String) -> Result<u64, String> {
        Ok(self.checked(a).await? + self.checked(b).await?)
    }
    /// Infers a type from the return type.
    async fn inferred(&self) -> Vec<u8> {
        [1_u64, 2].into_iter().map(|n| n as u8).collect()
    }
    /// Never ends.
    async fn never(&self) -> u64 {
        std::future::pending().await
    }
    /// Panics.
    async fn todo(&self, n: u64) -> Option<String> {
        panic!("not written yet: {n}")
    }
    /// Without `&self` and without a value.
    async fn unit(n: u64) {
        let _ = n;
    }
    /// Blocking.
    #[rpc(blocking)]
    fn slow(mut n: u64) -> u64 {
        n += 1;
        n
    }
}

impl Defaults for Calculator {}

#[tokio::test]
async fn methods_may_have_default_bodies() {
    let client = DefaultsClient::new(DefaultsDispatcher::new(Calculator));
    assert_eq!(client.checked("1".into()).await.unwrap(), 10);
    assert!(
        matches!(client.checked("0".into()).await, Err(CallError::App(text)) if text == "zero")
    );
    assert!(matches!(
        client.checked("x".into()).await,
        Err(CallError::App(_))
    ));
    assert_eq!(client.both("1".into(), "2".into()).await.unwrap(), 30);
    assert_eq!(client.inferred().await.unwrap(), [1, 2]);
    let error = client
        .never()
        .timeout(Duration::from_millis(1))
        .await
        .expect_err("never ends");
    assert!(error.is_timeout());
    assert_eq!(
        client.todo(5).await.expect_err("panics").kind(),
        ErrorKind::Panicked
    );
    client.unit(5).await.unwrap();
    assert_eq!(client.slow(5).await.unwrap(), 6);
}

mod visibility {
    //! Traits with restricted visibility over types with the same visibility.
    #![allow(missing_docs)]
    #![deny(private_interfaces, private_bounds)]

    pub(super) mod inside {
        use super::super::Calculator;
        use rpc_core::{RpcError, rpc};
        use serde::{Deserialize, Serialize};

        #[derive(Debug, Serialize, Deserialize)]
        struct Private(u64);

        #[rpc]
        trait Hidden {
            async fn id(n: Private) -> Private;
            async fn new(n: Private) -> Result<Private, Private>;
        }

        #[rpc]
        pub(super) trait ForParent<T: Serialize + serde::de::DeserializeOwned + Send + 'static> {
            async fn id(n: T) -> T;
            async fn new() -> u64;
        }

        #[rpc]
        pub(crate) trait ForCrate {
            async fn id(n: u64) -> u64;
        }

        #[rpc]
        pub(in super::super) trait ForAncestor {
            async fn id(n: u64) -> u64;
        }

        impl Hidden for Calculator {
            async fn id(&self, n: Private) -> Private {
                n
            }
            async fn new(&self, n: Private) -> Result<Private, Private> {
                Ok(n)
            }
        }
        impl ForParent<u64> for Calculator {
            async fn id(&self, n: u64) -> u64 {
                n
            }
            async fn new(&self) -> u64 {
                5
            }
        }
        impl ForCrate for Calculator {
            async fn id(&self, n: u64) -> u64 {
                n
            }
        }
        impl ForAncestor for Calculator {
            async fn id(&self, n: u64) -> u64 {
                n
            }
        }

        pub(crate) async fn hidden() -> Result<u64, RpcError> {
            let client = HiddenClient::new(HiddenDispatcher::new(Calculator));
            let _ = client.new(Private(4)).await;
            Ok(client.id(Private(5)).await?.0)
        }
    }

    pub(super) async fn for_parent() -> Result<u64, rpc_core::RpcError> {
        let client =
            inside::ForParentClient::new(inside::ForParentDispatcher::new(super::Calculator));
        Ok(client.id(5).await? + client.new().await?)
    }
}

/// A service without uses of its client and dispatcher, as in a binary.
#[rpc]
trait Unused {
    async fn id(n: u64) -> u64;
    async fn new(n: u64) -> u64;
}

#[tokio::test]
async fn traits_may_have_any_visibility() -> Result<(), RpcError> {
    use visibility::inside::{
        ForAncestorClient, ForAncestorDispatcher, ForCrateClient, ForCrateDispatcher,
    };
    assert_eq!(visibility::inside::hidden().await?, 5);
    assert_eq!(visibility::for_parent().await?, 10);
    assert_eq!(
        ForCrateClient::new(ForCrateDispatcher::new(Calculator))
            .id(5)
            .await?,
        5
    );
    assert_eq!(
        ForAncestorClient::new(ForAncestorDispatcher::new(Calculator))
            .id(5)
            .await?,
        5
    );
    Ok(())
}

#[tokio::test]
async fn traits_may_be_declared_in_function_bodies() -> Result<(), RpcError> {
    #[derive(Serialize, Deserialize)]
    struct Local(u64);

    #[rpc]
    trait Inside {
        async fn local(n: Local) -> Local;
        async fn new(n: Local) -> Result<Local, Local>;
    }

    struct Handler;
    impl Inside for Handler {
        async fn local(&self, n: Local) -> Local {
            n
        }
        async fn new(&self, n: Local) -> Result<Local, Local> {
            Ok(n)
        }
    }

    let client = InsideClient::new(InsideDispatcher::new(Handler));
    assert_eq!(client.local(Local(5)).await?.0, 5);
    assert!(client.new(Local(5)).await.is_ok());
    Ok(())
}

/// Methods with `cfg`.
#[rpc]
#[cfg_attr(all(), allow(clippy::module_name_repetitions))]
pub trait Conditional {
    /// The alternative that exists.
    #[cfg(true)]
    async fn either(n: u64) -> u64;
    /// The alternative that does not exist.
    #[cfg(any())]
    async fn either(n: NoSuchType) -> NoSuchType;
    /// A method with unknown types and functions, which are not compiled.
    #[cfg(any())]
    async fn never(n: no_such_module::NoSuchType) -> Result<NoSuchType, NoSuchError> {
        no_such_function(n)
    }
    /// A method with `cfg` in `cfg_attr`.
    #[cfg_attr(true, cfg(false))]
    #[rpc(blocking, default)]
    fn never_again(n: NoSuchType) -> NoSuchType;
    /// A method `new`, with its hidden struct.
    #[cfg(any())]
    async fn new(n: NoSuchType);
    /// A method that exists, with `cfg` in `cfg_attr`.
    #[cfg_attr(true, cfg(true), doc = "More of it.")]
    #[rpc(default)]
    async fn always(#[allow(unused_variables)] n: u64) -> u64 {
        7
    }
}

impl Conditional for Calculator {
    async fn either(&self, n: u64) -> u64 {
        n
    }
}

#[tokio::test]
async fn methods_with_a_false_cfg_do_not_exist() -> Result<(), RpcError> {
    let client = ConditionalClient::new(ConditionalDispatcher::new(Calculator));
    assert_eq!(client.either(5).await?, 5);
    assert_eq!(client.always(5).await?, 7);
    /// The same service for a client with another configuration.
    #[rpc(name = "Conditional")]
    trait Configured {
        async fn never_again(n: u64) -> u64;
    }
    let configured = ConfiguredClient::new(ConditionalDispatcher::new(Calculator));
    let error = configured
        .never_again(5)
        .await
        .expect_err("the method does not exist");
    assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    Ok(())
}

/// A deprecated service. Generated code causes no warnings, and uses do.
#[rpc]
#[deprecated(note = "use another")]
pub trait Deprecated {
    /// A deprecated method.
    #[deprecated]
    async fn old(n: u64) -> u64;
    /// A deprecated method `new`.
    #[deprecated]
    async fn new(n: u64) -> u64;
    /// A deprecated blocking method.
    #[deprecated]
    #[rpc(blocking)]
    fn slow(n: u64) -> u64;
}

/// A service with a deprecated method and a deprecated type.
#[rpc]
pub trait PartlyDeprecated {
    /// The type is deprecated.
    #[expect(deprecated)]
    async fn value(value: OldType) -> OldType;
    /// The method is deprecated.
    #[deprecated]
    async fn old(n: u64) -> u64;
}

/// A type.
#[deprecated]
#[derive(Debug, PartialEq)]
pub struct OldType(u64);

#[allow(deprecated)]
mod old_type {
    impl serde::Serialize for super::OldType {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(serializer)
        }
    }
    impl<'de> serde::Deserialize<'de> for super::OldType {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            u64::deserialize(deserializer).map(Self)
        }
    }
    impl super::PartlyDeprecated for super::Calculator {
        async fn value(&self, value: super::OldType) -> super::OldType {
            value
        }
        async fn old(&self, n: u64) -> u64 {
            n
        }
    }
    impl super::Deprecated for super::Calculator {
        async fn old(&self, n: u64) -> u64 {
            n
        }
        async fn new(&self, n: u64) -> u64 {
            n
        }
        fn slow(&self, n: u64) -> u64 {
            n
        }
    }
}

#[tokio::test]
#[expect(deprecated)]
async fn deprecated_methods_can_be_called() -> Result<(), RpcError> {
    let client = DeprecatedClient::new(DeprecatedDispatcher::new(Calculator));
    assert_eq!(
        client.old(5).await? + client.new(6).await? + client.slow(7).await?,
        18
    );
    let client = PartlyDeprecatedClient::new(PartlyDeprecatedDispatcher::new(Calculator));
    assert_eq!(client.old(5).await?, 5);
    assert_eq!(client.value(OldType(5)).await?, OldType(5));
    Ok(())
}

/// No arguments, and twenty.
#[rpc]
pub trait Many {
    /// None.
    async fn none() -> u64;
    /// Twenty.
    #[allow(clippy::too_many_arguments)]
    async fn twenty(
        a: u8,
        b: u8,
        c: u8,
        d: u8,
        e: u8,
        f: u8,
        g: u8,
        h: u8,
        i: u8,
        j: u8,
        k: u8,
        l: u8,
        m: u8,
        n: u8,
        o: u8,
        p: u8,
        q: u8,
        r: u8,
        s: u8,
        t: u8,
    ) -> Vec<u8>;
}

impl Many for Calculator {
    async fn none(&self) -> u64 {
        0
    }
    #[rustfmt::skip]
    async fn twenty(
        &self, a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8, j: u8, k: u8, l: u8, m: u8, n: u8, o: u8,
        p: u8, q: u8, r: u8, s: u8, t: u8,
    ) -> Vec<u8> {
        vec![a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t]
    }
}

#[tokio::test]
async fn methods_take_any_number_of_arguments() -> Result<(), RpcError> {
    let client = ManyClient::new(ManyDispatcher::new(Calculator));
    assert_eq!(client.none().await?, 0);
    let twenty = client
        .twenty(
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
        )
        .await?;
    assert_eq!(twenty, (1..=20).collect::<Vec<u8>>());
    Ok(())
}

/// A service with no methods.
#[rpc]
pub trait Empty {}

impl Empty for Calculator {}

/// The old version of a service.
#[rpc(name = "Greeter")]
pub trait OldGreeter {
    /// Greets.
    async fn greet(name: String, legacy: bool) -> String;
}

/// The new version: arguments were removed, added and reordered.
#[rpc(name = "Greeter")]
pub trait NewGreeter {
    /// Greets.
    async fn greet(
        #[serde(default = "one")] times: usize,
        #[serde(default)] title: Option<String>,
        name: String,
        #[serde(default, with = "reversed")] suffix: String,
    ) -> String;
}

fn one() -> usize {
    1
}

mod reversed {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        text.chars().rev().collect::<String>().serialize(serializer)
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<String, D::Error> {
        Ok(String::deserialize(deserializer)?.chars().rev().collect())
    }
}

impl NewGreeter for Calculator {
    async fn greet(
        &self,
        times: usize,
        title: Option<String>,
        name: String,
        suffix: String,
    ) -> String {
        format!("{}{name}{suffix}", title.unwrap_or_default()).repeat(times)
    }
}

#[tokio::test]
async fn arguments_may_be_added_removed_and_reordered() -> Result<(), RpcError> {
    let old = OldGreeterClient::new(NewGreeterDispatcher::new(Calculator));
    assert_eq!(old.greet("Ada".into(), true).await?, "Ada");
    let new = NewGreeterClient::new(NewGreeterDispatcher::new(Calculator));
    assert_eq!(
        new.greet(2, Some("Dr ".into()), "Ada".into(), "!?".into())
            .await?,
        "Dr Ada!?Dr Ada!?"
    );
    let empty = OldGreeterClient::new(EmptyDispatcher::new(Calculator));
    let error = empty
        .greet("Ada".into(), true)
        .await
        .expect_err("the service has no methods");
    assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    Ok(())
}

pub mod from_a_macro {
    //! A trait from a `macro_rules!` macro, whose identifiers have other hygiene.
    #![allow(missing_docs)]

    macro_rules! service {
        ($name:ident, $method:ident, $argument:ident: $ty:ty => $output:ty, $body:expr) => {
            #[rpc_core::rpc]
            pub trait $name {
                async fn $method($argument: $ty) -> $output;
                async fn fixed(n: u64, #[ctx] cx: rpc_core::Context) -> Result<u64, String> {
                    let _ = cx;
                    Ok(n)
                }
            }
            impl $name for super::Calculator {
                async fn $method(&self, $argument: $ty) -> $output {
                    $body
                }
            }
        };
    }

    service!(Made, double, n: u64 => u64, n * 2);
}

#[tokio::test]
async fn traits_may_come_from_macros() {
    let client = from_a_macro::MadeClient::new(from_a_macro::MadeDispatcher::new(Calculator));
    assert_eq!(client.double(5).await.unwrap(), 10);
    assert_eq!(client.fixed(5).await.unwrap(), 5);
}
