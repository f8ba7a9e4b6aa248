//! Malformed and malicious messages that no well-behaved program sends.

use lapin::BasicProperties;

use crate::raw::{RawProperties, long, nested_arrays, nested_tables, table};

const BATCH: &str = "application/vnd.rpc-batch+msgpack";

fn text(text: &[u8]) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("16 bits");
    [&[0xda], &len.to_be_bytes()[..], text].concat()
}

/// A call in a batch of requests, with encoded headers.
///
/// # Panics
///
/// If the id or the method is longer than 65,535 bytes.
#[must_use]
pub fn call(id: &[u8], method: &[u8], headers: &[u8]) -> Vec<u8> {
    call_until(id, method, &[0xc0], headers)
}

/// A call in a batch of requests whose deadline has passed.
///
/// # Panics
///
/// If the id or the method is longer than 65,535 bytes.
#[must_use]
pub fn expired_call(id: &[u8], method: &[u8]) -> Vec<u8> {
    call_until(id, method, &[1], &[0xc0])
}

fn call_until(id: &[u8], method: &[u8], deadline: &[u8], headers: &[u8]) -> Vec<u8> {
    let arguments = b"\xc4\x07\x82\xa1a\x01\xa1b\x02";
    let content_type = text(b"application/msgpack");
    [
        &[0x96],
        &text(id)[..],
        &text(method),
        &content_type,
        deadline,
        headers,
        arguments,
    ]
    .concat()
}

/// A batch of such calls.
///
/// # Panics
///
/// If they are more than 65,535.
#[must_use]
pub fn batch(calls: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(calls.len()).expect("16 bits");
    let head = [&[0x92, 0xcd, 0, 0, 0xdc][..], &count.to_be_bytes()].concat();
    [head, calls.concat()].concat()
}

/// A map with one header.
fn header(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0x81], &text(name)[..], value].concat()
}

/// Named batches that a server has to refuse: their calls have properties that a single message could not have.
#[must_use]
pub fn batches() -> Vec<(&'static str, Vec<u8>)> {
    let long = [b'x'; 256];
    let number = |number: f64| [&[0xcb], &number.to_be_bytes()[..]].concat();
    let large = [&[0xc6, 0, 3, 0x0d, 0x40][..], &[0; 200_000]].concat();
    let tiny_maps = [&[0xdd, 0, 0x20, 0, 0][..], &b"\x81\xa0\xc0".repeat(1 << 20)].concat();
    let names = [&[0xdd, 0, 0, 0x1e, 0x78][..], &b"\xa1a".repeat(7_800)].concat();
    let deep = [&[0x91; 3_000][..], &[0xc0]].concat();
    let one = |headers: &[u8]| batch(&[call(b"1", b"add", headers)]);
    let nan_and_count = [
        &[0x82][..],
        &text(b"number"),
        &number(f64::NAN),
        &text(b"rpc-delivery-count"),
        &[2],
    ]
    .concat();
    vec![
        ("a number that is none", one(&nan_and_count)),
        (
            "an infinite number",
            one(&header(b"number", &number(f64::INFINITY))),
        ),
        ("200 KB", one(&header(b"large", &large))),
        ("a million maps", one(&header(b"maps", &tiny_maps))),
        ("names", one(&header(b"rpc-propagate", &names))),
        ("deep", one(&header(b"deep", &deep))),
        ("a count", one(&header(b"rpc-delivery-count", &[2]))),
        ("a broker's count", one(&header(b"x-delivery-count", &[0]))),
        ("copies", one(&header(b"CC", b"\x91\xa3spy"))),
        ("a long name", one(&header(&long, &[0xc0]))),
        ("a long method", batch(&[call(b"1", &[b'm'; 300], &[0xc0])])),
        ("a long id", batch(&[call(&long, b"add", &[0xc0])])),
    ]
}

/// The properties of a batch of requests.
#[must_use]
pub fn batched() -> BasicProperties {
    BasicProperties::default()
        .with_content_type(BATCH.into())
        .with_correlation_id("batch".into())
}

/// Named requests for the method `add`, each with one property that AMQP parsers may fail on.
#[must_use]
pub fn unreadable(reply_to: &str) -> Vec<(&'static str, RawProperties)> {
    let good = RawProperties {
        content_type: Some(b"application/json".to_vec()),
        correlation_id: Some(b"hostile".to_vec()),
        reply_to: Some(reply_to.as_bytes().to_vec()),
        kind: Some(b"add".to_vec()),
        ..RawProperties::default()
    };
    let with = |change: &dyn Fn(&mut RawProperties)| {
        let mut properties = good.clone();
        change(&mut properties);
        properties
    };
    let with_headers = |entries: &[(&[u8], Vec<u8>)]| {
        with(&|properties| properties.headers = Some(table(entries)))
    };
    let number = || vec![b'b', 1];
    let nested_key = [b"F", &table(&[(b"k\xff", number())])[..]].concat();
    let many = [b"A", &long(&b"V".repeat(100_000))[..]].concat();
    let bad = || Some(b"bad \xff\xc3(".to_vec());
    vec![
        (
            "nested arrays",
            with_headers(&[(b"h", nested_arrays(2_160))]),
        ),
        (
            "nested tables",
            with_headers(&[(b"h", nested_tables(1_964))]),
        ),
        ("many values", with_headers(&[(b"h", many)])),
        ("a key", with_headers(&[(b"k\xff", number())])),
        ("a nested key", with_headers(&[(b"h", nested_key)])),
        ("the content type", with(&|it| it.content_type = bad())),
        (
            "the content encoding",
            with(&|it| it.content_encoding = bad()),
        ),
        ("the correlation id", with(&|it| it.correlation_id = bad())),
        ("the message id", with(&|it| it.message_id = bad())),
        ("the type", with(&|it| it.kind = bad())),
        ("the app id", with(&|it| it.app_id = bad())),
        // A server cannot reply to this one.
        ("reply to", with(&|it| it.reply_to = bad())),
    ]
}
