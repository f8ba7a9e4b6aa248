//! Messages that no well-behaved program sends, to servers of streams. The messages of a hostile server are in the tests of the client.

use futures_util::{StreamExt, stream};
use rpc_core::testing::{Peer, PeerMessage};
use rpc_core::{HeaderValue, Headers};
use rpc_tests::unique_queue;

use super::{LONG, Probe, Setup, all, next};

/// A caller that is written by hand.
struct Caller {
    peer: Peer,
    reply_to: String,
    queue: String,
}

impl Caller {
    async fn of(setup: &Setup) -> Self {
        let reply_to = unique_queue("rpc.reply.");
        Self {
            peer: Peer::open(&setup.connection, &reply_to, &[]).await.unwrap(),
            reply_to,
            queue: setup.queue.clone(),
        }
    }

    /// Requests a stream with headers in place of the usual terms.
    async fn request(&self, method: &str, body: &str, terms: &[(&str, HeaderValue)]) {
        let mut headers = Headers::new();
        for (name, value) in terms {
            headers.insert(*name, value.clone());
        }
        let request = PeerMessage {
            kind: Some(method.to_owned()),
            correlation_id: Some("1".to_owned()),
            reply_to: Some(self.reply_to.clone()),
            content_type: Some("application/json".to_owned()),
            headers,
            body: body.to_owned().into(),
            ..PeerMessage::default()
        };
        self.peer.publish(&self.queue, request).await.unwrap();
    }

    async fn next(&mut self) -> PeerMessage {
        let next = tokio::time::timeout(LONG, self.peer.next()).await;
        next.expect("a message in time").expect("a queue")
    }

    async fn next_of(&mut self, kind: &str) -> PeerMessage {
        let next = self.next().await;
        assert_eq!(next.kind.as_deref(), Some(kind), "{next:?}");
        next
    }

    /// Sends a message of a stream: as that of an acceptance, or with another id.
    async fn send(&self, accepted: &PeerMessage, id: &str, kind: &str, body: &'static [u8]) {
        let mut headers = Headers::new();
        for (name, value) in [("rpc-sequence", 0), ("rpc-items", 5), ("rpc-bytes", 5)] {
            headers.insert(name, value);
        }
        let message = PeerMessage {
            kind: Some(kind.to_owned()),
            correlation_id: accepted.correlation_id.clone(),
            message_id: Some(id.to_owned()),
            content_type: accepted.content_type.clone(),
            headers,
            body: body.into(),
            ..PeerMessage::default()
        };
        let private_queue = accepted.reply_to.as_deref().unwrap();
        self.peer.publish(private_queue, message).await.unwrap();
    }
}

fn terms(items: i64, bytes: i64, silence: i64) -> [(&'static str, HeaderValue); 3] {
    [
        ("rpc-items", items.into()),
        ("rpc-bytes", bytes.into()),
        ("rpc-silence", silence.into()),
    ]
}

const FAR: i64 = 1 << 62;

#[tokio::test]
async fn a_request_with_unusable_terms_gets_a_reason() {
    let setup = Setup::new().await;
    let mut caller = Caller::of(&setup).await;
    let mut unusable = vec![
        terms(-1, 100, 1_000).to_vec(),
        terms(1, i64::MIN, 1_000).to_vec(),
        terms(1, 100, -1).to_vec(),
    ];
    for missing in 0..3 {
        let mut terms = terms(1, 100, 1_000).to_vec();
        terms.remove(missing);
        unusable.push(terms);
        let mut terms = self::terms(1, 100, 1_000).to_vec();
        terms[missing].1 = "many".into();
        unusable.push(terms);
    }
    for (method, body) in [("count", r#"{"to":3}"#), ("sum", "{}"), ("echo", "{}")] {
        for terms in &unusable {
            caller.request(method, body, terms).await;
            let fault = caller.next_of("fault").await;
            let text = String::from_utf8_lossy(&fault.body).into_owned();
            assert!(
                text.contains("bad_request") && text.contains("rpc-silence"),
                "{terms:?}: {text}"
            );
        }
    }
    assert_eq!(setup.probe.begun(), 0);
}

#[tokio::test]
async fn extreme_terms_are_those_of_a_stream() {
    let setup = Setup::new().await;
    let mut caller = Caller::of(&setup).await;
    // A window of nothing counts as one of one item, and of one byte.
    caller
        .request("count", r#"{"to":3}"#, &terms(0, 0, FAR))
        .await;
    let accepted = caller.next_of("accepted").await;
    let id = accepted.message_id.clone().unwrap();
    for number in *b"012" {
        let items = caller.next_of("items").await;
        assert_eq!(&items.body[..], [0, 0, 0, 1, number]);
        caller.send(&accepted, &id, "credit", b"").await;
    }
    caller.next_of("end").await;

    caller
        .request("count", r#"{"to":3}"#, &terms(i64::MAX, i64::MAX, i64::MAX))
        .await;
    caller.next_of("accepted").await;
    let items = caller.next_of("items").await;
    assert_eq!(&items.body[..], b"\0\0\0\x010\0\0\0\x011\0\0\0\x012");
    caller.next_of("end").await;

    // A caller that is silent for too long from the beginning.
    for silence in [0, 1] {
        caller
            .request("endless", r#"{"len":3}"#, &terms(1, 1, silence))
            .await;
        while caller.next().await.kind.as_deref() != Some("accepted") {}
        setup.probe.until_dropped(silence as usize + 1).await;
    }
}

#[tokio::test]
async fn messages_of_a_stranger_do_not_change_a_stream() {
    let setup = Setup::new().await;
    let mut caller = Caller::of(&setup).await;
    caller.request("held", "{}", &terms(1, 10, 30_000)).await;
    let accepted = caller.next_of("accepted").await;
    let id = accepted.message_id.clone().unwrap();
    caller.next_of("items").await;
    let sum = {
        let numbers = stream::iter([1, 2]).chain(stream::pending());
        tokio::spawn(setup.feed.sum(numbers))
    };
    setup.probe.until_taken(2).await;
    let instance = accepted.headers.get_as::<&str>("rpc-instance").unwrap();
    let stranger = Caller::of(&setup).await;
    let upper = id.to_uppercase();
    for foreign in [
        "",
        "1",
        &upper,
        instance,
        &accepted.reply_to.clone().unwrap(),
    ] {
        for kind in [
            "stop", "end", "credit", "alive", "items", "error", "fault", "held", "",
        ] {
            stranger
                .send(&accepted, foreign, kind, b"\0\0\0\x011")
                .await;
        }
    }
    // Messages to the private queue arrive in order.
    setup.probe.release(1);
    caller.send(&accepted, &id, "credit", b"").await;
    let items = caller.next_of("items").await;
    assert_eq!(&items.body[..], b"\0\0\0\x011");
    caller.send(&accepted, &id, "stop", b"").await;
    setup.probe.until_dropped(1).await;
    assert_eq!(setup.probe.taken(), 2);
    assert!(!sum.is_finished());
    assert_eq!(setup.probe.broken(), [""; 0]);
}

#[tokio::test]
async fn items_that_break_the_rules_end_their_stream_alone() {
    let setup = Setup::new().await;
    let mut caller = Caller::of(&setup).await;
    let mut held = setup.feed.held().await.unwrap();
    next(&mut held).await.unwrap().unwrap();
    let many: &[u8] = &[0; 4 * 2_000];
    let bodies: [&'static [u8]; 5] = [
        b"",
        b"\0",
        b"\0\0\0\x02a",
        b"\xff\xff\xff\xffabc",
        Box::leak(many.to_vec().into_boxed_slice()),
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        caller.request("sum", "{}", &terms(1, 10, 30_000)).await;
        let accepted = caller.next_of("accepted").await;
        let id = accepted.message_id.clone().unwrap();
        caller.send(&accepted, &id, "items", body).await;
        let fault = caller.next_of("fault").await;
        let text = String::from_utf8_lossy(&fault.body).into_owned();
        assert!(text.contains("the stream is broken"), "{text}");
        setup.probe.until_dropped(number + 1).await;
        // The stream is over: the second message is one of no stream.
        caller.send(&accepted, &id, "items", body).await;
    }
    assert_eq!(setup.probe.taken(), 0);
    setup.probe.release(1);
    assert_eq!(next(&mut held).await.unwrap().unwrap(), 1);
}

/// A message of a stream that lacks what its type needs does not leave the stream open.
#[tokio::test]
async fn a_malformed_message_ends_its_stream() {
    let setup = Setup::new().await;
    let mut caller = Caller::of(&setup).await;
    for kind in ["items", "end", "credit", "result"] {
        caller.request("sum", "{}", &terms(1, 10, 30_000)).await;
        let accepted = caller.next_of("accepted").await;
        let message = PeerMessage {
            kind: Some(kind.to_owned()),
            message_id: accepted.message_id.clone(),
            ..PeerMessage::default()
        };
        let private_queue = accepted.reply_to.as_deref().unwrap();
        caller.peer.publish(private_queue, message).await.unwrap();
        let fault = caller.next_of("fault").await;
        let text = String::from_utf8_lossy(&fault.body).into_owned();
        assert!(text.contains("malformed"), "{kind}: {text}");
    }
}

/// Callers that open streams and read nothing hold places until they are silent for too long.
#[tokio::test]
async fn streams_of_callers_that_never_read_make_room_for_others() {
    const STREAMS: usize = 20;
    let setup = Setup::with(|server| server.max_streams(STREAMS), |client| client).await;
    let caller = Caller::of(&setup).await;
    for _ in 0..STREAMS {
        let terms = terms(FAR, FAR, 1_500);
        caller.request("held", "{}", &terms).await;
    }
    setup.probe.until_begun(STREAMS).await;
    assert!(setup.feed.count(3).await.is_err());
    assert_eq!(setup.feed.single(1).await.unwrap(), 1);
    setup.probe.until_dropped(STREAMS).await;
    let (read, error) = all(setup.feed.count(3).await.unwrap()).await;
    assert_eq!((read.len(), error.is_none()), (3, true));
}

/// A window without end does not let one caller fill the broker.
#[tokio::test]
async fn a_window_has_a_limit() {
    let setup = Setup::new().await;
    let mut caller = Caller::of(&setup).await;
    caller
        .request("endless", r#"{"len":1048576}"#, &terms(FAR, FAR, 30_000))
        .await;
    caller.next_of("accepted").await;
    let produced = setup.probe.settled(Probe::produced).await;
    assert!(produced <= 70, "{produced} MiB");
}

/// The first answer has a limit, also if the caller says nothing more.
#[tokio::test]
async fn a_handler_without_a_caller_does_not_wait_without_end() {
    let setup = Setup::new().await;
    let caller = Caller::of(&setup).await;
    caller.request("late", "{}", &terms(1, 1, 500)).await;
    setup.probe.until_dropped(1).await;
    assert_eq!(setup.feed.single(1).await.unwrap(), 1);
}
