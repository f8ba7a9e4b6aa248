//! Encoding and decoding of bodies: MessagePack or JSON, chosen by the message's content type.
//!
//! Both formats share one data model, serde's human-readable form, in which addresses, UUIDs and times are text. MessagePack is
//! written with the names of fields (`rmp_serde`'s "named" form), so that arguments can be added and reordered, and read from maps
//! or arrays. Bytes after a value are refused, and nesting is limited.

mod arguments;
mod buffer;
mod checked;
mod content_type;
mod encoded;
#[cfg(feature = "json")]
mod json;
mod message_pack;
mod nesting;
#[cfg(test)]
mod values;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::content_type::ContentType;
pub use self::encoded::Encoded;
pub(crate) use self::message_pack::decode_own;
use crate::error::BoxError;

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

/// Decodes a value. Bytes after the value are an error.
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

/// Converts arguments from MessagePack to another content type.
///
/// The stub always encodes MessagePack, so that clients that send MessagePack, the default, encode only once. A client that sends JSON
/// decodes the arguments as their own type and encodes them again: MessagePack does not distinguish a number of 128 bits from bytes.
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

/// Converts a value of any type from one format to another.
pub(crate) fn transcode(
    body: &Bytes,
    from: ContentType,
    to: ContentType,
) -> Result<Bytes, BoxError> {
    let is_message_pack = |format| format == ContentType::MessagePack;
    match (is_message_pack(from), is_message_pack(to)) {
        (true, false) => json::from_message_pack(body),
        (false, true) => json::to_message_pack(body),
        _ => Ok(body.clone()),
    }
}

/// Stands in for JSON without the feature `json`. Requests in JSON are refused earlier, by [`ContentType::is_supported`].
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

    pub(super) fn from_message_pack(_: &[u8]) -> Result<Bytes, BoxError> {
        Err(DISABLED.into())
    }

    pub(super) fn to_message_pack(_: &[u8]) -> Result<Bytes, BoxError> {
        Err(DISABLED.into())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde::de::IgnoredAny;

    use super::buffer::CHUNK;
    use super::nesting::{MAX_DEPTH, TOO_DEEP};
    use super::*;

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
    fn message_pack_arguments_are_encoded_as_a_map() {
        let body = encode(&Fib { n: 30 }, ContentType::MessagePack).unwrap();
        assert_eq!(&body[..], [0x81, 0xa1, b'n', 30]);
    }

    /// A value that encodes another body while it is encoded.
    struct Nested(String);

    impl Serialize for Nested {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            encode(&[0xff_u8; 9], ContentType::MessagePack).map_err(serde::ser::Error::custom)?;
            self.0.serialize(serializer)
        }
    }

    /// A value that fails after a part of it was written.
    struct Broken;

    impl Serialize for Broken {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut tuple = serializer.serialize_tuple(2)?;
            serde::ser::SerializeTuple::serialize_element(&mut tuple, &7)?;
            Err(serde::ser::Error::custom("broken"))
        }
    }

    #[test]
    fn bodies_that_share_memory_do_not_overlap() {
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
    fn message_pack_arguments_are_read_from_an_array_in_declaration_order() {
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
    fn hostile_message_pack_is_refused_without_allocation_or_overflow() {
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
    fn message_pack_has_the_nesting_limit_of_json() {
        let nested = |depth| [vec![0x91; depth], vec![7]].concat();
        let read = |body: &[u8]| decode::<IgnoredAny>(body, ContentType::MessagePack);
        read(&nested(MAX_DEPTH - 1)).unwrap();
        read(&nested(MAX_DEPTH)).unwrap_err();
        let argument = |depth| [&[0x81, 0xa1, b'n'][..], &nested(depth)].concat();
        let read = |body: &[u8]| arguments::decode::<IgnoredAny>(body);
        read(&argument(MAX_DEPTH - 2)).unwrap();
        read(&argument(MAX_DEPTH - 1)).unwrap_err();
    }

    /// A recursive type that can nest in every way that serde has.
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
        /// Creates a value of `levels` levels, including the innermost one.
        fn nested(levels: usize, level: impl Fn(Box<Tree>) -> Tree, levels_each: usize) -> Self {
            (0..(levels - 1) / levels_each).fold(Self::Leaf, |inner, _| level(Box::new(inner)))
        }
    }

    /// The formats of this build.
    fn formats() -> impl Iterator<Item = ContentType> {
        let all = [ContentType::MessagePack, ContentType::Json];
        all.into_iter().filter(|format| format.is_supported())
    }

    #[test]
    fn sender_refuses_values_nested_too_deep() {
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
                    // Dropping the value would recurse as deep as writing it.
                    let tree = std::mem::ManuallyDrop::new(tree(levels));
                    let error = encode(&*tree, format).unwrap_err();
                    assert_eq!(error.to_string(), TOO_DEEP, "{way}");
                }
            }
        }
    }

    #[test]
    fn receiver_refuses_variants_nested_too_deep() {
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

    #[cfg(feature = "json")]
    mod json {
        use super::*;

        #[derive(Serialize, Deserialize)]
        struct One<T> {
            n: T,
        }

        /// Encodes a plain request with one argument.
        fn plain<T: Serialize + DeserializeOwned>(n: T) -> String {
            let body = encode(&One { n }, ContentType::MessagePack).unwrap();
            let plain = recode_arguments::<One<T>>(&body, ContentType::Plain, &["n"]).unwrap();
            String::from_utf8(plain.into()).unwrap()
        }

        #[test]
        fn plain_request_is_the_bare_argument() {
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
        fn plain_argument_is_written_like_other_json() {
            assert_eq!(plain(7_i128), "7");
            assert_eq!(plain(i128::MIN), i128::MIN.to_string());
            assert_eq!(plain(0.1_f32), "0.1");
            assert_eq!(plain(ADD), "{\"a\":1,\"b\":2}");
        }

        #[test]
        fn plain_request_with_several_arguments_is_an_object_or_an_array() {
            for body in [&b"{\"a\":1,\"b\":2}"[..], b"[1,2]"] {
                let add: Add = decode_arguments(body, ContentType::Plain, &["a", "b"]).unwrap();
                assert_eq!(add, ADD);
            }
            let body = encode(&ADD, ContentType::MessagePack).unwrap();
            let plain = recode_arguments::<Add>(&body, ContentType::Plain, &["a", "b"]).unwrap();
            assert_eq!(&plain[..], b"{\"a\":1,\"b\":2}");
        }

        #[test]
        fn plain_body_cannot_add_a_second_argument() {
            for body in ["1, 2", "1], [2", "1]", "", "]", "[", "1 2"] {
                decode_arguments::<Fib>(body.as_bytes(), ContentType::Plain, &["n"])
                    .expect_err(body);
            }
        }

        /// Returns `true` for each way to read nested arrays that succeeds: as an argument that is decoded, skipped, or kept as text.
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
        fn nesting_is_limited_in_decoded_skipped_and_raw_values() {
            // The arguments and the innermost value are a level each.
            for depth in [1, 100, MAX_DEPTH - 2] {
                assert_eq!(nested(depth), [true; 6], "{depth}");
            }
            for depth in [MAX_DEPTH - 1, MAX_DEPTH, 1_000, 100_000] {
                assert_eq!(nested(depth), [false; 6], "{depth}");
            }
        }

        #[test]
        fn brackets_in_text_and_empty_arrays_do_not_count_as_nesting() {
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
