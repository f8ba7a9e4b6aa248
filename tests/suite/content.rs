//! Contents of bodies.

use rpc_core::{Connection, ErrorKind, rpc};
use rpc_tests::unique_queue;
use serde::{Deserialize, Serialize};

use super::{SampleClient, client, client_builder, start};
use crate::broker;

#[tokio::test]
async fn a_json_client_gets_json_replies() {
    let setup = broker().await.sample().await;
    let sample = SampleClient::new(client_builder(&setup.connection).json().build())
        .with_queue(&setup.queue);
    assert_eq!(sample.add(2, 3).await.unwrap(), 5);
    let error = sample.divide(1, 0).await.unwrap_err();
    assert_eq!(
        error.app(),
        Some(&super::SampleError::DivisionByZero { dividend: 1 })
    );
}

#[rpc]
trait Fib {
    async fn fib(n: u64) -> u64;
}

struct Identity;

impl Fib for Identity {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
}

#[rpc]
trait Sum {
    #[rpc(default)]
    async fn sum(numbers: Vec<i64>) -> i64;
    async fn concat(left: String, right: String) -> String;
}

struct Calculator;

impl Sum for Calculator {
    async fn sum(&self, numbers: Vec<i64>) -> i64 {
        numbers.iter().sum()
    }

    async fn concat(&self, left: String, right: String) -> String {
        left + &right
    }
}

#[tokio::test]
async fn a_plain_client_calls_the_only_method() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("fib");
    let _server = start(&connection, FibDispatcher::new(Identity).with_queue(&queue)).await;
    let fib = FibClient::new(client_builder(&connection).plain().build()).with_queue(&queue);
    assert_eq!(fib.fib(30).await.unwrap(), 30);
}

#[tokio::test]
async fn a_plain_client_calls_the_default_method() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("sum");
    let _server = start(
        &connection,
        SumDispatcher::new(Calculator).with_queue(&queue),
    )
    .await;
    let sum = SumClient::new(client_builder(&connection).plain().build()).with_queue(&queue);
    assert_eq!(sum.sum(vec![1, 2, 3]).await.unwrap(), 6);
}

#[tokio::test]
async fn a_plain_call_of_a_service_without_a_default_method_is_refused() {
    let setup = broker().await.sample().await;
    let sample = SampleClient::new(client_builder(&setup.connection).plain().build())
        .with_queue(&setup.queue);
    let error = sample.add(1, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    assert!(error.to_string().contains("names no method"), "{error}");
}

/// The sample service as a later version of it might look.
#[rpc(name = "Sample")]
trait Evolved {
    /// Reordered, with a new argument.
    async fn add(#[serde(default)] carry: u64, b: u64, a: u64) -> u64;
    /// A method that old servers do not have.
    async fn subtract(a: u64, b: u64) -> u64;
    /// An argument of a different type.
    async fn divide(dividend: String, divisor: i64) -> i64;
    /// A result of a different type.
    async fn renamed() -> u64;
    #[rpc(name = "renamed.on-the-wire")]
    async fn renamed_on_the_wire() -> u64;
}

struct Later;

impl Evolved for Later {
    async fn add(&self, carry: u64, b: u64, a: u64) -> u64 {
        10 * (a - b) + carry
    }

    async fn subtract(&self, a: u64, b: u64) -> u64 {
        a - b
    }

    async fn divide(&self, _: String, _: i64) -> i64 {
        0
    }

    async fn renamed(&self) -> u64 {
        0
    }

    async fn renamed_on_the_wire(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn arguments_are_matched_by_name() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("evolved");
    let _server = start(
        &connection,
        EvolvedDispatcher::new(Later).with_queue(&queue),
    )
    .await;
    let old = SampleClient::new(client(&connection)).with_queue(&queue);
    assert_eq!(
        old.add(5, 3).await.unwrap(),
        20,
        "reordered, and `carry` has its default"
    );
}

#[tokio::test]
async fn unknown_arguments_are_ignored() {
    let setup = broker().await.sample().await;
    let new = EvolvedClient::new(client(&setup.connection)).with_queue(&setup.queue);
    assert_eq!(new.add(99, 3, 5).await.unwrap(), 8);
}

#[tokio::test]
async fn an_unknown_method_is_a_fault_at_once() {
    let setup = broker().await.sample().await;
    let new = EvolvedClient::new(client(&setup.connection)).with_queue(&setup.queue);
    let error = new.subtract(3, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    assert!(
        error
            .to_string()
            .contains("Sample has no method 'subtract'"),
        "{error}"
    );
    assert!(!error.may_have_executed());
}

#[tokio::test]
async fn arguments_of_the_wrong_type_are_a_bad_request() {
    let setup = broker().await.sample().await;
    let new = EvolvedClient::new(client(&setup.connection)).with_queue(&setup.queue);
    let error = new.divide("ten".to_owned(), 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    assert!(error.to_string().contains("Sample.divide"), "{error}");
    assert!(!error.may_have_executed());
    assert_eq!(
        setup.sample.add(1, 1).await.unwrap(),
        2,
        "the server still serves"
    );
}

#[tokio::test]
async fn a_result_of_the_wrong_type_is_a_bad_reply() {
    let setup = broker().await.sample().await;
    let new = EvolvedClient::new(client(&setup.connection)).with_queue(&setup.queue);
    let error = new.renamed_on_the_wire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadReply);
    assert!(error.may_have_executed());
}

#[tokio::test]
async fn an_undeclared_application_error_is_a_bad_reply() {
    #[rpc(name = "Sample")]
    trait Careless {
        async fn divide(dividend: i64, divisor: i64) -> i64;
    }
    let setup = broker().await.sample().await;
    let careless = CarelessClient::new(client(&setup.connection)).with_queue(&setup.queue);
    assert_eq!(careless.divide(6, 3).await.unwrap(), 2);
    assert_eq!(
        careless.divide(6, 0).await.unwrap_err().kind(),
        ErrorKind::BadReply
    );
}

#[tokio::test]
async fn oversized_messages_are_refused_by_their_sender() {
    #[rpc(name = "Sample")]
    trait Growing {
        async fn grow(size: usize) -> Vec<u8>;
    }
    struct Grower;
    impl Growing for Grower {
        async fn grow(&self, size: usize) -> Vec<u8> {
            vec![0; size]
        }
    }
    let broker = broker().await;
    let connection = Connection::builder(&broker.url)
        .max_message_size(100)
        .open()
        .await
        .unwrap();
    let queue = unique_queue("growing");
    let _server = start(
        &connection,
        GrowingDispatcher::new(Grower).with_queue(&queue),
    )
    .await;
    let growing = GrowingClient::new(client(&connection)).with_queue(&queue);
    assert_eq!(growing.grow(50).await.unwrap().len(), 50);
    let error = growing.grow(1000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.may_have_executed(), "the handler has run");
    let sample = SampleClient::new(client(&connection)).with_queue(&queue);
    let error = sample.echo(vec![0; 1000]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(!error.may_have_executed());
}

/// A value whose serialization fails.
#[derive(Clone, Debug, Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("cannot be serialized"))
    }
}

#[rpc]
trait Unwritable {
    async fn take(it: Stubborn);
    async fn give() -> Stubborn;
}

struct Giver;

impl Unwritable for Giver {
    async fn take(&self, _: Stubborn) {}

    async fn give(&self) -> Stubborn {
        Stubborn
    }
}

#[tokio::test]
async fn values_that_cannot_be_encoded_are_refused_by_their_sender() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("unwritable");
    let _server = start(
        &connection,
        UnwritableDispatcher::new(Giver).with_queue(&queue),
    )
    .await;
    let unwritable = UnwritableClient::new(client(&connection)).with_queue(&queue);
    let error = unwritable.take(Stubborn).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(!error.may_have_executed());
    let error = unwritable.give().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadReply);
    assert!(
        error.to_string().contains("cannot be serialized"),
        "{error}"
    );
    assert!(error.may_have_executed());
}
