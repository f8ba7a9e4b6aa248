//! Connections that are used outside of the runtime that opened them.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use rpc_core::{
    CallError, Connection, ConnectionState, ErrorKind, OpenError, RpcError, ServeError, Server,
};
use rpc_tests::unique_queue;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::{Broker, Probe, SampleClient, SampleDispatcher, client, client_builder, serve};
use crate::broker;

/// A limit far below all deadlines here.
const AT_ONCE: Duration = Duration::from_secs(10);

const ENDED: &str = "the runtime that opened the connection has ended";

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

impl Broker {
    /// A connection opened by another runtime.
    async fn connect_in(&self, runtime: &Runtime) -> Connection {
        let url = self.url.clone();
        let opening = runtime.spawn(async move { Connection::open(&url).await });
        opening.await.unwrap().expect("the test's broker")
    }
}

/// Returns the error of a call that fails at once, and panics if the call takes longer.
async fn at_once<T>(call: impl Future<Output = Result<T, RpcError>>) -> RpcError {
    let answer = timeout(AT_ONCE, call).await.expect("at once");
    answer.err().expect("an error")
}

#[tokio::test]
async fn several_runtimes_share_a_connection() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let first = runtime();
    let shared = broker.connect_in(&first).await;
    let here = SampleClient::new(client(&shared)).with_queue(&setup.queue);
    // The channels that calls of the second runtime open outlive that runtime.
    let second = runtime();
    let there = here.clone();
    let calls = second.spawn(async move {
        there.note("from there".to_owned()).await.unwrap();
        there.add(1, 2).await.unwrap()
    });
    assert_eq!(calls.await.unwrap(), 3);
    second.shutdown_background();
    for n in 0..3 {
        assert_eq!(here.add(n, 1).await.unwrap(), n + 1);
    }
    here.note("from here".to_owned()).await.unwrap();
    setup.probe.until_noted("from here").await;
    first.shutdown_background();
}

#[tokio::test]
async fn batched_calls_continue_when_the_runtime_of_the_first_has_ended() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let coalescing = client_builder(&setup.connection).coalesce(16).build();
    let here = SampleClient::new(coalescing).with_queue(&setup.queue);
    let second = runtime();
    let there = here.clone();
    let add = move |n| {
        let there = there.clone();
        async move { there.add(n, 1).await }
    };
    let calls = second.spawn(futures_util::future::try_join_all((0..16).map(add)));
    calls.await.unwrap().unwrap();
    second.shutdown_background();
    let calls = (0..16).map(|n| here.add(n, 1).into_future());
    let sums = futures_util::future::try_join_all(calls).await.unwrap();
    assert_eq!(sums, (1..=16).collect::<Vec<u64>>());
}

#[tokio::test]
async fn calls_fail_at_once_when_the_runtime_that_opened_the_connection_has_ended() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let other = runtime();
    let connection = broker.connect_in(&other).await;
    let mut state = connection.state();
    let sample = SampleClient::new(connection.client()).with_queue(&setup.queue);
    let held = tokio::spawn(sample.hold_once().into_future());
    setup.probe.until_begun(1).await;
    other.shutdown_background();
    let error = at_once(async { held.await.unwrap() }).await;
    assert!(error.may_have_executed(), "{error}");
    let closed = timeout(AT_ONCE, async {
        while state.current() != ConnectionState::Closed {
            state.changed().await;
        }
    });
    closed.await.unwrap();

    let error = at_once(sample.add(1, 2).into_future()).await;
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(!error.may_have_executed());
    assert!(error.to_string().contains(ENDED), "{error}");
    timeout(AT_ONCE, connection.close()).await.unwrap();
    setup.probe.release(1);
}

#[tokio::test]
async fn an_unused_connection_whose_runtime_has_ended_fails_its_first_call() {
    let broker = broker().await;
    let other = runtime();
    let connection = broker.connect_in(&other).await;
    other.shutdown_background();
    let sample = SampleClient::new(connection.client()).with_queue(unique_queue("runtimes"));
    let error = at_once(sample.add(1, 2).into_future()).await;
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(error.to_string().contains(ENDED), "{error}");
}

#[tokio::test]
async fn a_server_ends_with_the_runtime_that_opened_its_connection() {
    let broker = broker().await;
    let other = runtime();
    let connection = broker.connect_in(&other).await;
    let queue = unique_queue("runtimes");
    let mut server = serve(&connection, &queue, &Probe::default(), |server| server).await;
    other.shutdown_background();
    let ended = timeout(AT_ONCE, server.ended()).await.unwrap();
    let error = ended.unwrap_err();
    assert!(matches!(error, ServeError::RuntimeEnded), "{error:?}");
    assert!(error.to_string().contains(ENDED), "{error}");
}

#[tokio::test]
async fn a_call_through_an_idle_runtime_names_the_cause_at_its_deadline() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let url = broker.url.clone();
    // Drives the runtime only until the connection is open.
    let opened = tokio::task::spawn_blocking(move || {
        let idle = Builder::new_current_thread().enable_all().build().unwrap();
        let connection = idle.block_on(Connection::open(&url)).unwrap();
        (idle, connection)
    });
    let (idle, connection) = opened.await.unwrap();
    let sample = SampleClient::new(connection.client()).with_queue(&setup.queue);
    let call = sample.add(1, 2).timeout(Duration::from_millis(200));
    let error = at_once(call.into_future()).await;
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let cause = "the connection belongs to another runtime";
    assert!(error.to_string().contains(cause), "{error}");
    idle.shutdown_background();
}

/// Polls a future outside of any runtime.
fn outside<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let driving = thread::spawn(move || {
        let mut future = pin!(future);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => thread::park(),
            }
        }
    });
    driving.join().expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn awaiting_outside_of_a_runtime_is_an_error() {
    let broker = broker().await;
    let setup = broker.sample().await;

    let call = setup.sample.add(1, 2).into_future();
    let error = outside(call).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(!error.may_have_executed());
    assert!(error.to_string().contains("a call needs a Tokio runtime"));

    let direct = SampleClient::new(SampleDispatcher::new(Probe::default()));
    let error = outside(direct.divide(1, 2).into_future()).unwrap_err();
    let CallError::Rpc(error) = error else {
        panic!("{error:?}");
    };
    assert!(error.to_string().contains("a call needs a Tokio runtime"));

    let url = broker.url.clone();
    let opened = outside(async move { Connection::open(&url).await });
    assert!(matches!(opened, Err(OpenError::NoRuntime)), "{opened:?}");

    let server = Server::builder(&setup.connection)
        .service(SampleDispatcher::new(Probe::default()).with_queue(unique_queue("runtimes")))
        .build();
    let started = outside(server.start());
    assert!(matches!(started, Err(ServeError::NoRuntime)), "{started:?}");

    // These operations need no runtime.
    let handle = setup.server;
    outside(handle.shutdown()).unwrap();
    let connection = setup.connection;
    outside(async move { connection.close().await });
}
