//! Fuzz targets for bodies, decoded as values of many types.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::nesting;
use crate::codec::{self, ContentType, Encoded};

/// The maximum nesting of a body.
const MAX_DEPTH: usize = 128;

#[derive(Serialize, Deserialize)]
enum Shape {
    Unit,
    New(u8),
    Tuple(i64, String),
    #[serde(rename_all = "camelCase")]
    Struct {
        is_set: Option<f64>,
        #[serde(default)]
        flags: Vec<bool>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type")]
enum Tagged {
    Unit,
    Struct { amount: u64, note: Option<String> },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
enum Adjacent {
    Unit,
    New(Box<Adjacent>),
    Tuple(u8, char),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
    List(Vec<Untagged>),
    Table(BTreeMap<String, Untagged>),
    Nothing,
}

#[derive(Serialize, Deserialize)]
struct Flat {
    a: u8,
    #[serde(flatten)]
    others: BTreeMap<String, Untagged>,
}

#[derive(Serialize, Deserialize)]
enum Tree {
    Leaf(u64),
    Node(Vec<Tree>),
    Named(BTreeMap<String, Tree>),
    One(Box<Tree>),
}

#[derive(Serialize, Deserialize)]
struct Chain {
    next: Option<Box<Chain>>,
}

#[derive(Serialize, Deserialize)]
struct Nothing {}

#[derive(Serialize, Deserialize)]
struct Numbers(u8, i16, u32, i64, u128, i128, f64);

#[derive(Serialize, Deserialize)]
struct Account {
    id: u64,
    #[serde(rename = "type")]
    kind: Shape,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    history: Vec<(String, Option<i32>)>,
    balance: Result<i128, String>,
    limits: BTreeMap<u16, Duration>,
    address: Option<std::net::IpAddr>,
}

/// Decodes MessagePack as a value of each type.
pub fn codec_message_pack(body: &[u8]) {
    values(body, ContentType::MessagePack);
}

/// Decodes JSON as a value of each type.
pub fn codec_json(body: &[u8]) {
    values(body, ContentType::Json);
}

/// Converts a value of any type to JSON, and the JSON to MessagePack.
fn convert(body: &[u8], content_type: ContentType) {
    let value = Encoded::new(content_type, Bytes::copy_from_slice(body));
    if let Ok(json) = value.to_json() {
        let json = Encoded::from_json(json).expect("it was just written");
        let _ = json.body_as(ContentType::MessagePack);
    }
}

fn values(body: &[u8], content_type: ContentType) {
    convert(body, content_type);
    macro_rules! each {
        ($($type:ty),* $(,)?) => {
            $(value::<$type>(body, content_type);)*
        };
    }
    each![
        bool, u8, i64, u128, f64, char, String, (), [u8; 3], Option<Option<u8>>, Vec<u8>, Vec<f64>, (u8, (String, bool)),
        BTreeMap<String, Vec<u8>>, BTreeMap<i32, Shape>, Result<u8, String>, Duration, std::net::IpAddr, Shape, Tagged, Adjacent,
        Untagged, Flat, Tree, Chain, Nothing, Numbers, Account,
    ];
    if content_type == ContentType::MessagePack {
        // serde_json reads numbers that exceed `f32` as infinite, and writes infinity as null.
        value::<f32>(body, content_type);
    }
    if codec::decode::<IgnoredAny>(body, content_type).is_ok() {
        check_well_formed(body, content_type);
    }
}

/// Checks that a decoded value is encoded and decoded again as the same value.
fn value<T: Serialize + DeserializeOwned>(body: &[u8], content_type: ContentType) {
    let Ok(value) = codec::decode::<T>(body, content_type) else {
        return;
    };
    check_well_formed(body, content_type);
    let name = std::any::type_name::<T>();
    let encoded = codec::encode(&value, content_type)
        .unwrap_or_else(|error| panic!("{name} cannot be encoded: {error}"));
    let again = codec::decode::<T>(&encoded, content_type)
        .unwrap_or_else(|error| panic!("{name} cannot be decoded again: {error}: {encoded:?}"));
    let again = codec::encode(&again, content_type).expect("an equal value was encoded before");
    assert_eq!(again, encoded, "{name}");
}

fn check_well_formed(body: &[u8], content_type: ContentType) {
    let depth = match content_type {
        ContentType::MessagePack => {
            nesting::of_message_pack(body).expect("only single values are accepted")
        }
        ContentType::Json | ContentType::Plain => nesting::of_json(body),
    };
    assert!(depth <= MAX_DEPTH, "{depth} deep");
}

#[derive(Serialize, Deserialize)]
struct One {
    n: u64,
}

#[derive(Serialize, Deserialize)]
struct Transfer {
    amount: u64,
    #[serde(rename = "to", alias = "recipient")]
    target: Option<String>,
    #[serde(default)]
    tags: Vec<(String, i8)>,
}

#[derive(Serialize, Deserialize)]
struct Mixed {
    tree: Tree,
    shape: Untagged,
    wide: i128,
}

/// Decodes MessagePack as the arguments of a request.
pub fn arguments_message_pack(body: &[u8]) {
    arguments(body, ContentType::MessagePack);
}

/// Decodes JSON as the arguments of a request.
pub fn arguments_json(body: &[u8]) {
    arguments(body, ContentType::Json);
}

/// Decodes JSON as the arguments of a plain request.
pub fn arguments_plain(body: &[u8]) {
    arguments(body, ContentType::Plain);
}

fn arguments(body: &[u8], content_type: ContentType) {
    list::<Nothing>(body, content_type, &[]);
    list::<One>(body, content_type, &["n"]);
    list::<Deep>(body, content_type, &["tree"]);
    list::<Transfer>(body, content_type, &["amount", "to", "tags"]);
    list::<Mixed>(body, content_type, &["tree", "shape", "wide"]);
    list::<Flat>(body, content_type, &["a", "others"]);
}

#[derive(Serialize, Deserialize)]
struct Deep {
    tree: Tree,
}

/// Checks that decoded arguments are the same in every content type.
fn list<A: Serialize + DeserializeOwned>(body: &[u8], content_type: ContentType, names: &[&str]) {
    let Ok(decoded) = codec::decode_arguments::<A>(body, content_type, names) else {
        return;
    };
    if content_type == ContentType::MessagePack {
        check_well_formed(body, content_type);
        // The shared reader of arguments accepts the same bodies as serde's own code, if all keys are text.
        let own = codec::decode::<A>(body, content_type);
        if !nesting::has_other_keys_than_texts(body) {
            let own = own.unwrap_or_else(|error| panic!("{names:?}: {error}"));
            assert_eq!(message_pack(&own), message_pack(&decoded));
        }
    } else {
        let is_left_out = content_type == ContentType::Plain && body.is_empty();
        assert!(is_left_out || codec::decode::<IgnoredAny>(body, content_type).is_ok());
        check_well_formed(body, content_type);
    }
    let encoded = message_pack(&decoded);
    // Near the limit, the formats count levels differently.
    if nesting::of_message_pack(&encoded).expect("one value was encoded") > MAX_DEPTH - 8 {
        return;
    }
    for other in [
        ContentType::MessagePack,
        ContentType::Json,
        ContentType::Plain,
    ] {
        if !other.is_supported() {
            continue;
        }
        let recoded = match other {
            ContentType::MessagePack => encoded.clone(),
            _ => match codec::recode_arguments::<A>(&encoded, other, names) {
                Ok(recoded) => recoded,
                Err(error) => panic!("{names:?} cannot be recoded as {other}: {error}"),
            },
        };
        let again = codec::decode_arguments::<A>(&recoded, other, names)
            .unwrap_or_else(|error| panic!("{names:?} as {other}: {error}: {recoded:?}"));
        assert_eq!(message_pack(&again), encoded, "{names:?} as {other}");
    }
    let mut array = Vec::new();
    let mut writer = rmp_serde::Serializer::new(&mut array).with_human_readable();
    decoded
        .serialize(&mut writer)
        .expect("the arguments were encoded with names before");
    let again = codec::decode_arguments::<A>(&array, ContentType::MessagePack, names)
        .unwrap_or_else(|error| panic!("{names:?} as an array: {error}: {array:?}"));
    assert_eq!(message_pack(&again), encoded, "{names:?} as an array");
}

fn message_pack<A: Serialize>(arguments: &A) -> Bytes {
    codec::encode(arguments, ContentType::MessagePack)
        .expect("arguments of all these types can be encoded")
}
