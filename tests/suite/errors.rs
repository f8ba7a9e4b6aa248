//! Failing calls: each fails at once, and its error is accurate.

use std::time::{Duration, Instant};

use rpc_core::{CallError, ErrorKind, HeaderValue, ServeError, Server, rpc};
use rpc_tests::unique_queue;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Probe, SampleClient, SampleDispatcher, SampleError, client, client_builder, start};
use crate::broker;

/// Far less than the 30 seconds that a call may take.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn an_application_error_arrives_unchanged() {
    let setup = broker().await.sample().await;
    assert_eq!(setup.sample.divide(6, 3).await.unwrap(), 2);
    match setup.sample.divide(7, 0).await {
        Err(CallError::App(error)) => {
            assert_eq!(error, SampleError::DivisionByZero { dividend: 7 });
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn calls_to_a_missing_queue_fail_at_once() {
    let connection = broker().await.connect().await;
    let sample = SampleClient::new(client(&connection)).with_queue(unique_queue("nowhere"));
    let confirmed = SampleClient::new(client_builder(&connection).confirms(true).build())
        .with_queue(unique_queue("nowhere"));
    for sample in [sample, confirmed] {
        let started = Instant::now();
        let error = sample.add(1, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unroutable);
        assert!(!error.may_have_executed());
        let error = sample.note("unroutable".to_owned()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unroutable, "oneway");
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn only_unroutable_calls_fail() {
    let setup = broker().await.sample().await;
    let nowhere = setup.sample.clone().with_queue(unique_queue("nowhere"));
    for confirms in [false, true] {
        let client = client_builder(&setup.connection).confirms(confirms).build();
        let there = SampleClient::new(client.clone()).with_queue(&setup.queue);
        let nowhere = SampleClient::new(client).with_queue(unique_queue("nowhere"));
        let calls = (0..200_u64).map(|n| {
            let (there, nowhere) = (there.clone(), nowhere.clone());
            tokio::spawn(async move {
                if n % 3 == 0 {
                    assert_eq!(
                        nowhere.add(n, 1).await.unwrap_err().kind(),
                        ErrorKind::Unroutable
                    );
                } else {
                    assert_eq!(there.add(n, 1).await.unwrap(), n + 1);
                }
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    }
    let started = Instant::now();
    assert_eq!(
        nowhere.add(1, 1).await.unwrap_err().kind(),
        ErrorKind::Unroutable
    );
    assert!(started.elapsed() < AT_ONCE);
}

#[tokio::test]
async fn only_unroutable_oneway_calls_fail() {
    let setup = broker().await.sample().await;
    let nowhere = setup.sample.clone().with_queue(unique_queue("nowhere"));
    let calls = (0..200_u32).map(|n| {
        let (there, nowhere) = (setup.sample.clone(), nowhere.clone());
        tokio::spawn(async move {
            if n % 3 == 0 {
                assert_eq!(
                    nowhere.note(n.to_string()).await.unwrap_err().kind(),
                    ErrorKind::Unroutable
                );
            } else {
                there.note(n.to_string()).await.unwrap();
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_is_a_fault_and_the_server_continues() {
    let setup = broker().await.sample().await;
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    for error in [
        setup.sample.panic().await.unwrap_err(),
        setup.sample.block_and_panic().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(error.may_have_executed());
        assert!(
            !error.to_string().contains("as requested"),
            "the panic message stays on the server"
        );
    }
    setup.probe.release(1);
    held.await.unwrap().unwrap();
}

/// A value whose own code panics: 1 while it is encoded, 2 while it is decoded.
#[derive(Debug)]
struct Fragile(u8);

impl Serialize for Fragile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert_ne!(self.0, 1, "as requested");
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u8::deserialize(deserializer)?;
        assert_ne!(number, 2, "as requested");
        Ok(Self(number))
    }
}

#[rpc]
trait Postal {
    async fn make(n: u8) -> Fragile;
    #[rpc(blocking)]
    fn make_slowly(n: u8) -> Fragile;
    async fn take(parcel: Fragile) -> u8;
}

struct Clerk;

impl Postal for Clerk {
    async fn make(&self, n: u8) -> Fragile {
        Fragile(n)
    }
    fn make_slowly(&self, n: u8) -> Fragile {
        Fragile(n)
    }
    async fn take(&self, parcel: Fragile) -> u8 {
        parcel.0
    }
}

#[tokio::test]
async fn a_panic_of_serde_code_is_a_fault() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("postal");
    let _server = start(&connection, PostalDispatcher::new(Clerk).with_queue(&queue)).await;
    let postal = PostalClient::new(client(&connection)).with_queue(&queue);
    for error in [
        postal.make(1).await.unwrap_err(),
        postal.make_slowly(1).await.unwrap_err(),
        postal.take(Fragile(2)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
    }
    assert_eq!(postal.make(0).await.unwrap().0, 0);
}

#[tokio::test]
async fn an_invalid_header_is_an_encoding_error() {
    let setup = broker().await.sample().await;
    for name in ["rpc-deadline".to_owned(), "x".repeat(256)] {
        let error = setup.sample.add(1, 1).header(name, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(!error.may_have_executed());
    }
    let error = setup
        .sample
        .clone()
        .with_queue("q".repeat(256))
        .add(1, 1)
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Encode | ErrorKind::Unroutable),
        "{error:?}"
    );
    assert_eq!(
        setup.sample.add(1, 1).await.unwrap(),
        2,
        "the client still works"
    );
}

#[tokio::test]
async fn two_services_of_a_server_cannot_share_a_queue() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("shared");
    let server = Server::builder(&connection)
        .service(SampleDispatcher::new(Probe::default()).with_queue(&queue))
        .service(SampleDispatcher::new(Probe::default()).with_queue(&queue))
        .build();
    match server.start().await {
        Err(ServeError::QueueTaken { queue: taken, .. }) => assert_eq!(taken, queue),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_without_a_service_is_an_error() {
    let connection = broker().await.connect().await;
    assert!(matches!(
        Server::builder(&connection).build().run().await,
        Err(ServeError::NoService)
    ));
}

#[tokio::test]
async fn a_header_that_would_close_the_connection_is_not_sent() {
    let setup = broker().await.sample().await;
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    let nested = HeaderValue::List(vec![1.into(), f64::INFINITY.into()]);
    for value in [f64::NAN.into(), nested] {
        let error = setup
            .sample
            .add(1, 1)
            .header("ratio", value)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(error.to_string().contains("'ratio'"), "{error}");
    }
    setup.probe.release(1);
    held.await.unwrap().expect("other calls are not affected");
}
