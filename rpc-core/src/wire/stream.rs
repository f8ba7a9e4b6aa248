//! Messages of open streams, in both directions, and the items in them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smol_str::SmolStr;

use super::reply::{Origin, fault_body, fault_of};
use crate::codec::ContentType;
use crate::headers::{HeaderValue, Headers};
use crate::message::StreamError;
use crate::names::{
    ACCEPTED, ALIVE, BYTES_HEADER, CREDIT, END, ERROR, FAULT, INSTANCE_HEADER, ITEMS, ITEMS_HEADER,
    SEQUENCE_HEADER, STARTED, STOP,
};
use crate::transport::{Content, Message};

/// Length of the prefix of an item, which holds the item's length: 32 bits, big-endian.
pub(crate) const ITEM_PREFIX: usize = 4;

/// A number of items, and the sum of their lengths in bytes, without prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) items: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    /// The amount of one item.
    pub(crate) fn of_item(len: usize) -> Self {
        Self {
            items: 1,
            bytes: len as u64,
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.items = self.items.saturating_add(other.items);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// Returns the rest after a part of the amount; `None` if nothing is left.
    pub(crate) fn less(self, part: Self) -> Option<Self> {
        let rest = Self {
            items: self.items.saturating_sub(part.items),
            bytes: self.bytes.saturating_sub(part.bytes),
        };
        (rest != Self::default()).then_some(rest)
    }

    /// Takes the amount out of headers. `None` if one of the two numbers is missing, or is no number.
    pub(crate) fn take(headers: &mut Headers) -> Option<Self> {
        let [items, bytes] = [ITEMS_HEADER, BYTES_HEADER].map(|name| {
            let number = headers.remove(name)?.as_int()?;
            u64::try_from(number).ok()
        });
        Some(Self {
            items: items?,
            bytes: bytes?,
        })
    }

    pub(crate) fn insert(self, headers: &mut Headers) {
        headers.insert(ITEMS_HEADER, saturating(self.items));
        headers.insert(BYTES_HEADER, saturating(self.bytes));
    }
}

/// A message of an open stream.
#[derive(Debug)]
pub(crate) enum Frame {
    /// Packed items: see [`push_item`].
    Items {
        /// Number of items in earlier messages.
        first: u64,
        body: Bytes,
    },
    /// The last message of a direction.
    End {
        /// Number of all items.
        items: u64,
        /// Reason of an early end.
        error: Option<StreamError>,
    },
    /// Permission to send as much again.
    Credit(Amount),
    /// Sign of life of a side that has nothing to send.
    Alive,
    /// The caller abandons the stream.
    Stop,
}

/// The properties that all messages of a stream share.
#[derive(Clone, Debug)]
pub(crate) struct StreamLabel {
    /// Unguessable id of the stream.
    pub(crate) stream: SmolStr,
    /// Correlation id of the call.
    pub(crate) correlation_id: Option<SmolStr>,
    /// The content type of the request, as it was written.
    pub(crate) content_type: Option<SmolStr>,
    pub(crate) app_id: Option<SmolStr>,
    pub(crate) user_id: Option<SmolStr>,
}

impl Frame {
    /// Returns the message of the frame. A fault is written in the format of the label.
    pub(crate) fn into_message(self, label: &StreamLabel) -> Message {
        let mut headers = Headers::new();
        let mut body = Bytes::new();
        let kind = match self {
            Self::Items { first, body: items } => {
                headers.insert(SEQUENCE_HEADER, saturating(first));
                body = items;
                ITEMS
            }
            Self::End { items, error } => {
                headers.insert(SEQUENCE_HEADER, saturating(items));
                match error {
                    None => END,
                    Some(StreamError::Own(error)) => {
                        body = error;
                        ERROR
                    }
                    Some(StreamError::Rpc(error)) => {
                        let content_type = ContentType::parse(label.content_type.as_deref());
                        body = fault_body(
                            &error,
                            content_type.unwrap_or(ContentType::MessagePack),
                            &mut headers,
                        );
                        FAULT
                    }
                }
            }
            Self::Credit(amount) => {
                amount.insert(&mut headers);
                CREDIT
            }
            Self::Alive => ALIVE,
            Self::Stop => STOP,
        };
        let label = label.clone();
        Message::from(Content {
            correlation_id: label.correlation_id,
            message_id: Some(label.stream),
            kind: Some(SmolStr::new_static(kind)),
            content_type: label.content_type,
            mandatory: true,
            app_id: label.app_id,
            user_id: label.user_id,
            headers,
            body,
            ..Content::default()
        })
    }

    /// Reads a message that names its stream. `None` if the message is none of an open stream.
    pub(crate) fn from_message(message: Message) -> Option<Self> {
        let mut content = *message.0;
        let sequence = content
            .headers
            .get(SEQUENCE_HEADER)
            .and_then(HeaderValue::as_int)
            .and_then(|number| u64::try_from(number).ok());
        Some(match content.kind.as_deref()? {
            ITEMS => Self::Items {
                first: sequence?,
                body: content.body,
            },
            END => Self::End {
                items: sequence?,
                error: None,
            },
            ERROR => Self::End {
                items: sequence?,
                error: Some(StreamError::Own(content.body)),
            },
            FAULT => {
                let content_type = ContentType::parse(content.content_type.as_deref())?;
                let error = fault_of(content_type, &content.headers, &content.body);
                Self::End {
                    items: sequence?,
                    error: Some(StreamError::Rpc(error)),
                }
            }
            CREDIT => Self::Credit(Amount::take(&mut content.headers)?),
            ALIVE => Self::Alive,
            STOP => Self::Stop,
            _ => return None,
        })
    }
}

/// The first answer to a request that opens a stream: the server runs the request.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Unguessable id of the stream.
    pub(crate) stream: SmolStr,
    /// Private queue of the instance that runs the request.
    pub(crate) private_queue: SmolStr,
    /// The server's window, if the caller sends items.
    pub(crate) window: Option<Amount>,
    /// Headers that the handler has set. Empty if the caller sends items: the handler has not begun then.
    pub(crate) headers: Headers,
}

impl Accepted {
    /// Returns the message of an instance.
    pub(crate) fn into_message(self, label: &StreamLabel, instance: &str) -> Message {
        let mut message = started(self.headers, label);
        message.kind = Some(SmolStr::new_static(ACCEPTED));
        message.reply_to = Some(self.private_queue);
        message.headers.insert(INSTANCE_HEADER, instance);
        if let Some(window) = self.window {
            window.insert(&mut message.headers);
        }
        message
    }

    /// Reads the message. `None` if the message is malformed, or names a queue that is not a private queue of its instance.
    pub(crate) fn from_message(mut message: Message) -> Option<Self> {
        let origin = Origin::take(&mut message)?;
        let mut content = *message.0;
        let window = Amount::take(&mut content.headers);
        Some(Self {
            stream: content.message_id?,
            private_queue: origin.private_queue?,
            window,
            headers: content.headers,
        })
    }
}

/// Returns the message that a handler, which receives items, has returned its stream. The body is empty.
pub(crate) fn started(headers: Headers, label: &StreamLabel) -> Message {
    let mut message = Frame::Alive.into_message(label);
    message.kind = Some(SmolStr::new_static(STARTED));
    message.headers = headers;
    message
}

fn saturating(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Adds an item to the body of a message. The item is shorter than 4 GiB.
pub(crate) fn push_item(body: &mut BytesMut, item: &[u8]) {
    body.put_u32(u32::try_from(item.len()).unwrap_or(u32::MAX));
    body.put_slice(item);
}

/// Takes the first item from the body of a message. `None` at the end of the body, and at an item that is cut off.
pub(crate) fn split_item(body: &mut Bytes) -> Option<Bytes> {
    let len = body.first_chunk::<ITEM_PREFIX>()?;
    let len = u32::from_be_bytes(*len) as usize;
    if body.len() - ITEM_PREFIX < len {
        return None;
    }
    body.advance(ITEM_PREFIX);
    Some(body.split_to(len))
}

/// Returns the lengths of the items in the body of a message. `None` in place of an item that is cut off, which is the last.
pub(crate) fn item_lens(body: &[u8]) -> impl Iterator<Item = Option<usize>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = rest.split_first_chunk::<ITEM_PREFIX>();
        let item = split.and_then(|(len, after)| {
            let len = u32::from_be_bytes(*len) as usize;
            after.split_at_checked(len)
        });
        Some(match item {
            Some((item, after)) => {
                rest = after;
                Some(item.len())
            }
            None => {
                rest = &[];
                None
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, RpcError};

    fn label() -> StreamLabel {
        StreamLabel {
            stream: "stream".into(),
            correlation_id: Some("id".into()),
            content_type: Some("application/msgpack".into()),
            app_id: Some("app".into()),
            user_id: None,
        }
    }

    fn packed(items: &[&[u8]]) -> Bytes {
        let mut body = BytesMut::new();
        for item in items {
            push_item(&mut body, item);
        }
        body.freeze()
    }

    fn back(frame: Frame) -> Frame {
        let message = frame.into_message(&label());
        assert_eq!(message.message_id.as_deref(), Some("stream"));
        assert_eq!(message.correlation_id.as_deref(), Some("id"));
        assert!(message.mandatory);
        Frame::from_message(message).unwrap()
    }

    #[test]
    fn items_are_prefixed_by_their_lengths() {
        let mut body = packed(&[b"abc", b"", b"d"]);
        assert_eq!(&body[..], b"\0\0\0\x03abc\0\0\0\0\0\0\0\x01d");
        let lens: Vec<_> = item_lens(&body).collect();
        assert_eq!(lens, [Some(3), Some(0), Some(1)]);
        for item in [&b"abc"[..], b"", b"d"] {
            assert_eq!(split_item(&mut body).as_deref(), Some(item));
        }
        assert_eq!(split_item(&mut body), None);
    }

    #[test]
    fn an_item_that_is_cut_off_is_no_item() {
        let whole = packed(&[b"abc", b"def"]);
        for len in 1..whole.len() {
            let mut cut = whole.slice(..len);
            let lens: Vec<_> = item_lens(&cut).collect();
            match len {
                7 => assert_eq!(lens, [Some(3)]),
                _ => assert_eq!(lens.last(), Some(&None), "{len}"),
            }
            while split_item(&mut cut).is_some() {}
        }
    }

    #[test]
    fn frames_are_read_as_they_were_written() {
        let Frame::Items { first, body } = back(Frame::Items {
            first: 7,
            body: packed(&[b"a"]),
        }) else {
            panic!("no items");
        };
        assert_eq!((first, body), (7, packed(&[b"a"])));
        let amount = Amount { items: 3, bytes: 0 };
        assert!(matches!(back(Frame::Credit(amount)), Frame::Credit(same) if same == amount));
        assert!(matches!(back(Frame::Alive), Frame::Alive));
        assert!(matches!(back(Frame::Stop), Frame::Stop));
        let end = |error| back(Frame::End { items: 3, error });
        assert!(matches!(
            end(None),
            Frame::End {
                items: 3,
                error: None
            }
        ));
        let own = StreamError::Own(Bytes::from_static(b"\x01"));
        let Frame::End {
            error: Some(StreamError::Own(body)),
            ..
        } = end(Some(own))
        else {
            panic!("no error");
        };
        assert_eq!(&body[..], b"\x01");
        let fault = RpcError::new(ErrorKind::Overloaded, "no").not_executed();
        let Frame::End {
            error: Some(StreamError::Rpc(fault)),
            ..
        } = end(Some(fault.into()))
        else {
            panic!("no fault");
        };
        assert_eq!(fault.kind(), ErrorKind::Overloaded);
        // The stream was open.
        assert!(fault.may_have_executed());
    }

    #[test]
    fn a_private_queue_of_another_form_is_not_believed() {
        let accepted = |private_queue: &str| {
            let accepted = Accepted {
                stream: "stream".into(),
                private_queue: private_queue.into(),
                window: Some(Amount { items: 1, bytes: 2 }),
                headers: Headers::new(),
            };
            Accepted::from_message(accepted.into_message(&label(), "a"))
        };
        let read = accepted("rpc.instance.a.1").unwrap();
        assert_eq!(read.private_queue, "rpc.instance.a.1");
        assert_eq!(read.window, Some(Amount { items: 1, bytes: 2 }));
        assert!(read.headers.is_empty());
        for strange in ["rpc.Fib", "rpc.instance.b.1", "rpc.instance.a"] {
            assert!(accepted(strange).is_none(), "{strange}");
        }
    }
}
