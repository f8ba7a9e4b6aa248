//! Messages that lapin could not read, and their repair.

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::basic::AMQPProperties;
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::{AMQPValue, FieldArray};

use super::super::clean;
use super::frames::{
    CORRELATION_ID, HEADERS, REPLY_TO, TYPE, frame, header, headers, long, measure, nested_arrays,
    nested_tables, parse, short, table, text,
};

/// A request with these headers.
fn request(headers: Vec<u8>) -> Vec<u8> {
    let properties = [headers, short(b"id"), short(b"replies"), short(b"add")];
    header(
        1,
        3,
        HEADERS | CORRELATION_ID | REPLY_TO | TYPE,
        &properties,
    )
}

/// The properties of a header frame after the guard, as lapin's parser reads them.
fn properties(sent: &[u8]) -> AMQPProperties {
    let cleaned = clean(sent, sent.len()).unwrap();
    match &parse(&cleaned).expect("readable")[..] {
        [AMQPFrame::Header(_, header)] => header.properties.clone(),
        frames => panic!("{frames:?}"),
    }
}

/// The properties of a request with a mark, all present, and the reason in the mark.
fn marked(sent: &[u8]) -> (AMQPProperties, String) {
    let properties = properties(sent);
    assert_eq!(text(properties.correlation_id()), "id");
    assert_eq!(text(properties.reply_to()), "replies");
    assert_eq!(text(properties.kind()), "add");
    let headers = properties.headers().as_ref().unwrap();
    match headers.inner().get("rpc-unreadable") {
        Some(AMQPValue::LongString(reason)) => (properties.clone(), reason.to_string()),
        other => panic!("{other:?} in {headers:?}"),
    }
}

fn int(number: u8) -> Vec<u8> {
    vec![b'b', number]
}

#[test]
fn deep_nesting_is_cut_and_reported() {
    for nested in [
        nested_arrays(33),
        nested_arrays(2_160),
        nested_tables(33),
        nested_tables(1_964),
    ] {
        let headers = table(&[(b"before", int(1)), (b"deep", nested), (b"after", int(2))]);
        let (properties, reason) = marked(&request(headers));
        assert_eq!(reason, "nested more than 32 deep");
        let headers = properties.headers().as_ref().unwrap();
        assert_eq!(headers.inner().len(), 4, "{headers:?}");
        assert_eq!(measure(headers).0, 32);
    }
    for nested in [nested_arrays(32), nested_tables(32)] {
        let sent = request(table(&[(b"deep", nested)]));
        assert_eq!(clean(&sent, 100).unwrap(), sent);
    }
}

#[test]
fn excess_values_are_cut_and_reported() {
    let array = |length: usize| {
        let values: Vec<u8> = b"V".repeat(length);
        [b"A".to_vec(), long(&values)].concat()
    };
    let sent = request(table(&[(b"a", array(627)), (b"b", array(627))]));
    assert_eq!(clean(&sent, 100).unwrap(), sent);
    for many in [
        table(&[(b"a", array(627)), (b"b", array(628))]),
        table(&[(b"a", array(100_000))]),
        table(&vec![(&b"same"[..], b"V".to_vec()); 1_257]),
    ] {
        let (properties, reason) = marked(&request(many));
        assert_eq!(reason, "too many values");
        assert!(measure(properties.headers().as_ref().unwrap()).1 <= 1_256);
    }
}

#[test]
fn tables_are_cut_where_they_become_unreadable() {
    let array = |entries: &[u8]| [b"A".to_vec(), long(entries)].concat();
    for (bad, reason) in [
        (b"z".to_vec(), "a value of an unknown type"),
        (
            b"S\0\0\0\x09short".to_vec(),
            "a length that goes beyond its end",
        ),
        (
            b"S\xff\xff\xff\xff".to_vec(),
            "a length that goes beyond its end",
        ),
        (b"F\0\0".to_vec(), "a length that goes beyond its end"),
        (b"l1234567".to_vec(), "a length that goes beyond its end"),
        (b"A\0\0\0\x01".to_vec(), "a length that goes beyond its end"),
    ] {
        let entries = [int(1), bad, int(2)].concat();
        let headers = table(&[
            (b"array", array(&entries[..entries.len() - 2])),
            (b"after", int(3)),
        ]);
        let (properties, said) = marked(&request(headers));
        assert_eq!(said, reason);
        let headers = properties.headers().as_ref().unwrap();
        let one = FieldArray::from(vec![AMQPValue::ShortShortInt(1)]);
        assert_eq!(headers.inner()["array"], AMQPValue::FieldArray(one));
        assert_eq!(headers.inner()["after"], AMQPValue::ShortShortInt(3));
    }
    // A key without a value.
    let (properties, _) = marked(&request(long(b"\x01ab\x01\x05key")));
    let headers = properties.headers().as_ref().unwrap();
    assert_eq!(headers.inner()["a"], AMQPValue::ShortShortInt(1));
    assert_eq!(headers.inner().len(), 2, "and the mark");
}

#[test]
fn marks_of_a_sender_are_replaced() {
    let mine = |value| (&b"rpc-unreadable"[..], value);
    for value in [
        [b"S".to_vec(), long(b"forged")].concat(),
        nested_arrays(3),
        nested_tables(40),
    ] {
        let headers = table(&[
            mine(value.clone()),
            (b"deep", nested_arrays(40)),
            mine(value),
        ]);
        let (properties, reason) = marked(&request(headers));
        assert_eq!(reason, "nested more than 32 deep");
        assert_eq!(properties.headers().as_ref().unwrap().inner().len(), 2);
    }
}

#[test]
fn invalid_utf8_is_repaired_at_every_depth() {
    let inner = [b"F".to_vec(), table(&[(b"k\xff", int(1))])].concat();
    let array = [b"A".to_vec(), long(&inner)].concat();
    let headers = table(&[
        (b"\xc3(", int(1)),
        (b"array", array),
        (b"s", b"S\0\0\0\x01\xff".to_vec()),
    ]);
    let sent = header(
        1,
        0,
        !3,
        &[
            short(b"\xff1"),
            short(b"\xff2"),
            headers,
            vec![1, 2],
            short(b"\xff3"),
            short(b"\xff4"),
            short(b"\xff5"),
            short(b"\xff6"),
            vec![0xff; 8],
            short(b"\xff7"),
            short(b"\xff8"),
            short(b"\xff9"),
            short(b"\xff10"),
        ],
    );
    let cleaned = clean(&sent, sent.len()).unwrap();
    assert_eq!(cleaned.len(), sent.len());
    let properties = properties(&sent);
    assert_eq!(text(properties.content_type()), "?1");
    assert_eq!(text(properties.content_encoding()), "?2");
    assert_eq!(text(properties.correlation_id()), "?3");
    assert_eq!(text(properties.reply_to()), "?4");
    assert_eq!(text(properties.expiration()), "?5");
    assert_eq!(text(properties.message_id()), "?6");
    assert_eq!(*properties.timestamp(), Some(u64::MAX));
    assert_eq!(text(properties.kind()), "?7");
    assert_eq!(text(properties.user_id()), "?8");
    assert_eq!(text(properties.app_id()), "?9");
    assert_eq!(text(properties.cluster_id()), "?10");
    let headers = format!("{:?}", properties.headers());
    assert!(
        headers.contains("\"?(\"") && headers.contains("\"k?\""),
        "{headers}"
    );
    assert!(!headers.contains("rpc-unreadable"), "{headers}");
}

#[test]
fn names_from_publishers_in_methods_are_repaired() {
    // basic.deliver
    let payload = [
        b"\0\x3c\0\x3c".to_vec(),
        short(b"tag"),
        vec![0; 9],
        short(b"e\xfe"),
        short(b"k\xff"),
    ]
    .concat();
    let cleaned = clean(&frame(1, 1, &payload), 100).unwrap();
    let frames = format!("{:?}", parse(&cleaned).unwrap());
    assert!(
        frames.contains("\"e?\"") && frames.contains("\"k?\""),
        "{frames}"
    );
}

#[test]
fn tables_of_the_broker_are_cut_without_a_mark() {
    let start = |properties| {
        let payload = [
            b"\0\x0a\0\x0a\0\x09".to_vec(),
            properties,
            long(b"PLAIN"),
            long(b"en_US"),
        ]
        .concat();
        frame(1, 0, &payload)
    };
    let deep = start(table(&[(b"a", int(1)), (b"deep", nested_tables(2_000))]));
    let cleaned = clean(&deep, 100).unwrap();
    let frames = parse(&cleaned).unwrap();
    let [AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Start(read)))] =
        &frames[..]
    else {
        panic!("{frames:?}");
    };
    assert_eq!(read.mechanisms.as_bytes(), b"PLAIN");
    assert_eq!(read.locales.as_bytes(), b"en_US");
    assert_eq!(read.server_properties.inner().len(), 2);
    assert_eq!(measure(&read.server_properties).0, 32);
}

#[test]
fn complete_properties_before_a_cut_are_kept() {
    let whole = [table(&[(b"a", int(1))]), short(b"id"), short(b"replies")].concat();
    for kept in 0..whole.len() {
        let sent = header(
            1,
            9,
            HEADERS | CORRELATION_ID | REPLY_TO,
            &[whole[..kept].to_vec()],
        );
        let properties = properties(&sent);
        let headers = properties.headers().as_ref().unwrap();
        assert!(headers.contains_key("rpc-unreadable"), "{kept}");
        assert_eq!(
            properties.correlation_id().is_some(),
            kept >= whole.len() - 8,
            "{kept}"
        );
        assert!(properties.reply_to().is_none(), "{kept}");
    }
    // No flags at all.
    let cleaned = clean(&frame(2, 1, &[0; 12]), 100).unwrap();
    assert!(headers(&parse(&cleaned).unwrap()[0]).is_some());
    // Not even the size of the body.
    clean(&frame(2, 1, &[0; 11]), 100).unwrap_err();
}

#[test]
fn marked_messages_fit_the_frame() {
    let full = |length| {
        let big = [b"S".to_vec(), long(&vec![b'x'; length])].concat();
        let headers = table(&[(b"big", big), (b"", b"z".to_vec())]);
        header(1, 9, HEADERS | TYPE, &[headers, short(b"add")])
    };
    let sent = full(131_072 - full(0).len());
    assert_eq!(sent.len(), 131_072);
    let cleaned = clean(&sent, 4_096).unwrap();
    assert!(cleaned.len() <= 131_072);
    let properties = properties(&sent);
    assert_eq!(text(properties.kind()), "add");
    let headers = properties.headers().as_ref().unwrap();
    assert_eq!(headers.inner().len(), 1, "nothing but the mark");
}
