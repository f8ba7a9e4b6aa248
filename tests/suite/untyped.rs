//! Calls by the names of methods, with encoded values and without the trait.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, stream};
use rpc_core::instances::ServiceInfo;
use rpc_core::testing::Peer;
use rpc_core::{
    CallError, Client, ClientBuilder, Connection, ContentType, Context, Encoded, ErrorKind,
    Incoming, RpcError, ServerHandle, Stream, Streaming, UntypedClient, rpc,
};
use rpc_tests::unique_queue;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{client_builder, start};
use crate::broker;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum LedgerError {
    Closed { account: String },
}

/// A service with a method of each kind.
#[rpc]
trait Ledger {
    async fn add(a: u64, #[serde(default)] b: u64) -> u64;
    #[rpc(default, idempotent, timeout = "7s", priority = 3, persistent)]
    async fn balance(account: String, #[ctx] cx: Context) -> Result<i64, LedgerError>;
    #[rpc(oneway)]
    async fn note(text: String);
    async fn count(to: u64) -> impl Stream<Item = Result<u64, LedgerError>>;
    async fn sum(start: u64, numbers: impl Stream<Item = u64>) -> Result<u64, LedgerError>;
    async fn double(
        numbers: impl Stream<Item = u64>,
    ) -> Result<impl Stream<Item = u64>, LedgerError>;
    #[rpc(queue = "ledger-slow")]
    async fn slow() -> String;
}

struct Book {
    notes: mpsc::UnboundedSender<String>,
}

fn closed(account: &str) -> LedgerError {
    LedgerError::Closed {
        account: account.to_owned(),
    }
}

impl Ledger for Book {
    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }

    async fn balance(&self, account: String, cx: Context) -> Result<i64, LedgerError> {
        match cx.header("tenant") {
            Some(_) => Ok(-7),
            None => Err(closed(&account)),
        }
    }

    async fn note(&self, text: String) {
        let _ = self.notes.send(text);
    }

    async fn count(&self, to: u64) -> impl Stream<Item = Result<u64, LedgerError>> {
        let numbers = stream::iter(0..to).map(Ok);
        numbers.chain(stream::iter((to == 3).then(|| Err(closed("three")))))
    }

    async fn sum(&self, start: u64, mut numbers: Incoming<u64>) -> Result<u64, LedgerError> {
        let mut sum = start;
        while let Some(number) = numbers.next().await {
            sum += number.map_err(|error| closed(&error.to_string()))?;
        }
        Ok(sum)
    }

    async fn double(&self, numbers: Incoming<u64>) -> Result<impl Stream<Item = u64>, LedgerError> {
        Ok(numbers.filter_map(async |number| Some(2 * number.ok()?)))
    }

    async fn slow(&self) -> String {
        "done".to_owned()
    }
}

struct Setup {
    connection: Connection,
    client: UntypedClient,
    description: ServiceInfo,
    notes: mpsc::UnboundedReceiver<String>,
    _server: ServerHandle,
}

async fn setup() -> Setup {
    setup_with(|client| client).await
}

async fn setup_with(options: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Setup {
    let connection = broker().await.connect().await;
    let (notes, noted) = mpsc::unbounded_channel();
    let prefix = unique_queue("untyped");
    let dispatcher = LedgerDispatcher::new(Book { notes })
        .with_queue("ledger")
        .with_queue_prefix(format!("{prefix}."));
    let server = start(&connection, dispatcher).await;
    let client = options(client_builder(&connection)).build();
    let description = client
        .describe("Ledger")
        .on_queue(format!("{prefix}.ledger"))
        .await
        .unwrap();
    Setup {
        client: UntypedClient::described(client, description.clone()),
        connection,
        description,
        notes: noted,
        _server: server,
    }
}

fn json(text: &str) -> Encoded {
    Encoded::from_json(text).unwrap()
}

fn message_pack(value: &impl Serialize) -> Encoded {
    Encoded::encode(ContentType::MessagePack, value).unwrap()
}

fn text(result: Result<Encoded, CallError<Encoded>>) -> String {
    result.unwrap().to_json().unwrap()
}

/// The service's own error, as JSON.
fn own<T: std::fmt::Debug>(result: Result<T, CallError<Encoded>>) -> String {
    match result {
        Err(CallError::App(error)) => error.to_json().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn fault<T: std::fmt::Debug>(result: Result<T, CallError<Encoded>>) -> RpcError {
    match result {
        Err(CallError::Rpc(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn items(stream: Streaming<Encoded, CallError<Encoded>>) -> (Vec<String>, Option<String>) {
    let mut stream = stream;
    let mut items = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            Ok(item) => items.push(item.to_json().unwrap()),
            error => return (items, Some(own(error))),
        }
    }
    (items, None)
}

#[tokio::test]
async fn arguments_and_results_are_in_the_format_of_the_arguments() {
    let setup = setup().await;
    let ledger = &setup.client;
    for (arguments, format) in [
        (json(r#"{"a":1,"b":2}"#), ContentType::Json),
        (json("[1, 2]"), ContentType::Json),
        (message_pack(&(1, 2)), ContentType::MessagePack),
        (
            Encoded::new(ContentType::Plain, r#"{"a":3}"#),
            ContentType::Json,
        ),
    ] {
        let result = ledger.call("add", arguments).await.unwrap();
        assert_eq!(result.content_type(), format);
        assert_eq!(result.decode::<u64>().unwrap(), 3);
        assert_eq!(result.to_json().unwrap(), "3");
    }
}

#[tokio::test]
async fn the_format_of_the_client_does_not_matter() {
    let setup = setup_with(ClientBuilder::json).await;
    let ledger = &setup.client;
    let result = ledger.call("add", message_pack(&(1, 2))).await.unwrap();
    assert_eq!(result.content_type(), ContentType::MessagePack);
    assert_eq!(result.to_json().unwrap(), "3");
}

#[tokio::test]
async fn errors_of_the_service_and_faults_are_told_apart() {
    let setup = setup().await;
    let ledger = &setup.client;
    let balance = || ledger.call("balance", json(r#"{"account":"a"}"#));
    assert_eq!(own(balance().await), r#"{"Closed":{"account":"a"}}"#);
    let with_header = balance().header("tenant", "t");
    assert_eq!(text(with_header.await), "-7");
    let error = fault(ledger.call("add", json(r#"{"a":"x"}"#)).await);
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    let error = fault(ledger.call("add", json("30")).await).to_string();
    let expected = "expected a map or an array of the arguments of `add`";
    assert!(error.contains(expected), "{error}");
    let error = fault(
        ledger
            .call("add", Encoded::new(ContentType::Json, "{"))
            .await,
    );
    assert_eq!(error.kind(), ErrorKind::BadRequest);
}

#[tokio::test]
async fn every_kind_of_stream_can_be_called() {
    let setup = setup().await;
    let ledger = &setup.client;
    for format in [ContentType::Json, ContentType::MessagePack] {
        let encode = move |value: u64| Encoded::encode(format, &value).unwrap();
        let to = |to: u64| Encoded::encode(format, &(to,)).unwrap();
        let count = ledger.server_streaming("count", to(2)).await.unwrap();
        assert_eq!(items(count).await.0, ["0", "1"]);
        let broken = ledger.server_streaming("count", to(3)).await.unwrap();
        let (read, error) = items(broken).await;
        assert_eq!(read, ["0", "1", "2"]);
        assert_eq!(error.unwrap(), r#"{"Closed":{"account":"three"}}"#);

        let numbers = move || stream::iter(1..=4).map(encode);
        let sum = ledger.client_streaming("sum", to(10), numbers());
        assert_eq!(text(sum.await), "20");
        let none = Encoded::encode(format, &[0_u8; 0]).unwrap();
        let doubled = ledger.bidirectional("double", none, numbers()).await;
        assert_eq!(items(doubled.unwrap()).await.0, ["2", "4", "6", "8"]);
    }
}

#[tokio::test]
async fn items_are_sent_in_the_format_of_the_arguments() {
    let setup = setup().await;
    let ledger = &setup.client;
    let mixed = [json("1"), message_pack(&2)];
    let sum = ledger.client_streaming("sum", message_pack(&(0,)), stream::iter(mixed.clone()));
    assert_eq!(text(sum.await), "3");
    let sum = ledger.client_streaming("sum", json("[0]"), stream::iter(mixed));
    assert_eq!(text(sum.await), "3");
    let malformed = stream::iter([Encoded::new(ContentType::Json, "{")]);
    let error = fault(
        ledger
            .client_streaming("sum", message_pack(&(0,)), malformed)
            .await,
    );
    assert_eq!(error.kind(), ErrorKind::Encode);
}

#[tokio::test]
async fn oneway_methods_have_no_answer() {
    let mut setup = setup().await;
    let note = || json(r#"{"text":"hello"}"#);
    setup.client.oneway("note", note()).await.unwrap();
    assert_eq!(setup.notes.recv().await.unwrap(), "hello");
    assert_eq!(text(setup.client.call("note", note()).await), "null");
    assert_eq!(setup.notes.recv().await.unwrap(), "hello");
}

#[tokio::test]
async fn a_description_refuses_other_methods_and_other_kinds_before_anything_is_sent() {
    let setup = setup().await;
    let ledger = &setup.client;
    let none = Encoded::no_arguments;
    let error = fault(ledger.call("ad", none()).await);
    assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    assert!(error.to_string().contains("'ad'"), "{error}");
    let errors = [
        fault(ledger.call("count", none()).await),
        fault(ledger.call("sum", none()).await),
        fault(ledger.call("double", none()).await),
        fault(ledger.server_streaming("add", none()).await),
        fault(
            ledger
                .client_streaming("count", none(), stream::empty())
                .await,
        ),
        fault(ledger.bidirectional("sum", none(), stream::empty()).await),
        ledger.oneway("add", none()).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Encode, "{error}");
        assert!(error.to_string().contains("UntypedClient::"), "{error}");
        assert!(!error.may_have_executed());
    }
}

#[tokio::test]
async fn requests_go_to_the_queues_of_the_description_with_its_options() {
    let setup = setup().await;
    assert_eq!(
        text(setup.client.call("slow", Encoded::no_arguments()).await),
        r#""done""#
    );
    let queue = unique_queue("options");
    let mut peer = Peer::open(&setup.connection, &queue, &[]).await.unwrap();
    let client = setup.client.clone().with_queue(&queue);
    let calling = tokio::spawn(client.call("balance", json(r#"["a"]"#)));
    let request = peer.next().await.unwrap();
    assert_eq!(request.kind.as_deref(), Some("balance"));
    assert_eq!(request.content_type.as_deref(), Some("application/json"));
    assert_eq!((request.priority, request.persistent), (Some(3), true));
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let left = i128::from(request.deadline.unwrap()) - since_epoch.as_millis() as i128;
    assert!((3_000..=7_100).contains(&left), "{left}");
    calling.abort();
}

#[tokio::test]
async fn without_a_description_the_caller_chooses_the_kind() {
    let setup = setup().await;
    let client = setup.connection.client();
    let ledger = UntypedClient::new(client, "Ledger").with_queue(&setup.description.queue);
    assert!(ledger.description().is_none());
    assert_eq!(text(ledger.call("add", json("[1,2]")).await), "3");
    // Without a name: the default method.
    assert_eq!(
        own(ledger.call("", json(r#"["a"]"#)).await),
        r#"{"Closed":{"account":"a"}}"#
    );
    let count = ledger.server_streaming("count", json("[2]")).await.unwrap();
    assert_eq!(items(count).await.0, ["0", "1"]);
    let error = fault(ledger.call("ad", json("[]")).await);
    assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    let error = fault(ledger.call("count", json("[2]")).await);
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    let error = fault(ledger.server_streaming("add", json("[1]")).await);
    assert_eq!(error.kind(), ErrorKind::BadReply);
}

#[tokio::test]
async fn an_unknown_service_is_unroutable() {
    let connection = broker().await.connect().await;
    let name = unique_queue("Missing");
    let client = UntypedClient::new(connection.client(), name);
    let error = fault(client.call("get", Encoded::no_arguments()).await);
    assert_eq!(error.kind(), ErrorKind::Unroutable);
}

#[tokio::test]
async fn a_plain_client_sends_the_bare_argument() {
    #[rpc]
    trait Echo {
        async fn echo(n: u64) -> u64;
    }
    struct Wall;
    impl Echo for Wall {
        async fn echo(&self, n: u64) -> u64 {
            n
        }
    }
    let connection = broker().await.connect().await;
    let queue = unique_queue("plain");
    let dispatcher = EchoDispatcher::new(Wall).with_queue(&queue);
    let _server = start(&connection, dispatcher).await;
    let client = client_builder(&connection).plain().build();
    let echo = UntypedClient::new(client, "Echo").with_queue(&queue);
    assert_eq!(text(echo.call("echo", json("30")).await), "30");
    assert_eq!(text(echo.call("", message_pack(&31)).await), "31");
    let error = fault(echo.server_streaming("echo", json("30")).await);
    assert_eq!(error.kind(), ErrorKind::Encode);
}

#[tokio::test]
async fn all_instances_answer_an_untyped_call() {
    let setup = setup().await;
    let call = setup.client.call("add", json("[1,2]"));
    let mut answers = call
        .to_all_instances()
        .within(Duration::from_secs(20))
        .expect(1)
        .send()
        .await
        .unwrap();
    let (_, answer) = answers.next().await.unwrap();
    assert_eq!(text(answer), "3");
    let call = setup.client.server_streaming("count", json("[2]"));
    let error = call.to_all_instances().send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
}

#[tokio::test]
async fn a_dispatcher_answers_untyped_calls_without_a_broker() {
    let (notes, _) = mpsc::unbounded_channel();
    let ledger = UntypedClient::new(LedgerDispatcher::new(Book { notes }), "Ledger");
    assert_eq!(text(ledger.call("add", json("[1,2]")).await), "3");
    let numbers = stream::iter([json("5")]);
    let doubled = ledger
        .bidirectional("double", json("[]"), numbers)
        .await
        .unwrap();
    assert_eq!(items(doubled).await.0, ["10"]);
}

#[test]
fn untyped_clients_and_their_calls_can_be_sent_to_other_threads() {
    fn assert_send<T: Send>(_: &T) {}
    fn check(client: &UntypedClient<Client>) {
        assert_send(client);
        assert_send(&client.call("a", Encoded::no_arguments()));
        assert_send(&client.server_streaming("a", Encoded::no_arguments()));
    }
    let _ = check;
}
