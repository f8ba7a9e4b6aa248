//! Fuzz target for the messages of an open stream.

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

use crate::headers::Headers;
use crate::message::ItemStream;
use crate::names::{
    ALIVE, BYTES_HEADER, CREDIT, END, ERROR, FAULT, ITEMS, ITEMS_HEADER, SEQUENCE_HEADER, STOP,
};
use crate::streaming::{Inbox, Side};
use crate::telemetry::StreamMeter;
use crate::transport::{Content, Message};
use crate::wire::{Amount, Frame};

const WINDOW: Amount = Amount {
    items: 8,
    bytes: 64,
};

/// Longest body of a message.
const MAX_LEN: usize = 255;

/// Lets the messages of a stream arrive while its items are read. Each step begins with a byte for its kind. A message has two bytes for its
/// numbers, one for the length of its body, and the body.
pub fn stream(steps: &[u8]) {
    for side in [Side::Caller, Side::Server] {
        let inbox = Inbox::new(
            side,
            Some(WINDOW),
            StreamMeter::of_server("Service", "method"),
        );
        inbox.open(Some(WINDOW));
        let mut reader = inbox.reader();
        let mut rest = steps;
        while let Some((kind, after)) = rest.split_first() {
            rest = after;
            if *kind >= 0x80 {
                read(&mut reader);
            } else if let Some(frame) = message(*kind, &mut rest).and_then(Frame::from_message) {
                inbox.take(frame);
            }
        }
        let mut unread = 0;
        let mut bytes = 0;
        while let Some(len) = read(&mut reader) {
            unread += 1;
            bytes += len;
        }
        assert!(unread <= WINDOW.items, "{unread}");
        assert!(bytes <= WINDOW.bytes as usize / 2 + MAX_LEN, "{bytes}");
    }
}

/// Reads an item, if there is one. Returns its length.
fn read(reader: &mut ItemStream) -> Option<usize> {
    match reader.next().now_or_never() {
        Some(Some(Ok(item))) => Some(item.len()),
        Some(Some(Err(_)) | None) => {
            // The end stays the end.
            assert!(matches!(reader.next().now_or_never(), Some(None)));
            None
        }
        None => None,
    }
}

fn message(kind: u8, rest: &mut &[u8]) -> Option<Message> {
    let kinds = [
        ITEMS, ITEMS, END, ERROR, FAULT, CREDIT, ALIVE, STOP, "other",
    ];
    let kind = kinds[usize::from(kind) % kinds.len()];
    let ([sequence, amount, len], after) = rest.split_first_chunk()?;
    let (body, after) = after.split_at_checked((*len).into())?;
    *rest = after;
    let mut headers = Headers::new();
    headers.insert(SEQUENCE_HEADER, i64::from(*sequence as i8));
    headers.insert(ITEMS_HEADER, i64::from(*amount as i8));
    headers.insert(BYTES_HEADER, i64::from(*amount as i8) * 8);
    Some(Message::from(Content {
        kind: Some(kind.into()),
        message_id: Some("stream".into()),
        content_type: Some("application/msgpack".into()),
        headers,
        body: Bytes::copy_from_slice(body),
        ..Content::default()
    }))
}
