//! The guard passes nothing that lapin's parser refuses, and alters nothing that it accepts.

use amq_protocol::frame::{AMQPFrame, gen_frame};
use amq_protocol::protocol::{AMQPClass, basic, connection, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use fastrand::Rng;

use super::super::clean;
use super::frames::{frame, headers, measure, mutate, parse, random_header};

/// Number of cases for a few seconds.
const CASES: u64 = if cfg!(debug_assertions) {
    20_000
} else {
    100_000
};

/// Checks the guard with any frame. Returns the frames that the parser reads without the guard.
fn examine(sent: &[u8], rng: &mut Rng) -> Option<Vec<AMQPFrame>> {
    let accepted = parse(sent);
    let Ok(cleaned) = clean(sent, sent.len()) else {
        return accepted;
    };
    let read = parse(&cleaned).unwrap_or_else(|| panic!("passed: {sent:02x?}"));
    for table in read.iter().filter_map(headers) {
        let (depth, values) = measure(table);
        assert!(
            depth <= 32 && values <= 1_256,
            "{depth} {values} {sent:02x?}"
        );
    }
    let is_small = |frame: &AMQPFrame| {
        let measures = headers(frame).map(measure).unwrap_or_default();
        measures.0 <= 32 && sent.len() <= 2_000 // Surely fewer than 1,000 values, equal keys included.
    };
    if accepted
        .as_ref()
        .is_some_and(|frames| frames.iter().all(is_small))
    {
        assert_eq!(cleaned, sent, "altered");
    } else if cleaned.len() != sent.len() && sent[0] == 2 {
        let headers = headers(&read[0]).expect("headers");
        assert!(headers.contains_key("rpc-unreadable"), "{sent:02x?}");
    }
    assert_eq!(clean(&cleaned, 1 + rng.usize(..50)).unwrap(), cleaned);
    assert_eq!(clean(sent, 1 + rng.usize(..50)).unwrap(), cleaned);
    accepted
}

#[test]
fn header_frames_are_kept_or_repaired() {
    let mut kept = 0;
    for seed in 0..CASES {
        let mut rng = Rng::with_seed(seed);
        let sent = random_header(&mut rng);
        let accepted = examine(&sent, &mut rng);
        kept += u64::from(accepted.is_some());
        // Refused only without the size of a body.
        assert_eq!(clean(&sent, 7).is_ok(), sent.len() >= 20, "{sent:02x?}");
    }
    // Both kinds of frames occur.
    assert!(
        kept > CASES / 4 && kept < CASES * 3 / 4,
        "{kept} of {CASES}"
    );
}

/// Methods that only clients send, of those that the parser knows: class and method.
const CLIENTS: &[(u16, u16)] = &[
    (10, 11),
    (10, 21),
    (10, 31),
    (10, 40),
    (10, 70), // connection
    (20, 10), // channel
    (30, 10), // access
    (40, 10),
    (40, 20),
    (40, 30),
    (40, 40), // exchange
    (50, 10),
    (50, 20),
    (50, 30),
    (50, 40),
    (50, 50), // queue
    (60, 10),
    (60, 20),
    (60, 40),
    (60, 70),
    (60, 90),
    (60, 100),
    (60, 110), // basic
    (85, 10),
    (90, 10),
    (90, 20),
    (90, 30), // confirm, tx
];

#[test]
fn all_methods_of_brokers_are_known() {
    let mut known = 0;
    for (class, method) in (0..100).flat_map(|class| (0..130).map(move |method| (class, method))) {
        for zeros in 0..40 {
            let mut payload = [u16::to_be_bytes(class), u16::to_be_bytes(method)].concat();
            payload.extend(vec![0; zeros]);
            let sent = frame(1, 1, &payload);
            let accepted = parse(&sent).is_some() && !CLIENTS.contains(&(class, method));
            known += usize::from(accepted);
            assert_eq!(
                clean(&sent, 9).ok(),
                accepted.then_some(sent),
                "class {class}, method {method}, {zeros} bytes"
            );
        }
    }
    assert_eq!(known, 39);
}

/// Methods of a broker with texts from publishers, or with tables.
fn methods() -> Vec<AMQPClass> {
    use amq_protocol::protocol::basic::AMQPMethod::{Cancel, Deliver, GetOk, Return};
    let mut capabilities = FieldTable::default();
    capabilities.insert("basic.nack".into(), AMQPValue::Boolean(true));
    let mut properties = FieldTable::default();
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties.insert("version".into(), AMQPValue::LongString("3.10.8".into()));
    vec![
        AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: properties,
            mechanisms: "PLAIN AMQPLAIN".into(),
            locales: "en_US".into(),
        })),
        AMQPClass::Connection(connection::AMQPMethod::Close(connection::Close {
            reply_code: 320,
            reply_text: "CONNECTION_FORCED - schön".into(),
            class_id: 0,
            method_id: 0,
        })),
        AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
            queue: "rpc.Fib".into(),
            message_count: 3,
            consumer_count: 4,
        })),
        AMQPClass::Basic(Deliver(basic::Deliver {
            consumer_tag: "requests".into(),
            delivery_tag: 77,
            redelivered: true,
            exchange: "".into(),
            routing_key: "rpc.Fib".into(),
        })),
        AMQPClass::Basic(Return(basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "amq.direct".into(),
            routing_key: "ünknown".into(),
        })),
        AMQPClass::Basic(GetOk(basic::GetOk {
            delivery_tag: 5,
            redelivered: false,
            exchange: "e".into(),
            routing_key: "k".into(),
            message_count: 1,
        })),
        AMQPClass::Basic(Cancel(basic::Cancel {
            consumer_tag: "requests".into(),
            nowait: true,
        })),
    ]
}

#[test]
fn method_frames_are_kept_repaired_or_refused() {
    let methods: Vec<_> = methods()
        .into_iter()
        .map(|method| {
            let frame = AMQPFrame::Method(3, method);
            let mut bytes = vec![0; 1_000];
            let written = gen_frame(&frame)(bytes.as_mut_slice().into());
            let (_, length) = written.unwrap().into_inner();
            bytes.truncate(usize::try_from(length).unwrap());
            bytes
        })
        .collect();
    for sent in &methods {
        assert_eq!(clean(sent, 5).unwrap(), *sent);
    }
    let (mut kept, mut repaired) = (0, 0);
    for seed in 0..CASES / 2 {
        let mut rng = Rng::with_seed(seed);
        let method = rng.choice(&methods).unwrap();
        let mut payload = method[7..method.len() - 1].to_vec();
        mutate(&mut rng, &mut payload);
        let sent = frame(1, 3, &payload);
        match examine(&sent, &mut rng) {
            Some(_) => kept += 1,
            None => repaired += u64::from(clean(&sent, 64).is_ok()),
        }
    }
    assert!(
        kept > CASES / 20 && repaired > CASES / 100,
        "{kept} {repaired}"
    );
}
