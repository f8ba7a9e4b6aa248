//! Invalid headers: the call that has one fails, and no other call is affected.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rpc_core::{
    Connection, ConnectionState, Context, ErrorKind, HeaderValue, Headers, Request, RpcError,
    Server, ServerBuilder, ServerHandle, rpc,
};
use rpc_tests::unique_queue;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tower::ServiceBuilder;

use super::{client, client_builder};
use crate::broker;

/// A service that shows headers, and replies with headers that a test chooses.
#[rpc]
trait Labels {
    #[rpc(idempotent)]
    async fn count(#[ctx] cx: Context) -> usize;
    async fn text(name: String, #[ctx] cx: Context) -> Option<String>;
    /// Replies with the header of that index in [`unsendable`], or with a valid one.
    async fn answer(number: usize, #[ctx] cx: Context);
    async fn runs() -> usize;
    /// Replies with a header that a layer looks for.
    async fn wanted(#[ctx] cx: Context);
    async fn hold();
    async fn release();
}

#[derive(Clone, Default)]
struct Printer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    answers: AtomicUsize,
    holds: AtomicUsize,
    held: Notify,
    released: Notify,
}

impl Printer {
    fn answers(&self) -> usize {
        self.0.answers.load(Ordering::SeqCst)
    }
}

impl Labels for Printer {
    async fn count(&self, cx: Context) -> usize {
        let mine = cx
            .headers()
            .iter()
            .filter(|(name, _)| !name.starts_with("trace"));
        mine.map(|(_, value)| values_of(value)).sum()
    }

    async fn text(&self, name: String, cx: Context) -> Option<String> {
        cx.header_as::<String>(&name)
    }

    async fn answer(&self, number: usize, cx: Context) {
        self.0.answers.fetch_add(1, Ordering::SeqCst);
        let Unsendable { name, value, .. } = &unsendable()[number];
        cx.set_reply_header(name, value());
    }

    async fn runs(&self) -> usize {
        self.answers()
    }

    async fn wanted(&self, cx: Context) {
        cx.set_reply_header("wanted", true);
    }

    async fn hold(&self) {
        self.0.holds.fetch_add(1, Ordering::SeqCst);
        self.0.held.notify_one();
        self.0.released.notified().await;
    }

    async fn release(&self) {
        self.0.released.notify_one();
    }
}

fn values_of(value: &HeaderValue) -> usize {
    1 + match value {
        HeaderValue::List(values) => values.iter().map(values_of).sum(),
        HeaderValue::Table(headers) => headers.iter().map(|(_, value)| values_of(value)).sum(),
        _ => 0,
    }
}

fn lists(depth: usize) -> HeaderValue {
    (0..depth).fold(HeaderValue::Void, |inner, _| HeaderValue::List(vec![inner]))
}

fn tables(depth: usize) -> HeaderValue {
    (0..depth).fold(HeaderValue::Void, |inner, _| {
        HeaderValue::Table(Headers::from_iter([("inner".to_owned(), inner)]))
    })
}

fn list_of(len: usize) -> HeaderValue {
    HeaderValue::List(vec![HeaderValue::Int(1); len])
}

/// A header that the broker or the protocol cannot carry.
struct Unsendable {
    name: String,
    /// Makes the value: a deeply nested one cannot be cloned.
    value: Box<dyn Fn() -> HeaderValue + Send + Sync>,
    /// The error of a call with this header.
    kind: ErrorKind,
}

fn unsendable() -> Vec<Unsendable> {
    let mut all = Vec::new();
    let mut add = |name: &str, kind, value: Box<dyn Fn() -> HeaderValue + Send + Sync>| {
        let name = name.to_owned();
        all.push(Unsendable { name, value, kind });
    };
    for name in [
        "CC",
        "BCC",
        "x-death",
        "x-delivery-count",
        "x-acquired-count",
    ] {
        let spy = || HeaderValue::List(vec!["spy".into()]);
        add(name, ErrorKind::Encode, Box::new(spy));
        add(name, ErrorKind::Encode, Box::new(|| 1.into()));
    }
    for name in [
        "x-first-death-queue",
        "x-last-death-reason",
        "x-opt-deaths",
        "rpc-deadline",
    ] {
        add(name, ErrorKind::Encode, Box::new(|| "a".into()));
    }
    add(&"x".repeat(256), ErrorKind::Encode, Box::new(|| 1.into()));
    add("number", ErrorKind::Encode, Box::new(|| f64::NAN.into()));
    let infinite = || HeaderValue::List(vec![f64::INFINITY.into()]);
    add("numbers", ErrorKind::Encode, Box::new(infinite));
    for depth in [33, 3_000] {
        add("deep", ErrorKind::Encode, Box::new(move || lists(depth)));
    }
    add("deep", ErrorKind::Encode, Box::new(|| tables(33)));
    for len in [1_000, 100_000] {
        add("many", ErrorKind::Encode, Box::new(move || list_of(len)));
    }
    for len in [131_000, 131_072, 1_000_000] {
        add(
            "large",
            ErrorKind::TooLarge,
            Box::new(move || "x".repeat(len).into()),
        );
    }
    all
}

struct Setup {
    labels: LabelsClient,
    printer: Printer,
    connection: Connection,
    /// A call that stays in flight during a test.
    held: JoinHandle<Result<(), RpcError>>,
    _server: ServerHandle,
}

impl Setup {
    async fn new(options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let connection = broker().await.connect().await;
        let queue = unique_queue("labels");
        let printer = Printer::default();
        let dispatcher = LabelsDispatcher::new(printer.clone()).with_queue(&queue);
        let server = options(Server::builder(&connection).service(dispatcher)).build();
        let server = server.start().await.expect("the server starts");
        let labels = LabelsClient::new(client(&connection)).with_queue(&queue);
        let held = tokio::spawn(labels.hold().into_future());
        printer.0.held.notified().await;
        Self {
            labels,
            printer,
            connection,
            held,
            _server: server,
        }
    }

    /// Asserts that neither the call in flight nor the connection was affected.
    async fn ends_unharmed(self) {
        assert_eq!(self.labels.runs().await.unwrap(), self.printer.answers());
        self.labels.release().await.unwrap();
        self.held
            .await
            .unwrap()
            .expect("the call in flight gets its response");
        assert_eq!(
            self.connection.state().current(),
            ConnectionState::Connected
        );
        assert_eq!(
            self.printer.0.holds.load(Ordering::SeqCst),
            1,
            "it ran once"
        );
    }
}

#[tokio::test]
async fn an_invalid_request_header_fails_its_call_alone() {
    let setup = Setup::new(|server| server).await;
    for Unsendable { name, value, kind } in unsendable() {
        let shown: String = name.chars().take(20).collect();
        // An `idempotent` call is not retried if a retry cannot succeed.
        let error = setup
            .labels
            .count()
            .header(&name, value())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{shown}: {error}");
        assert!(!error.may_have_executed(), "{shown}: {error}");
        let error = setup
            .labels
            .count()
            .propagating_header(&name, value())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{shown}: {error}");
    }
    setup.ends_unharmed().await;
}

#[tokio::test]
async fn a_clients_default_headers_are_checked() {
    let setup = Setup::new(|server| server).await;
    for Unsendable { name, value, kind } in unsendable() {
        let clients = client_builder(&setup.connection).header(&name, value());
        let by_builder = LabelsClient::new(clients.build());
        let error = by_builder.count().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let value = Arc::new(value);
        let add = tower::util::MapRequestLayer::new(move |mut request: Request| {
            request.headers_mut().insert(&*name, value());
            request
        });
        let by_layer = ServiceBuilder::new()
            .layer(add)
            .service(client(&setup.connection));
        let error = LabelsClient::new(by_layer).count().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    setup.ends_unharmed().await;
}

#[tokio::test]
async fn an_invalid_reply_header_is_a_fault_and_the_handler_ran_once() {
    let setup = Setup::new(|server| server).await;
    for (number, Unsendable { name, kind, .. }) in unsendable().into_iter().enumerate() {
        let error = setup.labels.answer(number).await.unwrap_err();
        let expected = match kind {
            ErrorKind::Encode => ErrorKind::BadReply,
            kind => kind,
        };
        assert_eq!(error.kind(), expected, "{name:.20}: {error}");
        assert!(error.may_have_executed(), "{error}");
        assert_eq!(
            setup.printer.answers(),
            number + 1,
            "{name:.20}: it ran once"
        );
    }
    setup.ends_unharmed().await;
}

#[tokio::test]
async fn reply_headers_of_server_layers_are_checked() {
    let add = tower::util::MapResponseLayer::new(|mut response: rpc_core::Response| {
        if response.headers().get("wanted").is_some() {
            response
                .headers_mut()
                .insert("CC", HeaderValue::List(vec!["spy".into()]));
        }
        response
    });
    let setup = Setup::new(|server| server.layer(add)).await;
    setup.labels.runs().await.unwrap();
    let error = setup.labels.wanted().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadReply, "{error}");
    assert!(error.to_string().contains("CC"), "{error}");
    setup.ends_unharmed().await;
}

#[tokio::test]
async fn headers_within_the_limits_arrive() {
    let setup = Setup::new(|server| server).await;
    let large = "x".repeat(120_000);
    for (name, text) in [
        ("large", large.as_str()),
        ("x-request-id", "7"),
        ("cc", "copy"),
        ("authorization", "Bearer"),
        (&"x".repeat(255), "long"),
    ] {
        let call = setup.labels.text(name.to_owned()).header(name, text);
        assert_eq!(call.await.unwrap().as_deref(), Some(text), "{name:.20}");
    }
    for (value, values) in [(lists(32), 33), (tables(32), 33), (list_of(999), 1_000)] {
        let count = setup.labels.count().header("values", value).await.unwrap();
        assert_eq!(count, values);
    }
    setup.ends_unharmed().await;
}
