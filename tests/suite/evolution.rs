//! A contract that changes while it is in use: old clients call new servers, and new clients call old servers.
//!
//! `rpc_core::guide::evolution` has a table of these changes. The test of each change shows that its entry is right, in
//! MessagePack and in JSON. Each test also compares the two contracts, and shows that the judgement is right: a change that is judged compatible
//! works for all values. The reverse does not hold where a comment says so.

use futures_util::stream;
use rpc_core::instances::{Contract, ServiceClient, ServiceInfo};
use rpc_core::{CallError, Dispatch, ErrorKind, Incoming, RpcError, Stream, rpc};
use rpc_tests::unique_queue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{client, client_builder, start};
use crate::broker;

/// The old contract.
mod old {
    use super::*;

    #[rpc]
    pub(super) trait Shop {
        async fn add_with_default(a: u64) -> u64;
        async fn add_optional(a: u64) -> u64;
        async fn add_required(a: u64) -> u64;
        async fn remove(a: u64, b: u64) -> u64;
        async fn remove_optional(a: u64, b: Option<u64>) -> u64;
        async fn reorder(a: u64, b: u64) -> u64;
        async fn rename_argument(n: u64) -> u64;
        async fn rename_argument_kept(n: u64) -> u64;
        async fn rename_argument_alias(n: u64) -> u64;
        async fn colour() -> u64;
        async fn behaviour() -> u64;
        async fn widen(n: u32) -> u32;
        async fn make_signed(n: u32) -> i64;
        async fn make_float(n: u32) -> u32;
        async fn make_result_float() -> u32;
        async fn make_argument_optional(n: u64) -> u64;
        async fn make_result_optional(none: bool) -> u64;
        async fn grow_struct() -> Item;
        async fn grow_struct_with_required() -> Item;
        async fn grow_strict_struct() -> StrictItem;
        async fn grow_tuple() -> (u64, u64);
        async fn grow_enum(new: bool) -> Colour;
        async fn grow_error(new: bool) -> Result<u64, Colour>;
        async fn grow_open_error(new: bool) -> Result<u64, Refusal>;
        async fn grow_untagged(field: bool) -> Shade;
        async fn make_fallible(fail: bool) -> u64;
        async fn make_infallible(fail: bool) -> Result<u64, Colour>;
        async fn return_something();
        async fn make_oneway(n: u64);
        async fn move_to_a_queue_of_its_own() -> u64;
        async fn run_otherwise() -> u64;
        async fn run_once() -> u64;
        async fn return_a_stream() -> u64;
        async fn stop_streaming() -> impl Stream<Item = u64>;
        async fn receive_a_stream() -> u64;
        async fn make_argument_a_stream(numbers: Vec<u64>) -> u64;
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(super) struct Item {
        pub(super) name: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub(super) struct StrictItem {
        pub(super) name: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(super) enum Colour {
        Red,
    }

    /// An enum made to grow: unknown variants become `Other`.
    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(tag = "kind")]
    pub(super) enum Refusal {
        Closed,
        #[serde(other)]
        Other,
    }

    /// An enum made to grow by variants without fields.
    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(super) enum Shade {
        Dark,
        #[serde(other)]
        Other,
    }

    pub(super) struct Handler;

    impl Shop for Handler {
        async fn add_with_default(&self, a: u64) -> u64 {
            a
        }

        async fn add_optional(&self, a: u64) -> u64 {
            a
        }

        async fn add_required(&self, a: u64) -> u64 {
            a
        }

        async fn remove(&self, a: u64, b: u64) -> u64 {
            a + b
        }

        async fn remove_optional(&self, a: u64, b: Option<u64>) -> u64 {
            a + b.unwrap_or(1000)
        }

        async fn reorder(&self, a: u64, b: u64) -> u64 {
            10 * a + b
        }

        async fn rename_argument(&self, n: u64) -> u64 {
            n
        }

        async fn rename_argument_kept(&self, n: u64) -> u64 {
            n
        }

        async fn rename_argument_alias(&self, n: u64) -> u64 {
            n
        }

        async fn colour(&self) -> u64 {
            1
        }

        async fn behaviour(&self) -> u64 {
            1
        }

        async fn widen(&self, n: u32) -> u32 {
            n
        }

        async fn make_signed(&self, n: u32) -> i64 {
            n.into()
        }

        async fn make_float(&self, n: u32) -> u32 {
            n
        }

        async fn make_result_float(&self) -> u32 {
            1
        }

        async fn make_argument_optional(&self, n: u64) -> u64 {
            n
        }

        async fn make_result_optional(&self, _: bool) -> u64 {
            1
        }

        async fn grow_struct(&self) -> Item {
            Item {
                name: "tea".to_owned(),
            }
        }

        async fn grow_struct_with_required(&self) -> Item {
            self.grow_struct().await
        }

        async fn grow_strict_struct(&self) -> StrictItem {
            StrictItem {
                name: "tea".to_owned(),
            }
        }

        async fn grow_tuple(&self) -> (u64, u64) {
            (1, 2)
        }

        async fn grow_enum(&self, _: bool) -> Colour {
            Colour::Red
        }

        async fn grow_error(&self, _: bool) -> Result<u64, Colour> {
            Err(Colour::Red)
        }

        async fn grow_open_error(&self, _: bool) -> Result<u64, Refusal> {
            Err(Refusal::Closed)
        }

        async fn grow_untagged(&self, _: bool) -> Shade {
            Shade::Dark
        }

        async fn make_fallible(&self, _: bool) -> u64 {
            1
        }

        async fn make_infallible(&self, fail: bool) -> Result<u64, Colour> {
            if fail { Err(Colour::Red) } else { Ok(1) }
        }

        async fn return_something(&self) {}

        async fn make_oneway(&self, _: u64) {}

        async fn move_to_a_queue_of_its_own(&self) -> u64 {
            1
        }

        async fn run_otherwise(&self) -> u64 {
            1
        }

        async fn run_once(&self) -> u64 {
            1
        }

        async fn return_a_stream(&self) -> u64 {
            1
        }

        async fn stop_streaming(&self) -> impl Stream<Item = u64> {
            stream::iter([1])
        }

        async fn receive_a_stream(&self) -> u64 {
            1
        }

        async fn make_argument_a_stream(&self, numbers: Vec<u64>) -> u64 {
            numbers.len() as u64
        }
    }
}

/// The new contract. A method has the name of the old one, or a comment gives the reason.
mod new {
    use super::*;

    #[rpc]
    pub(super) trait Shop {
        async fn add_with_default(a: u64, #[serde(default)] b: u64) -> u64;
        async fn add_optional(a: u64, b: Option<u64>) -> u64;
        async fn add_required(a: u64, b: u64) -> u64;
        async fn remove(a: u64) -> u64;
        async fn remove_optional(a: u64) -> u64;
        async fn reorder(b: u64, a: u64) -> u64;
        async fn rename_argument(number: u64) -> u64;
        async fn rename_argument_kept(#[serde(rename = "n")] number: u64) -> u64;
        async fn rename_argument_alias(#[serde(alias = "n")] number: u64) -> u64;
        #[rpc(name = "colour")]
        async fn color() -> u64;
        async fn behavior() -> u64;
        async fn widen(n: u64) -> u64;
        async fn make_signed(n: i64) -> i64;
        async fn make_float(n: f64) -> f64;
        async fn make_result_float() -> f64;
        async fn make_argument_optional(n: Option<u64>) -> u64;
        async fn make_result_optional(none: bool) -> Option<u64>;
        async fn grow_struct() -> Item;
        async fn grow_struct_with_required() -> RequiredItem;
        async fn grow_strict_struct() -> Item;
        async fn grow_tuple() -> (u64, u64, u64);
        async fn grow_enum(new: bool) -> Colour;
        async fn grow_error(new: bool) -> Result<u64, Colour>;
        async fn grow_open_error(new: bool) -> Result<u64, Refusal>;
        async fn grow_untagged(field: bool) -> Shade;
        async fn make_fallible(fail: bool) -> Result<u64, Colour>;
        async fn make_infallible(fail: bool) -> u64;
        async fn return_something() -> u64;
        #[rpc(oneway)]
        async fn make_oneway(n: u64);
        #[rpc(queue = "rpc.Shop.own")]
        async fn move_to_a_queue_of_its_own() -> u64;
        #[rpc(idempotent, blocking, persistent, timeout = "10s", priority = 1)]
        fn run_otherwise() -> u64;
        #[rpc(at_most_once)]
        async fn run_once() -> u64;
        async fn return_a_stream() -> impl Stream<Item = u64>;
        async fn stop_streaming() -> u64;
        async fn receive_a_stream(numbers: impl Stream<Item = u64>) -> u64;
        async fn make_argument_a_stream(numbers: impl Stream<Item = u64>) -> u64;
        /// A new method. Handlers need not implement it.
        async fn added(&self, n: u64) -> u64 {
            2 * self.add_with_default(n, 0).await
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(super) struct Item {
        pub(super) name: String,
        #[serde(default)]
        pub(super) price: u64,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(super) struct RequiredItem {
        pub(super) name: String,
        pub(super) price: u64,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(super) enum Colour {
        Red,
        Green,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(tag = "kind")]
    pub(super) enum Refusal {
        Closed,
        Moved {
            to: String,
        },
        #[serde(other)]
        Other,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(super) enum Shade {
        Dark,
        Light,
        Mixed { parts: u64 },
    }

    pub(super) struct Handler;

    impl Shop for Handler {
        async fn add_with_default(&self, a: u64, b: u64) -> u64 {
            a + b
        }

        async fn add_optional(&self, a: u64, b: Option<u64>) -> u64 {
            a + b.unwrap_or(1000)
        }

        async fn add_required(&self, a: u64, b: u64) -> u64 {
            a + b
        }

        async fn remove(&self, a: u64) -> u64 {
            a
        }

        async fn remove_optional(&self, a: u64) -> u64 {
            a
        }

        async fn reorder(&self, b: u64, a: u64) -> u64 {
            10 * a + b
        }

        async fn rename_argument(&self, number: u64) -> u64 {
            number
        }

        async fn rename_argument_kept(&self, number: u64) -> u64 {
            number
        }

        async fn rename_argument_alias(&self, number: u64) -> u64 {
            number
        }

        async fn color(&self) -> u64 {
            2
        }

        async fn behavior(&self) -> u64 {
            2
        }

        async fn widen(&self, n: u64) -> u64 {
            n * u64::from(u32::MAX)
        }

        async fn make_signed(&self, n: i64) -> i64 {
            n
        }

        async fn make_float(&self, n: f64) -> f64 {
            n
        }

        async fn make_result_float(&self) -> f64 {
            1.0
        }

        async fn make_argument_optional(&self, n: Option<u64>) -> u64 {
            n.unwrap_or(1000)
        }

        async fn make_result_optional(&self, none: bool) -> Option<u64> {
            (!none).then_some(1)
        }

        async fn grow_struct(&self) -> Item {
            Item {
                name: "tea".to_owned(),
                price: 3,
            }
        }

        async fn grow_struct_with_required(&self) -> RequiredItem {
            RequiredItem {
                name: "tea".to_owned(),
                price: 3,
            }
        }

        async fn grow_strict_struct(&self) -> Item {
            self.grow_struct().await
        }

        async fn grow_tuple(&self) -> (u64, u64, u64) {
            (1, 2, 3)
        }

        async fn grow_enum(&self, new: bool) -> Colour {
            if new { Colour::Green } else { Colour::Red }
        }

        async fn grow_error(&self, new: bool) -> Result<u64, Colour> {
            Err(self.grow_enum(new).await)
        }

        async fn grow_open_error(&self, new: bool) -> Result<u64, Refusal> {
            let to = "next door".to_owned();
            Err(if new {
                Refusal::Moved { to }
            } else {
                Refusal::Closed
            })
        }

        async fn grow_untagged(&self, field: bool) -> Shade {
            if field {
                Shade::Mixed { parts: 2 }
            } else {
                Shade::Light
            }
        }

        async fn make_fallible(&self, fail: bool) -> Result<u64, Colour> {
            if fail { Err(Colour::Green) } else { Ok(1) }
        }

        async fn make_infallible(&self, _: bool) -> u64 {
            1
        }

        async fn return_something(&self) -> u64 {
            1
        }

        async fn make_oneway(&self, _: u64) {}

        async fn move_to_a_queue_of_its_own(&self) -> u64 {
            2
        }

        fn run_otherwise(&self) -> u64 {
            2
        }

        async fn run_once(&self) -> u64 {
            2
        }

        async fn return_a_stream(&self) -> impl Stream<Item = u64> {
            stream::iter([1])
        }

        async fn stop_streaming(&self) -> u64 {
            1
        }

        async fn receive_a_stream(&self, _: Incoming<u64>) -> u64 {
            1
        }

        async fn make_argument_a_stream(&self, _: Incoming<u64>) -> u64 {
            1
        }
    }
}

/// An old client that calls a new server, and a new client that calls an old server.
struct Pair {
    old_on_new: old::ShopClient,
    new_on_old: new::ShopClient,
}

/// Runs a test for each content type.
async fn each(test: impl AsyncFn(Pair)) {
    let connection = broker().await.connect().await;
    // Both contracts have the same queue, so each server has a prefix of its own.
    let (old, new) = (unique_queue("old-"), unique_queue("new-"));
    let dispatcher = old::ShopDispatcher::new(old::Handler).with_queue_prefix(&old);
    let _old_server = start(&connection, dispatcher).await;
    let dispatcher = new::ShopDispatcher::new(new::Handler).with_queue_prefix(&new);
    let _new_server = start(&connection, dispatcher).await;
    for client in [
        client(&connection),
        client_builder(&connection).json().build(),
    ] {
        test(Pair {
            old_on_new: old::ShopClient::new(client.clone()).with_queue_prefix(&new),
            new_on_old: new::ShopClient::new(client).with_queue_prefix(&old),
        })
        .await;
    }
}

/// The kind of a failure, and whether the request may have run.
fn failure<T: std::fmt::Debug>(outcome: Result<T, RpcError>) -> (ErrorKind, bool) {
    let error = outcome.unwrap_err();
    (error.kind(), error.may_have_executed())
}

/// The same, for a method with an application error.
fn call_failure<T: std::fmt::Debug, E: std::fmt::Debug>(
    outcome: Result<T, CallError<E>>,
) -> (ErrorKind, bool) {
    match outcome {
        Err(CallError::Rpc(error)) => (error.kind(), error.may_have_executed()),
        other => panic!("{other:?}"),
    }
}

/// Judgement about one method.
#[derive(Debug, PartialEq)]
enum Judged {
    Same,
    Compatible,
    Incompatible,
}
use Judged::{Compatible, Incompatible, Same};

/// The contract that a dispatcher serves in a deployment.
fn served(dispatcher: &impl Dispatch) -> ServiceInfo {
    dispatcher.dispatcher().describe()
}

/// Compares both contracts and returns the judgements about a method: for the old client on the new server, and for the new client on the
/// old server.
fn judged(method: &str) -> [Judged; 2] {
    let old = old::ShopDispatcher::new(old::Handler).with_queue_prefix("old-");
    let new = new::ShopDispatcher::new(new::Handler).with_queue_prefix("new-");
    let judge = |client: ServiceInfo, served: ServiceInfo| {
        let contract = client.compare(&served);
        let differences = contract.differences().iter();
        let own: Vec<bool> = differences
            .filter(|difference| difference.method.as_deref() == Some(method))
            .map(|difference| difference.compatible)
            .collect();
        match (own.is_empty(), own.contains(&false)) {
            (true, _) => Same,
            (_, true) => Incompatible,
            (_, false) => Compatible,
        }
    };
    [
        judge(old::ShopClient::<()>::service_info(), served(&new)),
        judge(new::ShopClient::<()>::service_info(), served(&old)),
    ]
}

const BAD_REQUEST: (ErrorKind, bool) = (ErrorKind::BadRequest, false);
const UNKNOWN_METHOD: (ErrorKind, bool) = (ErrorKind::UnknownMethod, false);
/// The dangerous failure: the handler has run, and its caller cannot read the reply.
const BAD_REPLY: (ErrorKind, bool) = (ErrorKind::BadReply, true);

#[tokio::test]
async fn adding_an_argument_with_a_default_is_safe() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.add_with_default(1).await.unwrap(), 1);
        // Old servers ignore the unknown argument.
        assert_eq!(pair.new_on_old.add_with_default(1, 2).await.unwrap(), 1);
    })
    .await;
    assert_eq!(judged("add_with_default"), [Compatible, Compatible]);
}

#[tokio::test]
async fn adding_an_optional_argument_is_safe() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.add_optional(1).await.unwrap(), 1001);
        assert_eq!(pair.new_on_old.add_optional(1, Some(2)).await.unwrap(), 1);
    })
    .await;
    assert_eq!(judged("add_optional"), [Compatible, Compatible]);
}

#[tokio::test]
async fn adding_any_other_argument_breaks_old_clients() {
    each(async |pair| {
        assert_eq!(failure(pair.old_on_new.add_required(1).await), BAD_REQUEST);
        assert_eq!(pair.new_on_old.add_required(1, 2).await.unwrap(), 1);
    })
    .await;
    assert_eq!(judged("add_required"), [Incompatible, Compatible]);
}

#[tokio::test]
async fn removing_an_argument_is_safe_for_old_clients_only() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.remove(1, 2).await.unwrap(), 1);
        assert_eq!(failure(pair.new_on_old.remove(1).await), BAD_REQUEST);
    })
    .await;
    assert_eq!(judged("remove"), [Compatible, Incompatible]);
}

#[tokio::test]
async fn removing_an_optional_argument_is_safe() {
    each(async |pair| {
        assert_eq!(
            pair.old_on_new.remove_optional(1, Some(2)).await.unwrap(),
            1
        );
        assert_eq!(pair.new_on_old.remove_optional(1).await.unwrap(), 1001);
    })
    .await;
    assert_eq!(judged("remove_optional"), [Compatible, Compatible]);
}

#[tokio::test]
async fn reordering_arguments_is_safe() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.reorder(1, 2).await.unwrap(), 12);
        assert_eq!(pair.new_on_old.reorder(2, 1).await.unwrap(), 12);
    })
    .await;
    assert_eq!(judged("reorder"), [Same, Same]);
}

#[tokio::test]
async fn renaming_an_argument_is_safe_if_its_name_on_the_wire_stays() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.rename_argument_kept(7).await.unwrap(), 7);
        assert_eq!(pair.new_on_old.rename_argument_kept(7).await.unwrap(), 7);

        assert_eq!(
            failure(pair.old_on_new.rename_argument(7).await),
            BAD_REQUEST
        );
        assert_eq!(
            failure(pair.new_on_old.rename_argument(7).await),
            BAD_REQUEST
        );

        // An alias applies to deserialization alone.
        assert_eq!(pair.old_on_new.rename_argument_alias(7).await.unwrap(), 7);
        let outcome = pair.new_on_old.rename_argument_alias(7).await;
        assert_eq!(failure(outcome), BAD_REQUEST);
    })
    .await;
    assert_eq!(judged("rename_argument_kept"), [Same, Same]);
    assert_eq!(judged("rename_argument"), [Incompatible, Incompatible]);
    // A contract does not show aliases.
    assert_eq!(
        judged("rename_argument_alias"),
        [Incompatible, Incompatible]
    );
}

#[tokio::test]
async fn renaming_a_method_is_safe_if_its_name_on_the_wire_stays() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.colour().await.unwrap(), 2);
        assert_eq!(pair.new_on_old.color().await.unwrap(), 1);

        assert_eq!(failure(pair.old_on_new.behaviour().await), UNKNOWN_METHOD);
        assert_eq!(failure(pair.new_on_old.behavior().await), UNKNOWN_METHOD);
    })
    .await;
    assert_eq!(judged("colour"), [Same, Same]);
    assert_eq!(judged("behaviour"), [Incompatible, Compatible]);
    assert_eq!(judged("behavior"), [Compatible, Incompatible]);
}

#[tokio::test]
async fn an_added_method_is_unknown_to_old_servers() {
    each(async |pair| {
        assert_eq!(failure(pair.new_on_old.added(1).await), UNKNOWN_METHOD);
    })
    .await;
    // The method has a default body, so no handler had to change.
    let client = new::ShopClient::new(new::ShopDispatcher::new(new::Handler));
    assert_eq!(client.added(2).await.unwrap(), 4);
    assert_eq!(judged("added"), [Compatible, Incompatible]);
}

/// Two versions of a trait that state the same methods in different order.
mod order {
    use super::*;

    pub(super) mod old {
        use super::*;

        #[rpc]
        pub(in super::super) trait Clock {
            async fn hour() -> u64;
            async fn minute() -> u64;
        }
    }

    pub(super) mod new {
        use super::*;

        #[rpc]
        pub(in super::super) trait Clock {
            async fn second() -> u64;
            async fn minute() -> u64;
            async fn hour() -> u64;
        }

        pub(in super::super) struct Noon;

        impl Clock for Noon {
            async fn second(&self) -> u64 {
                30
            }

            async fn minute(&self) -> u64 {
                1
            }

            async fn hour(&self) -> u64 {
                12
            }
        }
    }
}

#[tokio::test]
async fn a_direct_call_between_versions_reaches_the_method_of_its_name() {
    let clock = order::old::ClockClient::new(order::new::ClockDispatcher::new(order::new::Noon));
    assert_eq!(clock.hour().await.unwrap(), 12);
    assert_eq!(clock.minute().await.unwrap(), 1);
}

#[tokio::test]
async fn widening_an_integer_is_safe_for_the_values_that_fit_into_both() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.widen(1).await.unwrap(), u32::MAX);
        assert_eq!(pair.new_on_old.widen(1).await.unwrap(), 1);

        let too_large = u64::from(u32::MAX) + 1;
        assert_eq!(failure(pair.old_on_new.widen(2).await), BAD_REPLY);
        assert_eq!(failure(pair.new_on_old.widen(too_large).await), BAD_REQUEST);

        assert_eq!(pair.old_on_new.make_signed(1).await.unwrap(), 1);
        assert_eq!(pair.new_on_old.make_signed(1).await.unwrap(), 1);
        assert_eq!(failure(pair.new_on_old.make_signed(-1).await), BAD_REQUEST);
    })
    .await;
    assert_eq!(judged("widen"), [Incompatible, Incompatible]);
    assert_eq!(judged("make_signed"), [Compatible, Incompatible]);
}

#[tokio::test]
async fn changing_an_integer_to_a_float_breaks_readers_of_the_integer() {
    each(async |pair| {
        // Servers read an integer as a float: the handler has run.
        assert_eq!(failure(pair.old_on_new.make_float(1).await), BAD_REPLY);
        assert_eq!(failure(pair.new_on_old.make_float(1.0).await), BAD_REQUEST);
        let outcome = pair.old_on_new.make_result_float().await;
        assert_eq!(failure(outcome), BAD_REPLY);
        assert_eq!(pair.new_on_old.make_result_float().await.unwrap(), 1.0);
    })
    .await;
    assert_eq!(judged("make_float"), [Incompatible, Incompatible]);
    assert_eq!(judged("make_result_float"), [Incompatible, Compatible]);
}

#[tokio::test]
async fn making_an_argument_optional_is_safe_while_it_is_some() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.make_argument_optional(1).await.unwrap(), 1);
        let given = pair.new_on_old.make_argument_optional(Some(1)).await;
        assert_eq!(given.unwrap(), 1);
        let missing = pair.new_on_old.make_argument_optional(None).await;
        assert_eq!(failure(missing), BAD_REQUEST);
    })
    .await;
    assert_eq!(judged("make_argument_optional"), [Compatible, Incompatible]);
}

#[tokio::test]
async fn making_a_result_optional_is_safe_while_it_is_some() {
    each(async |pair| {
        assert_eq!(
            pair.old_on_new.make_result_optional(false).await.unwrap(),
            1
        );
        let missing = pair.old_on_new.make_result_optional(true).await;
        assert_eq!(failure(missing), BAD_REPLY);
        let result = pair.new_on_old.make_result_optional(true).await;
        assert_eq!(result.unwrap(), Some(1));
    })
    .await;
    assert_eq!(judged("make_result_optional"), [Incompatible, Compatible]);
}

#[tokio::test]
async fn adding_a_field_with_a_default_to_a_result_is_safe() {
    each(async |pair| {
        let name = || "tea".to_owned();
        let item = pair.old_on_new.grow_struct().await.unwrap();
        assert_eq!(item, old::Item { name: name() });
        let item = pair.new_on_old.grow_struct().await.unwrap();
        let price = 0;
        assert_eq!(
            item,
            new::Item {
                name: name(),
                price
            }
        );
    })
    .await;
    assert_eq!(judged("grow_struct"), [Compatible, Compatible]);
}

#[tokio::test]
async fn adding_any_other_field_to_a_result_breaks_new_clients() {
    each(async |pair| {
        pair.old_on_new.grow_struct_with_required().await.unwrap();
        let outcome = pair.new_on_old.grow_struct_with_required().await;
        assert_eq!(failure(outcome), BAD_REPLY);
    })
    .await;
    assert_eq!(
        judged("grow_struct_with_required"),
        [Compatible, Incompatible]
    );
}

#[tokio::test]
async fn a_struct_that_denies_unknown_fields_cannot_grow() {
    each(async |pair| {
        assert_eq!(
            failure(pair.old_on_new.grow_strict_struct().await),
            BAD_REPLY
        );
        pair.new_on_old.grow_strict_struct().await.unwrap();
    })
    .await;
    assert_eq!(judged("grow_strict_struct"), [Incompatible, Compatible]);
}

#[tokio::test]
async fn a_tuple_cannot_grow() {
    each(async |pair| {
        assert_eq!(failure(pair.old_on_new.grow_tuple().await), BAD_REPLY);
        assert_eq!(failure(pair.new_on_old.grow_tuple().await), BAD_REPLY);
    })
    .await;
    assert_eq!(judged("grow_tuple"), [Incompatible, Incompatible]);
}

#[tokio::test]
async fn old_clients_cannot_read_an_added_variant() {
    each(async |pair| {
        let Pair {
            old_on_new,
            new_on_old,
        } = &pair;
        assert_eq!(old_on_new.grow_enum(false).await.unwrap(), old::Colour::Red);
        assert_eq!(failure(old_on_new.grow_enum(true).await), BAD_REPLY);
        assert_eq!(new_on_old.grow_enum(true).await.unwrap(), new::Colour::Red);

        let error = old_on_new.grow_error(false).await.unwrap_err();
        assert_eq!(error.app(), Some(&old::Colour::Red));
        assert_eq!(call_failure(old_on_new.grow_error(true).await), BAD_REPLY);
        let error = new_on_old.grow_error(true).await.unwrap_err();
        assert_eq!(error.app(), Some(&new::Colour::Red));
    })
    .await;
    assert_eq!(judged("grow_enum"), [Incompatible, Compatible]);
    assert_eq!(judged("grow_error"), [Incompatible, Compatible]);
}

#[tokio::test]
async fn a_catch_all_variant_lets_an_enum_grow() {
    each(async |pair| {
        let error = pair.old_on_new.grow_open_error(true).await.unwrap_err();
        assert_eq!(error.app(), Some(&old::Refusal::Other));
        let error = pair.new_on_old.grow_open_error(true).await.unwrap_err();
        assert_eq!(error.app(), Some(&new::Refusal::Closed));

        // Without a tag, the catch-all variant stands for variants without fields alone.
        let shade = pair.old_on_new.grow_untagged(false).await.unwrap();
        assert_eq!(shade, old::Shade::Other);
        assert_eq!(
            failure(pair.old_on_new.grow_untagged(true).await),
            BAD_REPLY
        );
        let shade = pair.new_on_old.grow_untagged(true).await.unwrap();
        assert_eq!(shade, new::Shade::Dark);
    })
    .await;
    // A schema shows the catch-all variant as any other.
    assert_eq!(judged("grow_open_error"), [Incompatible, Compatible]);
    // The old server may send the catch-all variant, which the new client does not have.
    assert_eq!(judged("grow_untagged"), [Incompatible, Incompatible]);
}

#[tokio::test]
async fn a_method_that_becomes_fallible_is_safe_until_it_fails() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.make_fallible(false).await.unwrap(), 1);
        assert_eq!(
            failure(pair.old_on_new.make_fallible(true).await),
            BAD_REPLY
        );
        assert_eq!(pair.new_on_old.make_fallible(true).await.unwrap(), 1);
    })
    .await;
    assert_eq!(judged("make_fallible"), [Incompatible, Compatible]);
}

#[tokio::test]
async fn a_method_that_becomes_infallible_is_safe_once_servers_do_not_fail() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.make_infallible(true).await.unwrap(), 1);
        assert_eq!(pair.new_on_old.make_infallible(false).await.unwrap(), 1);
        assert_eq!(
            failure(pair.new_on_old.make_infallible(true).await),
            BAD_REPLY
        );
    })
    .await;
    assert_eq!(judged("make_infallible"), [Compatible, Incompatible]);
}

#[tokio::test]
async fn a_method_that_returned_unit_cannot_return_a_value() {
    each(async |pair| {
        assert_eq!(failure(pair.old_on_new.return_something().await), BAD_REPLY);
        assert_eq!(failure(pair.new_on_old.return_something().await), BAD_REPLY);
    })
    .await;
    assert_eq!(judged("return_something"), [Incompatible, Incompatible]);
}

#[tokio::test]
async fn a_value_cannot_become_a_stream() {
    each(async |pair| {
        let (old, new) = (pair.old_on_new, pair.new_on_old);
        assert_eq!(failure(old.return_a_stream().await), BAD_REQUEST);
        assert_eq!(failure(new.return_a_stream().await), BAD_REPLY);
        assert_eq!(failure(old.stop_streaming().await), BAD_REPLY);
        assert_eq!(failure(new.stop_streaming().await), BAD_REQUEST);
    })
    .await;
    assert_eq!(judged("return_a_stream"), [Incompatible, Incompatible]);
    assert_eq!(judged("stop_streaming"), [Incompatible, Incompatible]);
}

#[tokio::test]
async fn an_argument_cannot_become_a_stream() {
    each(async |pair| {
        let (old, new) = (pair.old_on_new, pair.new_on_old);
        assert_eq!(failure(old.receive_a_stream().await), BAD_REQUEST);
        let outcome = new.receive_a_stream(stream::iter([1])).await;
        assert_eq!(failure(outcome), BAD_REPLY);
        let outcome = old.make_argument_a_stream(vec![1]).await;
        assert_eq!(failure(outcome), BAD_REQUEST);
        // The old server lacks the argument.
        let outcome = new.make_argument_a_stream(stream::iter([1])).await;
        assert_eq!(failure(outcome), BAD_REQUEST);
    })
    .await;
    assert_eq!(judged("receive_a_stream"), [Incompatible, Incompatible]);
    let judged = judged("make_argument_a_stream");
    assert_eq!(judged, [Incompatible, Incompatible]);
}

#[tokio::test]
async fn a_method_can_become_oneway() {
    each(async |pair| {
        pair.old_on_new.make_oneway(1).await.unwrap();
        pair.new_on_old.make_oneway(1).await.unwrap();
    })
    .await;
    assert_eq!(judged("make_oneway"), [Compatible, Compatible]);
}

#[tokio::test]
async fn a_method_can_get_a_queue_of_its_own_if_servers_change_first() {
    each(async |pair| {
        assert_eq!(
            pair.old_on_new.move_to_a_queue_of_its_own().await.unwrap(),
            2
        );
        let outcome = pair.new_on_old.move_to_a_queue_of_its_own().await;
        assert_eq!(failure(outcome), (ErrorKind::Unroutable, false));
    })
    .await;
    assert_eq!(
        judged("move_to_a_queue_of_its_own"),
        [Compatible, Incompatible]
    );
}

#[tokio::test]
async fn options_that_affect_one_side_alone_can_change() {
    each(async |pair| {
        assert_eq!(pair.old_on_new.run_otherwise().await.unwrap(), 2);
        assert_eq!(pair.new_on_old.run_otherwise().await.unwrap(), 1);
        assert_eq!(pair.old_on_new.run_once().await.unwrap(), 2);
        assert_eq!(pair.new_on_old.run_once().await.unwrap(), 1);
    })
    .await;
    assert_eq!(judged("run_otherwise"), [Same, Same]);
    assert_eq!(judged("run_once"), [Same, Same]);
}

#[test]
fn an_unchanged_contract_is_the_same() {
    let client = new::ShopClient::<()>::service_info();
    let dispatcher = new::ShopDispatcher::new(new::Handler).with_queue_prefix("staging.");
    let served = served(&dispatcher);
    assert_eq!(client.compare(&served), Contract::Same);
    assert_eq!(client.contract, served.contract);
    assert_ne!(
        client.contract,
        old::ShopClient::<()>::service_info().contract
    );
}

#[test]
fn the_order_of_methods_is_not_a_part_of_the_contract() {
    let old = order::old::ClockClient::<()>::service_info();
    let new = served(&order::new::ClockDispatcher::new(order::new::Noon));
    let contract = old.compare(&new);
    let [difference] = contract.differences() else {
        panic!("{contract:?}");
    };
    assert!(contract.is_compatible());
    assert_eq!(
        difference.to_string(),
        "compatible: method 'second': only the instance has the method"
    );
}

#[test]
fn another_service_is_incompatible() {
    let shop = old::ShopClient::<()>::service_info();
    let clock = served(&order::new::ClockDispatcher::new(order::new::Noon));
    let contract = shop.compare(&clock);
    assert!(!contract.is_compatible());
    assert_eq!(
        contract.differences()[0].to_string(),
        "incompatible: the client calls the service 'Shop', and the instance serves 'Clock'"
    );
}
