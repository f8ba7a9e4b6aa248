//! Returned messages lose everything but their ids, with any other frames between theirs.

use amq_protocol::frame::AMQPFrame;

use super::super::clean;
use super::frames::{
    CORRELATION_ID, HEADERS, MESSAGE_ID, TYPE, frame, header, parse, short, table, text,
};

fn returning(channel: u16) -> Vec<u8> {
    let payload = [
        b"\0\x3c\0\x32\x01\x38".to_vec(),
        short(b"NO_ROUTE"),
        short(b""),
        short(b"nowhere"),
    ];
    frame(1, channel, &payload.concat())
}

/// Replacement of a frame that is left out.
fn heartbeat() -> Vec<u8> {
    frame(8, 0, b"")
}

fn delivering(channel: u16) -> Vec<u8> {
    let payload = [
        b"\0\x3c\0\x3c".to_vec(),
        short(b"tag"),
        vec![0; 9],
        short(b""),
        short(b"queue"),
    ];
    frame(1, channel, &payload.concat())
}

fn secret_header(channel: u16, size: u64) -> Vec<u8> {
    let headers = table(&[(b"authorization", b"S\0\0\0\x06s3cret".to_vec())]);
    let properties = [headers, short(b"id"), short(b"message"), short(b"add")];
    header(
        channel,
        size,
        HEADERS | CORRELATION_ID | MESSAGE_ID | TYPE,
        &properties,
    )
}

#[test]
fn returned_messages_keep_only_their_ids() {
    let sent = [
        returning(1),
        secret_header(1, 12),
        frame(3, 1, b"s3cret"),
        frame(3, 1, b"s3cret"),
        delivering(1),
    ]
    .concat();
    for chunk in 1..sent.len() {
        let cleaned = clean(&sent, chunk).unwrap();
        let frames = parse(&cleaned).unwrap();
        // lapin would miss heartbeats while a large body is left out.
        let [
            AMQPFrame::Method(1, _),
            AMQPFrame::Header(1, blank),
            AMQPFrame::Heartbeat,
            AMQPFrame::Heartbeat,
            AMQPFrame::Method(1, _),
        ] = &frames[..]
        else {
            panic!("{frames:?}");
        };
        assert_eq!(blank.body_size, 0);
        let properties = &blank.properties;
        assert_eq!(text(properties.correlation_id()), "id");
        assert_eq!(text(properties.message_id()), "message");
        assert_eq!(properties.bitmask(), CORRELATION_ID | MESSAGE_ID);
    }
}

#[test]
fn returned_messages_are_tracked_per_channel() {
    let delivered = [delivering(2), secret_header(2, 4)].concat();
    let body = frame(3, 2, b"kept");
    let sent = [
        returning(1),
        delivered.clone(),
        secret_header(1, 6),
        body.clone(),
        frame(3, 1, b"gone"),
        delivering(2),
        frame(3, 1, b"go"),
        // The next message of the channel is a delivery.
        delivering(1),
        secret_header(1, 4),
        frame(3, 1, b"kept"),
    ]
    .concat();
    let blank = header(
        1,
        0,
        CORRELATION_ID | MESSAGE_ID,
        &[short(b"id"), short(b"message")],
    );
    let kept = [
        returning(1),
        delivered,
        blank,
        body,
        heartbeat(),
        delivering(2),
        heartbeat(),
        delivering(1),
        secret_header(1, 4),
        frame(3, 1, b"kept"),
    ]
    .concat();
    for chunk in 1..sent.len() {
        assert_eq!(clean(&sent, chunk).unwrap(), kept, "{chunk}");
    }
}

#[test]
fn returned_messages_without_a_body_end_with_their_header() {
    let sent = [returning(1), secret_header(1, 0), frame(3, 1, b"kept")].concat();
    let cleaned = clean(&sent, 10).unwrap();
    assert!(cleaned.ends_with(&frame(3, 1, b"kept")));
}

#[test]
fn unreadable_returned_messages_are_reduced_too() {
    let sent = [
        returning(1),
        header(
            1,
            5,
            HEADERS | CORRELATION_ID,
            &[b"\xff\xff\xff\xffs3cret".to_vec()],
        ),
        frame(3, 1, b"s3cret"[..5].as_ref()),
    ]
    .concat();
    let cleaned = clean(&sent, 10).unwrap();
    let blank = header(1, 0, 0, &[]);
    assert_eq!(cleaned, [returning(1), blank, heartbeat()].concat());
}
