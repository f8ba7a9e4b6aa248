//! Dead letters: listing, retrying and discarding them.

use std::time::{Duration, SystemTime};

use futures_util::future::join;
use rpc_core::dead_letters::{DeadLetter, DeadLetters, Selection};
use rpc_core::testing::{Peer, PeerMessage};
use rpc_core::{Connection, ErrorKind, HeaderValue, Headers, QueueOptions};
use rpc_tests::{eventually, unique_queue};

use super::{Probe, SampleClient, SampleDispatcher, client, serve, start};
use crate::broker;

/// A request queue without a server, its dead-letter queue, and a writer of letters.
struct Queues {
    connection: Connection,
    queue: String,
    dead: DeadLetters,
    peer: Peer,
}

impl Queues {
    async fn new() -> Self {
        Self::with(QueueOptions::classic()).await
    }

    /// Declares the request queue with options.
    async fn with(options: QueueOptions) -> Self {
        let connection = broker().await.connect().await;
        let queue = unique_queue("requests");
        let dead_letters = format!("{queue}.dead");
        declare(&connection, &queue, options).await;
        declare(&connection, &dead_letters, QueueOptions::classic()).await;
        let peer = unique_queue("rpc.instance.peer");
        Self {
            peer: Peer::open(&connection, &peer, &[]).await.unwrap(),
            dead: connection.dead_letters(dead_letters),
            connection,
            queue,
        }
    }

    /// Writes a letter as a server does.
    async fn add(&self, number: u64) {
        self.add_from(number, Some(&self.queue)).await;
    }

    async fn add_from(&self, number: u64, queue: Option<&str>) {
        let mut headers = Headers::new();
        headers.insert("rpc-death-reason", "delivery-limit");
        headers.insert("rpc-death-time", HeaderValue::Timestamp(1_700_000_000));
        headers.insert("token", "sesame");
        if let Some(queue) = queue {
            headers.insert("rpc-death-queue", queue);
        }
        let letter = PeerMessage {
            kind: Some("number".to_owned()),
            content_type: Some("application/json".to_owned()),
            headers,
            body: format!(r#"{{"n":{number}}}"#).into(),
            ..PeerMessage::default()
        };
        self.peer.publish(self.dead.queue(), letter).await.unwrap();
    }

    /// Numbers of waiting requests and of letters.
    async fn counts(&self) -> (u32, u32) {
        let count = async |queue: &str| {
            let status = self.connection.queue_status(queue).await.unwrap();
            status.unwrap().messages
        };
        (count(&self.queue).await, count(self.dead.queue()).await)
    }

    /// Lets a request expire in a queue, and waits for the letter that the broker makes of it.
    async fn expire(&self, queue: &str, dead: &DeadLetters) -> DeadLetter {
        let sample = SampleClient::new(client(&self.connection)).with_queue(queue);
        let call = sample.number(7).timeout(Duration::from_millis(100));
        assert!(call.await.unwrap_err().is_timeout());
        let letter = eventually("the request expires", async || {
            // The embedded broker expires messages of a queue when another arrives.
            sample.note("one more".to_owned()).await.unwrap();
            dead.list(1).await.unwrap().pop()
        })
        .await;
        assert_eq!(letter.reason.as_deref(), Some("expired"));
        letter
    }

    /// Starts a server, and waits until it has run the request of [`expire`](Self::expire) once.
    async fn run_the_expired_request(&self, options: QueueOptions) {
        let probe = Probe::default();
        let dispatcher = SampleDispatcher::new(probe.clone())
            .with_queue(&self.queue)
            .with_queue_options(options);
        let _server = start(&self.connection, dispatcher).await;
        eventually("the request runs", async || {
            (probe.numbers() == [7]).then_some(())
        })
        .await;
    }

    async fn ids(&self) -> Vec<String> {
        let letters = self.dead.list(1000).await.unwrap();
        letters.into_iter().map(|letter| letter.id).collect()
    }
}

async fn declare(connection: &Connection, queue: &str, options: QueueOptions) {
    let dispatcher = SampleDispatcher::new(Probe::default())
        .with_queue(queue)
        .with_queue_options(options);
    start(connection, dispatcher)
        .await
        .shutdown()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_request_that_a_server_gave_up_is_listed_and_runs_again() {
    let once = |server: rpc_core::ServerBuilder| server.delivery_limit(1);
    let setup = broker().await.sample_with(once).await;
    let call = setup.sample.hold().header("tenant", "a").into_future();
    let call = tokio::spawn(call);
    setup.probe.until_begun(1).await;
    drop(setup.server);
    let _server = serve(&setup.connection, &setup.queue, &setup.probe, once).await;
    assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Panicked);

    let dead = setup
        .connection
        .dead_letters(format!("{}.dead", setup.queue));
    let letters = dead.list(10).await.unwrap();
    let [letter] = letters.as_slice() else {
        panic!("{letters:?}")
    };
    assert_eq!(letter.reason.as_deref(), Some("delivery-limit"));
    assert_eq!(letter.queue.as_ref(), Some(&setup.queue));
    assert_eq!((letter.deaths, letter.deliveries), (1, Some(1)));
    assert_eq!(letter.method.as_deref(), Some("hold"));
    assert_eq!(letter.headers.get_as("tenant"), Some("a"));
    assert!(
        letter
            .headers
            .iter()
            .all(|(name, _)| !name.starts_with("rpc-"))
    );
    assert!(letter.expects_reply && letter.correlation_id.is_some());
    let age = SystemTime::now().duration_since(letter.died.unwrap());
    assert!(age.unwrap() < Duration::from_secs(60));

    let again = dead.list(10).await.unwrap();
    assert_eq!(again[0].id, letter.id);
    let found = dead.find(&letter.id).await.unwrap().unwrap();
    assert_eq!(found.body, letter.body);
    assert!(dead.find("missing").await.unwrap().is_none());

    let outcome = dead.retry([letter.id.clone()]).await.unwrap();
    assert_eq!(outcome.retried, std::slice::from_ref(&letter.id));
    assert!(outcome.interrupted.is_none() && outcome.kept.is_empty());
    setup.probe.until_begun(2).await;
    assert_eq!(setup.probe.redelivered(), 1);
    assert!(dead.list(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_request_that_the_broker_moved_is_listed_and_runs_again() {
    let dead_letters = unique_queue("expired");
    let options = QueueOptions::classic().dead_letter_queue(&dead_letters);
    let queues = Queues::with(options.clone()).await;
    declare(&queues.connection, &dead_letters, QueueOptions::classic()).await;
    let dead = queues.connection.dead_letters(&dead_letters);
    let letter = queues.expire(&queues.queue, &dead).await;
    assert_eq!(letter.queue.as_ref(), Some(&queues.queue));
    assert_eq!((letter.deaths, letter.deliveries), (1, None));
    assert!(letter.deadline.unwrap() < SystemTime::now());
    let outcome = dead.retry(Selection::All).await.unwrap();
    assert_eq!(outcome.retried, [letter.id]);
    queues.run_the_expired_request(options).await;
}

#[tokio::test]
async fn a_request_that_expires_before_its_last_attempt_is_listed_and_runs_again() {
    let dead_letters = unique_queue("expired");
    let options = QueueOptions::classic().dead_letter_queue(&dead_letters);
    let queues = Queues::with(options.clone()).await;
    let retries = format!("{}.retry", queues.queue);
    let dead = queues.connection.dead_letters(&dead_letters);
    let letter = queues.expire(&retries, &dead).await;
    assert_eq!(letter.queue, Some(retries));
    dead.retry([letter.id]).await.unwrap();
    queues.run_the_expired_request(options).await;
}

#[tokio::test]
async fn a_list_gives_the_oldest_letters_and_leaves_all() {
    let queues = Queues::new().await;
    assert!(queues.ids().await.is_empty());
    for number in 0..5 {
        queues.add(number).await;
    }
    let all = queues.ids().await;
    for _ in 0..3 {
        let oldest = queues.dead.list(2).await.unwrap();
        let bodies: Vec<_> = oldest.iter().map(|letter| &letter.body[..]).collect();
        assert_eq!(bodies, [br#"{"n":0}"#, br#"{"n":1}"#]);
        assert_eq!(queues.ids().await, all);
    }
    assert_eq!(queues.counts().await, (0, 5));
    assert!(queues.dead.list(0).await.unwrap().is_empty());
}

#[tokio::test]
async fn selected_letters_are_discarded_or_retried_and_others_stay() {
    let queues = Queues::new().await;
    for number in 0..5 {
        queues.add(number).await;
    }
    let ids = queues.ids().await;
    let selected = [&ids[1], &ids[3], "missing"].map(String::from);
    let outcome = queues.dead.discard(selected).await.unwrap();
    assert_eq!(outcome.discarded, [ids[1].clone(), ids[3].clone()]);
    assert_eq!(outcome.not_found, ["missing"]);
    assert_eq!(
        queues.ids().await,
        [0, 2, 4].map(|place| ids[place].clone())
    );

    let selected = [ids[4].clone(), ids[3].clone()];
    let outcome = queues.dead.retry(selected).await.unwrap();
    assert_eq!(outcome.retried, [ids[4].clone()]);
    assert_eq!(outcome.not_found, [ids[3].clone()]);
    assert_eq!(queues.ids().await, [0, 2].map(|place| ids[place].clone()));
    assert_eq!(queues.counts().await, (1, 2));

    let outcome = queues.dead.discard(Selection::All).await.unwrap();
    assert_eq!(outcome.discarded.len(), 2);
    assert_eq!(queues.counts().await, (1, 0));
    let probe = Probe::default();
    let _server = serve(&queues.connection, &queues.queue, &probe, |s| s).await;
    eventually("the retried request runs", async || {
        (probe.numbers() == [4]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn equal_letters_are_numbered_from_the_oldest() {
    let queues = Queues::new().await;
    for number in [1, 1, 2, 1] {
        queues.add(number).await;
    }
    let ids = queues.ids().await;
    let id = &ids[0];
    let expected = [
        id.clone(),
        format!("{id}-2"),
        ids[2].clone(),
        format!("{id}-3"),
    ];
    assert_eq!(ids, expected);
    let outcome = queues.dead.discard([format!("{id}-2")]).await.unwrap();
    assert_eq!(outcome.discarded, [format!("{id}-2")]);
    let expected = [id.clone(), ids[2].clone(), format!("{id}-2")];
    assert_eq!(queues.ids().await, expected);
}

#[tokio::test]
async fn a_letter_that_cannot_be_retried_stays_with_a_reason() {
    let queues = Queues::new().await;
    let missing = unique_queue("missing");
    let own = queues.dead.queue().to_owned();
    let long = "q".repeat(300);
    for queue in [Some(missing.as_str()), None, Some(&own), Some(&long)] {
        queues.add_from(1, queue).await;
    }
    queues.add(5).await;
    let ids = queues.ids().await;
    let outcome = queues.dead.retry(Selection::All).await.unwrap();
    assert_eq!(outcome.retried, ids[4..]);
    assert!(outcome.may_exist_twice.is_empty() && outcome.interrupted.is_none());
    let mut kept: Vec<_> = outcome.kept.iter().map(|letter| &letter.id).collect();
    kept.sort();
    let mut expected: Vec<_> = ids[..4].iter().collect();
    expected.sort();
    assert_eq!(kept, expected);
    let reason = |id: &String| {
        let letter = outcome.kept.iter().find(|letter| letter.id == *id);
        letter.unwrap().reason.as_str()
    };
    assert!(reason(&ids[0]).contains(&missing), "{}", reason(&ids[0]));
    assert!(reason(&ids[1]).contains("does not name"));
    assert!(reason(&ids[2]).contains("dead-letter queue"));
    assert!(reason(&ids[3]).contains("255"), "{}", reason(&ids[3]));
    assert_eq!(queues.counts().await, (1, 4));
}

#[tokio::test]
async fn letters_that_a_full_queue_refuses_are_put_back() {
    let queues = Queues::with(QueueOptions::classic().max_length(1)).await;
    for number in 0..4 {
        queues.add(number).await;
    }
    // The first transaction has one letter, the second has two.
    let outcome = queues.dead.retry(Selection::All).await.unwrap();
    assert_eq!(outcome.retried.len(), 1);
    assert_eq!((outcome.kept.len(), outcome.may_exist_twice.len()), (2, 2));
    let error = outcome.interrupted.unwrap();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
    eventually("the broker takes the letters back", async || {
        (queues.counts().await == (1, 3)).then_some(())
    })
    .await;
    let outcome = queues.dead.retry(Selection::All).await.unwrap();
    assert_eq!((outcome.retried.len(), outcome.kept.len()), (0, 1));
    assert!(outcome.may_exist_twice.is_empty());
    eventually("the broker takes the letter back", async || {
        (queues.counts().await == (1, 3)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn two_operators_retry_each_letter_once() {
    const LETTERS: u64 = 300;
    let queues = Queues::new().await;
    for number in 0..LETTERS {
        queues.add(number).await;
    }
    let (one, other) = join(
        queues.dead.retry(Selection::All),
        queues.dead.retry(Selection::All),
    )
    .await;
    let (one, other) = (one.unwrap(), other.unwrap());
    let retried = one.retried.len() + other.retried.len();
    assert_eq!(retried, usize::try_from(LETTERS).unwrap());
    assert_eq!(queues.counts().await, (300, 0));
    let probe = Probe::default();
    let _server = serve(&queues.connection, &queues.queue, &probe, |s| s).await;
    eventually("all requests run", async || {
        (probe.numbers().len() == 300).then_some(())
    })
    .await;
    let mut numbers = probe.numbers();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..LETTERS));
}

#[tokio::test]
async fn dropped_operations_lose_and_double_nothing() {
    const LETTERS: u32 = 300;
    let queues = Queues::new().await;
    for number in 0..LETTERS {
        queues.add(number.into()).await;
    }
    for millis in [0, 1, 3, 10, 30] {
        let pause = Duration::from_millis(millis);
        let _ = tokio::time::timeout(pause, queues.dead.list(1000)).await;
        let _ = tokio::time::timeout(pause, queues.dead.retry(Selection::All)).await;
    }
    eventually("all letters are in a queue", async || {
        let (waiting, dead) = queues.counts().await;
        (waiting + dead == LETTERS).then_some(())
    })
    .await;
    let outcome = queues.dead.retry(Selection::All).await.unwrap();
    assert!(outcome.interrupted.is_none());
    assert_eq!(queues.counts().await, (LETTERS, 0));
}

#[tokio::test]
async fn a_queue_that_does_not_exist_has_no_dead_letters() {
    let connection = broker().await.connect().await;
    let dead = connection.dead_letters(unique_queue("missing"));
    let errors = [
        dead.list(1).await.map(drop),
        dead.retry(Selection::All).await.map(drop),
        dead.discard(["a"]).await.map(drop),
    ];
    for error in errors.map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Unroutable, "{error:?}");
        assert!(error.to_string().contains(dead.queue()), "{error}");
    }
    connection.close().await;
    let error = dead.list(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn serialized_letters_hide_secret_headers() {
    let queues = Queues::new().await;
    queues.add(1).await;
    let letter = queues.dead.list(1).await.unwrap().pop().unwrap();
    assert_eq!(letter.headers.get_as("token"), Some("sesame"));
    let json = serde_json::to_value(&letter).unwrap();
    assert_eq!(json["headers"], serde_json::json!({ "token": "<hidden>" }));
    assert_eq!(json["reason"], "delivery-limit");
}
