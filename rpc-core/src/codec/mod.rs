//! Bodies: MessagePack or JSON, chosen by the message's content type.
//!
//! Values go through serde, in one form for both: the one that serde calls human-readable, in which addresses, UUIDs and times
//! are text. MessagePack is written with names (`rmp_serde`'s "named" form), so that arguments can be added and reordered; what
//! is read may hold maps or arrays. Nothing may follow a value, and nesting is limited.

#[cfg(feature = "json")]
mod json;
mod message_pack;
mod sending;
#[cfg(test)]
mod values;

use std::cell::Cell;
use std::fmt;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::message_pack::{MessagePack, decode_own};
use crate::arguments;
use crate::error::BoxError;

/// The deepest nesting of values, a value that holds no other included.
const MAX_DEPTH: usize = 128;

/// The refusal of a value that is nested deeper than [`MAX_DEPTH`].
const TOO_DEEP: &str = "a value is nested deeper than 128 levels, the limit: send it flat, such as a list whose items name each other";

/// Up to how many bytes a body is copied to where others are, which costs less than to allocate it.
const SMALL: usize = 256;

/// How many bytes are allocated at once for such. Whoever keeps one of them keeps its neighbours' memory, too.
const CHUNK: usize = 1 << 10;

thread_local! {
    static ROOM: Cell<Room> = Cell::default();
}

/// Where bodies are written.
#[derive(Default)]
struct Room {
    body: Vec<u8>,
    /// For small ones.
    chunk: BytesMut,
}

/// What the bytes of a body are.
///
/// Values have one form in all of them, serde's human-readable one: addresses, UUIDs and times are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContentType {
    /// `application/msgpack`: the default between this crate's own clients and servers.
    MessagePack,
    /// `application/json`: arguments as an object.
    Json,
    /// No content type, or `text/plain`, as the clients and servers of RabbitMQ's RPC tutorial have it: JSON, and the bare
    /// argument where a method has exactly one.
    Plain,
}

impl ContentType {
    /// Recognises a message's content type; parameters such as `; charset=utf-8` are ignored.
    pub(crate) fn parse(text: Option<&str>) -> Option<Self> {
        let Some(text) = text else {
            return Some(Self::Plain);
        };
        if text == "application/msgpack" {
            return Some(Self::MessagePack); // Nearly always.
        }
        let essence = text.split(';').next().unwrap_or_default().trim();
        [
            ("application/msgpack", Self::MessagePack),
            ("application/json", Self::Json),
            ("text/plain", Self::Plain),
            ("", Self::Plain),
        ]
        .into_iter()
        .find(|(name, _)| essence.eq_ignore_ascii_case(name))
        .map(|(_, content_type)| content_type)
    }

    /// The property to send; plain messages have none.
    pub(crate) fn as_property(self) -> Option<&'static str> {
        match self {
            Self::MessagePack => Some("application/msgpack"),
            Self::Json => Some("application/json"),
            Self::Plain => None,
        }
    }

    /// Whether this build can read and write it.
    pub(crate) fn is_supported(self) -> bool {
        self == Self::MessagePack || cfg!(feature = "json")
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_property().unwrap_or("text/plain"))
    }
}

/// Encodes a value: a result, an error, or arguments as a map of their names.
pub(crate) fn encode<T: Serialize>(
    value: &T,
    content_type: ContentType,
) -> Result<Bytes, BoxError> {
    match content_type {
        ContentType::MessagePack => message_pack::encode(value),
        ContentType::Json | ContentType::Plain => json::encode(value),
    }
}

/// A body that somebody writes.
fn write(write: impl FnOnce(&mut Vec<u8>) -> Result<(), BoxError>) -> Result<Bytes, BoxError> {
    // Taken, because what writes may call whatever it likes.
    let mut room = ROOM.take();
    room.body.reserve(SMALL);
    write(&mut room.body)?;
    let len = room.body.len();
    let body = if len > SMALL {
        std::mem::take(&mut room.body).into()
    } else {
        if room.chunk.capacity() < len {
            room.chunk.reserve(CHUNK);
        }
        room.chunk.extend_from_slice(&room.body);
        room.body.clear();
        room.chunk.split().freeze()
    };
    ROOM.set(room);
    Ok(body)
}

/// Decodes a value; bytes left over after it are an error.
pub(crate) fn decode<T: DeserializeOwned>(
    body: &[u8],
    content_type: ContentType,
) -> Result<T, BoxError> {
    match content_type {
        ContentType::MessagePack => message_pack::decode(body),
        ContentType::Json | ContentType::Plain => json::decode(body),
    }
}

/// Decodes a request's arguments, `names.len()` of them, from a map, an array, or the bare argument of a plain request.
pub(crate) fn decode_arguments<A: DeserializeOwned>(
    body: &[u8],
    content_type: ContentType,
    names: &[&str],
) -> Result<A, BoxError> {
    match content_type {
        ContentType::MessagePack => arguments::decode(body),
        ContentType::Json => json::decode(body),
        ContentType::Plain => json::decode_bare(body, names.len()),
    }
}

/// Turns arguments that were encoded as MessagePack into another content type.
///
/// The stub always writes MessagePack, which costs nothing for clients that send it. A client that speaks JSON re-encodes,
/// through the arguments' own type: MessagePack does not tell a number of 128 bits from bytes.
pub(crate) fn recode_arguments<A: Serialize + DeserializeOwned>(
    body: &[u8],
    content_type: ContentType,
    names: &[&str],
) -> Result<Bytes, BoxError> {
    let arguments: A = arguments::decode(body)?;
    match content_type {
        ContentType::Plain if names.len() == 1 => json::encode_bare(&arguments),
        _ => encode(&arguments, content_type),
    }
}

/// Counts bytes of a kind, many at once: the compiler does so where each sum fits into a byte.
fn count(body: &[u8], is_counted: impl Fn(u8) -> bool) -> usize {
    let of_chunk = |chunk: &[u8]| chunk.iter().map(|byte| u8::from(is_counted(*byte))).sum();
    let chunks = body.chunks(u8::MAX.into());
    chunks.map(of_chunk).map(|sum: u8| usize::from(sum)).sum()
}

/// Without the feature nothing decodes as JSON; requests are refused earlier, by [`ContentType::is_supported`].
#[cfg(not(feature = "json"))]
mod json {
    use bytes::Bytes;

    use crate::error::BoxError;

    const DISABLED: &str = "JSON needs the feature `json` of rpc-core";

    pub(super) fn encode<T>(_: &T) -> Result<Bytes, BoxError> {
        Err(DISABLED.into())
    }

    pub(super) fn decode<T>(_: &[u8]) -> Result<T, BoxError> {
        Err(DISABLED.into())
    }

    pub(super) fn encode_bare<A>(_: &A) -> Result<Bytes, BoxError> {
        Err(DISABLED.into())
    }

    pub(super) fn decode_bare<A>(_: &[u8], _: usize) -> Result<A, BoxError> {
        Err(DISABLED.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde::de::IgnoredAny;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Add {
        a: u64,
        #[serde(default)]
        b: u64,
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Fib {
        n: u64,
    }

    const ADD: Add = Add { a: 1, b: 2 };

    #[test]
    fn message_pack_arguments_are_a_map_of_names() {
        let body = encode(&Fib { n: 30 }, ContentType::MessagePack).unwrap();
        assert_eq!(&body[..], [0x81, 0xa1, b'n', 30]);
    }

    /// Writes another body before its own.
    struct Nested(String);

    impl Serialize for Nested {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            encode(&[0xff_u8; 9], ContentType::MessagePack).map_err(serde::ser::Error::custom)?;
            self.0.serialize(serializer)
        }
    }

    /// Fails after a part of it was written.
    struct Broken;

    impl Serialize for Broken {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut tuple = serializer.serialize_tuple(2)?;
            serde::ser::SerializeTuple::serialize_element(&mut tuple, &7)?;
            Err(serde::ser::Error::custom("broken"))
        }
    }

    #[test]
    fn bodies_that_share_memory_keep_apart() {
        let texts: Vec<String> = (0..2 * CHUNK).map(|len| "x".repeat(len % 400)).collect();
        let written = texts.iter().map(|text| {
            encode(&Broken, ContentType::MessagePack).unwrap_err();
            encode(&Nested(text.clone()), ContentType::MessagePack).unwrap()
        });
        let written: Vec<Bytes> = written.collect();
        for (text, body) in texts.iter().zip(written) {
            let read: String = decode(&body, ContentType::MessagePack).unwrap();
            assert_eq!(read, *text);
        }
    }

    #[test]
    fn message_pack_arguments_may_be_an_array_in_declaration_order() {
        let add: Add = decode(&[0x92, 1, 2], ContentType::MessagePack).unwrap();
        assert_eq!(add, ADD);
        decode::<Add>(&[0x93, 1, 2, 3], ContentType::MessagePack).expect_err("one too many");
        decode::<Fib>(&[0x90], ContentType::MessagePack).expect_err("one too few");
    }

    #[test]
    fn missing_arguments_take_their_default_and_unknown_ones_are_ignored() {
        let body = [0x82, 0xa1, b'a', 1, 0xa1, b'x', 0x92, 7, 8];
        let add: Add = decode(&body, ContentType::MessagePack).unwrap();
        assert_eq!(add, Add { a: 1, b: 0 });
    }

    #[test]
    fn bytes_after_a_value_are_refused() {
        decode::<u64>(&[1, 2], ContentType::MessagePack).expect_err("a second value");
        decode::<u64>(&[1, 0xc1], ContentType::MessagePack).expect_err("a reserved marker");
        decode::<u64>(&[1, 0xa5], ContentType::MessagePack).expect_err("half a value");
        decode::<u64>(&[1, 0x91], ContentType::MessagePack).expect_err("half an array");
        decode::<u64>(&[], ContentType::MessagePack).expect_err("no value");
    }

    #[test]
    fn hostile_message_pack_neither_allocates_nor_overflows() {
        decode::<Vec<u64>>(&[0xdd, 0xff, 0xff, 0xff, 0xff], ContentType::MessagePack)
            .expect_err("4 G elements");
        decode::<String>(&[0xdb, 0xff, 0xff, 0xff, 0xff], ContentType::MessagePack)
            .expect_err("4 GB of text");
        let deep = vec![0x91; 100_000];
        decode::<IgnoredAny>(&deep, ContentType::MessagePack).expect_err("too deep");
        decode::<u64>(&[&[1], &deep[..]].concat(), ContentType::MessagePack)
            .expect_err("deep trailing bytes");
    }

    #[test]
    fn message_pack_is_nested_as_deep_as_json() {
        let nested = |depth| [vec![0x91; depth], vec![7]].concat();
        let read = |body: &[u8]| decode::<IgnoredAny>(body, ContentType::MessagePack);
        read(&nested(MAX_DEPTH - 1)).unwrap();
        read(&nested(MAX_DEPTH)).unwrap_err();
        let argument = |depth| [&[0x81, 0xa1, b'n'][..], &nested(depth)].concat();
        let read = |body: &[u8]| arguments::decode::<IgnoredAny>(body);
        read(&argument(MAX_DEPTH - 2)).unwrap();
        read(&argument(MAX_DEPTH - 1)).unwrap_err();
    }

    /// A type whose values are nested as deep as they like, each level in another way.
    #[derive(Serialize, Deserialize)]
    enum Tree {
        Leaf,
        Variant(Box<Tree>),
        Tuple(u8, Box<Tree>),
        Struct { inner: Box<Tree> },
        List(Vec<Tree>),
        Map(std::collections::BTreeMap<u8, Tree>),
        Maybe(Option<Box<Tree>>),
    }

    impl Tree {
        /// A value of that many levels, the innermost one included.
        fn nested(levels: usize, level: impl Fn(Box<Tree>) -> Tree, levels_each: usize) -> Self {
            (0..(levels - 1) / levels_each).fold(Self::Leaf, |inner, _| level(Box::new(inner)))
        }
    }

    /// The formats that this build has.
    fn formats() -> impl Iterator<Item = ContentType> {
        let all = [ContentType::MessagePack, ContentType::Json];
        all.into_iter().filter(|format| format.is_supported())
    }

    #[test]
    fn values_nested_too_deep_are_refused_by_their_sender() {
        type Level = fn(Box<Tree>) -> Tree;
        let ways: [(Level, usize); 6] = [
            (Tree::Variant, 1),
            (|inner| Tree::Tuple(0, inner), 2),
            (|inner| Tree::Struct { inner }, 2),
            (|inner| Tree::List(vec![*inner]), 2),
            (|inner| Tree::Map([(0, *inner)].into()), 2),
            (|inner| Tree::Maybe(Some(inner)), 1),
        ];
        for (way, (level, levels_each)) in ways.into_iter().enumerate() {
            let tree = |levels| Tree::nested(levels, level, levels_each);
            for format in formats() {
                let body = encode(&tree(MAX_DEPTH), format).unwrap();
                decode::<Tree>(&body, format).unwrap_or_else(|error| panic!("{way}: {error}"));
                for levels in [MAX_DEPTH + levels_each, 100_000] {
                    // To drop it would take as much stack as to write it.
                    let tree = std::mem::ManuallyDrop::new(tree(levels));
                    let error = encode(&*tree, format).unwrap_err();
                    assert_eq!(error.to_string(), TOO_DEEP, "{way}");
                }
            }
        }
    }

    #[test]
    fn variants_nested_too_deep_are_refused_by_their_receiver() {
        let nested = |variant: &[u8], levels| [variant.repeat(levels), vec![0xc0]].concat();
        for variant in [
            &b"\x81\xa7Variant"[..],
            b"\x81\x01",
            b"\xde\0\x01\x01",
            b"\xdf\0\0\0\x01\x01",
        ] {
            for levels in [MAX_DEPTH, 1_000_000] {
                let body = nested(variant, levels);
                let error = decode::<Tree>(&body, ContentType::MessagePack)
                    .err()
                    .unwrap();
                assert_eq!(error.to_string(), TOO_DEEP);
                let arguments = [&b"\x81\xa1n"[..], &body].concat();
                let error = arguments::decode::<(Tree,)>(&arguments).err().unwrap();
                assert_eq!(error.to_string(), TOO_DEEP);
            }
        }
        let body = [&b"\x81\x01".repeat(MAX_DEPTH - 1)[..], b"\xa4Leaf"].concat();
        decode::<Tree>(&body, ContentType::MessagePack).unwrap();
        let body = [
            &b"\x91"[..],
            &b"\x81\x01".repeat(MAX_DEPTH - 2),
            b"\xa4Leaf",
        ]
        .concat();
        arguments::decode::<(Tree,)>(&body).unwrap();
    }

    #[test]
    fn content_types_are_recognised_with_parameters_and_in_any_case() {
        assert_eq!(ContentType::parse(None), Some(ContentType::Plain));
        assert_eq!(
            ContentType::parse(Some("Application/JSON; charset=utf-8")),
            Some(ContentType::Json)
        );
        assert_eq!(
            ContentType::parse(Some("application/msgpack")),
            Some(ContentType::MessagePack)
        );
        assert_eq!(ContentType::parse(Some("text/html")), None);
    }

    #[cfg(feature = "json")]
    mod json {
        use super::*;

        #[derive(Serialize, Deserialize)]
        struct One<T> {
            n: T,
        }

        /// The body of a plain request with this argument.
        fn plain<T: Serialize + DeserializeOwned>(n: T) -> String {
            let body = encode(&One { n }, ContentType::MessagePack).unwrap();
            let plain = recode_arguments::<One<T>>(&body, ContentType::Plain, &["n"]).unwrap();
            String::from_utf8(plain.into()).unwrap()
        }

        #[test]
        fn a_plain_request_is_the_bare_argument() {
            let fib: Fib = decode_arguments(b"30", ContentType::Plain, &["n"]).unwrap();
            assert_eq!(fib, Fib { n: 30 });
            assert_eq!(plain(30_u64), "30");
        }

        #[test]
        fn floating_point_numbers_arrive_to_the_last_bit() {
            for number in [
                -9_223_203_737_856_745_808.0,
                0.1,
                1e-300,
                f64::MAX,
                51.248_178_375_505_4,
            ] {
                let body = encode(&number, ContentType::Json).unwrap();
                let read: f64 = decode(&body, ContentType::Json).unwrap();
                assert_eq!(read.to_bits(), number.to_bits(), "{number}");
            }
        }

        #[test]
        fn a_plain_argument_is_written_as_in_other_json() {
            assert_eq!(plain(7_i128), "7");
            assert_eq!(plain(i128::MIN), i128::MIN.to_string());
            assert_eq!(plain(0.1_f32), "0.1");
            assert_eq!(plain(ADD), "{\"a\":1,\"b\":2}");
        }

        #[test]
        fn a_plain_request_for_several_arguments_is_an_object_or_an_array() {
            for body in [&b"{\"a\":1,\"b\":2}"[..], b"[1,2]"] {
                let add: Add = decode_arguments(body, ContentType::Plain, &["a", "b"]).unwrap();
                assert_eq!(add, ADD);
            }
            let body = encode(&ADD, ContentType::MessagePack).unwrap();
            let plain = recode_arguments::<Add>(&body, ContentType::Plain, &["a", "b"]).unwrap();
            assert_eq!(&plain[..], b"{\"a\":1,\"b\":2}");
        }

        #[test]
        fn a_plain_body_cannot_escape_its_brackets() {
            for body in ["1, 2", "1], [2", "1]", "", "]", "[", "1 2"] {
                decode_arguments::<Fib>(body.as_bytes(), ContentType::Plain, &["n"])
                    .expect_err(body);
            }
        }

        /// Arrays in each other, as the argument that is read, beside it, and kept as text.
        fn nested(depth: usize) -> [bool; 6] {
            type Raw = Box<serde_json::value::RawValue>;
            let value = format!("{}7{}", "[".repeat(depth), "]".repeat(depth));
            let n = format!("{{\"n\":{value}}}");
            let x = format!("{{\"n\":1,\"x\":{value}}}");
            let read = |body: &str| -> bool {
                decode_arguments::<One<serde_json::Value>>(
                    body.as_bytes(),
                    ContentType::Json,
                    &["n"],
                )
                .is_ok()
            };
            [
                read(&n),
                read(&x),
                decode_arguments::<One<Raw>>(n.as_bytes(), ContentType::Json, &["n"]).is_ok(),
                decode_arguments::<One<Raw>>(value.as_bytes(), ContentType::Plain, &["n"]).is_ok(),
                decode::<Raw>(n.as_bytes(), ContentType::Json).is_ok(),
                decode::<One<IgnoredAny>>(n.as_bytes(), ContentType::Json).is_ok(),
            ]
        }

        #[test]
        fn nesting_is_limited_in_whatever_is_read_skipped_or_kept() {
            // The arguments themselves are one level, what is innermost another.
            for depth in [1, 100, MAX_DEPTH - 2] {
                assert_eq!(nested(depth), [true; 6], "{depth}");
            }
            for depth in [MAX_DEPTH - 1, MAX_DEPTH, 1_000, 100_000] {
                assert_eq!(nested(depth), [false; 6], "{depth}");
            }
        }

        #[test]
        fn brackets_that_open_nothing_are_not_nested() {
            let text = "[{\\\"\\\\".repeat(1_000);
            let body = format!("[\"{text}\",{}]", "[[]],".repeat(1_000) + "[]");
            decode::<IgnoredAny>(body.as_bytes(), ContentType::Json).unwrap();
            let body = format!("[\"{text}\",{}", "[".repeat(MAX_DEPTH));
            decode::<IgnoredAny>(body.as_bytes(), ContentType::Json).unwrap_err();
        }

        #[test]
        fn bytes_after_json_are_refused() {
            decode::<u64>(b"1 2", ContentType::Json).expect_err("a second value");
        }
    }
}
