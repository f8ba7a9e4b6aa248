//! A publisher of arbitrary bytes, which lapin would refuse to write.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::broker::Node;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 206;

/// The only channel.
const CHANNEL: u16 = 1;

/// `channel.close`, the broker's refusal of an operation.
const CHANNEL_CLOSE: [u8; 4] = [0, 20, 0, 40];
/// `connection.close`, the broker's refusal of a connection.
const CONNECTION_CLOSE: [u8; 4] = [0, 10, 0, 50];
/// `basic.ack`
const ACK: [u8; 4] = [0, 60, 0, 80];

/// Properties as bytes, without any check.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the names are AMQP's")]
pub struct RawProperties {
    pub content_type: Option<Vec<u8>>,
    pub content_encoding: Option<Vec<u8>>,
    /// A table, with its length: see [`table`].
    pub headers: Option<Vec<u8>>,
    pub correlation_id: Option<Vec<u8>>,
    pub reply_to: Option<Vec<u8>>,
    pub message_id: Option<Vec<u8>>,
    pub kind: Option<Vec<u8>>,
    pub app_id: Option<Vec<u8>>,
}

impl RawProperties {
    /// Encodes the flags and the properties.
    fn bytes(&self) -> Vec<u8> {
        let text = |text: &Option<Vec<u8>>| text.as_deref().map(short);
        let properties = [
            (15, text(&self.content_type)),
            (14, text(&self.content_encoding)),
            (13, self.headers.clone()),
            (10, text(&self.correlation_id)),
            (9, text(&self.reply_to)),
            (7, text(&self.message_id)),
            (5, text(&self.kind)),
            (3, text(&self.app_id)),
        ];
        let mut flags = 0_u16;
        let mut bytes = Vec::new();
        for (bit, property) in properties {
            if let Some(property) = property {
                flags |= 1 << bit;
                bytes.extend(property);
            }
        }
        [flags.to_be_bytes().to_vec(), bytes].concat()
    }
}

/// A connection with a channel in confirm mode.
#[derive(Debug)]
pub struct RawPublisher(TcpStream);

impl RawPublisher {
    /// Connects as `guest`.
    ///
    /// # Panics
    ///
    /// If the node does not accept the connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    pub async fn connect(node: &Node) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", node.port()))
            .await
            .expect("the node listens");
        stream.set_nodelay(true).expect("a socket");
        let mut raw = Self(stream);
        raw.send(b"AMQP\0\0\x09\x01").await;
        raw.expect(0, [0, 10, 0, 10]).await; // connection.start
        let empty = long(b"");
        let start_ok = [
            &[0, 10, 0, 11],
            &empty[..],
            &short(b"PLAIN"),
            &long(b"\0guest\0guest"),
            &short(b"en_US"),
        ];
        raw.method(0, &start_ok.concat()).await;
        let tune = raw.expect(0, [0, 10, 0, 30]).await;
        // The broker's suggestion, but without heartbeats.
        let tune_ok = [&[0, 10, 0, 31], &tune[4..10], &[0, 0]];
        raw.method(0, &tune_ok.concat()).await;
        raw.method(0, b"\0\x0a\0\x28\x01/\0\0").await;
        raw.expect(0, [0, 10, 0, 41]).await; // connection.open-ok
        raw.method(CHANNEL, b"\0\x14\0\x0a\0").await;
        raw.expect(CHANNEL, [0, 20, 0, 11]).await; // channel.open-ok
        raw.method(CHANNEL, b"\0\x55\0\x0a\0").await;
        raw.expect(CHANNEL, [0, 85, 0, 11]).await; // confirm.select-ok
        raw
    }

    /// Publishes a message and waits until the broker has accepted it.
    ///
    /// # Panics
    ///
    /// If the broker refuses the message; the panic contains the broker's reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the connection unusable.
    pub async fn publish(
        &mut self,
        exchange: &[u8],
        routing_key: &[u8],
        properties: &RawProperties,
        body: &[u8],
    ) {
        let publish = [
            &[0, 60, 0, 40, 0, 0],
            &short(exchange)[..],
            &short(routing_key),
            &[0],
        ];
        self.method(CHANNEL, &publish.concat()).await;
        let size = (body.len() as u64).to_be_bytes();
        let header = [&[0, 60, 0, 0], &size[..], &properties.bytes()].concat();
        self.frame(HEADER, CHANNEL, &header).await;
        self.frame(BODY, CHANNEL, body).await;
        self.expect(CHANNEL, ACK).await;
    }

    async fn method(&mut self, channel: u16, payload: &[u8]) {
        self.frame(METHOD, channel, payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short payload");
        let head = [&[kind], &channel.to_be_bytes()[..], &length.to_be_bytes()];
        let frame = [&head.concat(), payload, &[END]].concat();
        self.send(&frame).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("an open connection");
    }

    /// Waits for a method. Panics with the broker's reason if it closes the channel or the connection instead.
    async fn expect(&mut self, expected_channel: u16, method: [u8; 4]) -> Vec<u8> {
        loop {
            let mut head = [0; 7];
            self.0
                .read_exact(&mut head)
                .await
                .expect("an open connection");
            let [kind, high, low, length @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes(length) as usize + 1];
            self.0
                .read_exact(&mut payload)
                .await
                .expect("an open connection");
            assert_eq!(payload.pop(), Some(END));
            if kind == HEARTBEAT {
                continue;
            }
            let is_expected =
                payload.starts_with(&method) && u16::from_be_bytes([high, low]) == expected_channel;
            if is_expected {
                return payload;
            }
            if payload.starts_with(&CHANNEL_CLOSE) || payload.starts_with(&CONNECTION_CLOSE) {
                panic!("refused: {}", String::from_utf8_lossy(&payload[7..]));
            }
            panic!("expected {method:?}, got {payload:?}");
        }
    }
}

/// A short string.
///
/// # Panics
///
/// If the text is longer than 255 bytes.
#[must_use]
pub fn short(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("a short string");
    [&[length], text].concat()
}

/// A long string, or another value with a length of four bytes.
///
/// # Panics
///
/// If there are more than 4 GiB.
#[must_use]
pub fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("less than 4 GiB");
    [&length.to_be_bytes(), bytes].concat()
}

/// A table with its length. Each value contains its type.
#[must_use]
pub fn table(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let entries = entries
        .iter()
        .map(|(key, value)| [short(key), value.clone()].concat());
    long(&entries.collect::<Vec<_>>().concat())
}

/// A value: nested arrays.
#[must_use]
pub fn nested_arrays(depth: usize) -> Vec<u8> {
    (0..depth).fold(Vec::new(), |inner, _| [b"A", &long(&inner)[..]].concat())
}

/// A value: nested tables.
#[must_use]
pub fn nested_tables(depth: usize) -> Vec<u8> {
    let innermost = [b"F", &long(b"")[..]].concat();
    (1..depth).fold(innermost, |inner, _| {
        [b"F", &table(&[(b"k", inner)])[..]].concat()
    })
}
