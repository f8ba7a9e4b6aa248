//! Tests with arbitrary values of many types, in every place of a message and in both formats.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, LinkedList, VecDeque};
use std::ffi::{CString, OsString};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZero, Saturating, Wrapping};
use std::ops::{Bound, Range, RangeInclusive};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::collection::{btree_map, btree_set, hash_map, hash_set, vec};
use proptest::option;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::*;

/// A list as nested pairs. Proptest limits the length of tuples, not the nesting of pairs.
macro_rules! pairs {
    ($end:expr;) => { $end };
    ($end:expr; $first:expr, $($rest:tt)*) => { ($first, pairs!($end; $($rest)*)).boxed() };
}

macro_rules! pairs_of_names {
    () => { () };
    ($first:ident $($rest:ident)*) => { ($first, pairs_of_names!($($rest)*)) };
}

/// A struct with a field for each of many types, and arbitrary values of it.
macro_rules! many {
    ($name:ident { $($field:ident: $type:ty = $strategy:expr,)* }) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        struct $name {
            $($field: $type,)*
        }

        impl $name {
            fn any() -> impl Strategy<Value = Self> {
                $(let $field: BoxedStrategy<$type> = $strategy.boxed();)*
                pairs!(Just(()); $($field,)*)
                    .prop_map(|pairs_of_names!($($field)*)| Self { $($field,)* })
            }
        }
    };
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..6).prop_map(String::from_iter)
}

fn seconds() -> impl Strategy<Value = i64> {
    // The years from 0000 to 9999, to which RFC 3339 and ISO 8601 are limited.
    -62_167_219_200_i64..=253_402_300_799
}

fn chrono_time() -> impl Strategy<Value = chrono::DateTime<chrono::Utc>> {
    (seconds(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| {
        chrono::DateTime::from_timestamp(seconds, nanos).expect("within the limits")
    })
}

fn time_time() -> impl Strategy<Value = time::OffsetDateTime> {
    (seconds(), 0..1_000_000_000_i64).prop_map(|(seconds, nanos)| {
        let time = time::OffsetDateTime::from_unix_timestamp(seconds).expect("within the limits");
        time.replace_nanosecond(nanos as u32)
            .expect("less than a second")
    })
}

fn jiff_time() -> impl Strategy<Value = jiff::Timestamp> {
    (seconds(), 0..1_000_000_000_i32)
        .prop_map(|(seconds, nanos)| jiff::Timestamp::new(seconds, nanos))
        .prop_filter_map("outside of the limits", Result::ok)
}

fn utc(time: jiff::Timestamp) -> jiff::ZonedDateTime {
    time.to_zoned_datetime(jiff::tz::TimeZone::UTC)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Name(String);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Marker;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Key {
    First,
    SecondOne,
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![Just(Key::First), Just(Key::SecondOne)]
}

many! {
    // Types that arrive in every place.
    Anywhere {
        boolean: bool = any::<bool>(),
        unsigned: (u8, u16, u32, u64, usize) = any::<(u8, u16, u32, u64, usize)>(),
        signed: (i8, i16, i32, i64, isize) = any::<(i8, i16, i32, i64, isize)>(),
        float: f64 = any::<f64>(),
        floats: Vec<f64> = vec(any::<f64>(), 0..4),
        narrow: f32 = any::<f32>(),
        extremes: [f64; 4] = Just([f64::MIN, f64::from_bits(1), -0.0, f64::EPSILON]),
        character: char = any::<char>(),
        string: String = text(),
        unit: () = Just(()),
        maybe: Option<u16> = any::<Option<u16>>(),
        maybe_text: Option<String> = option::of(text()),
        result: Result<u8, String> = any::<Result<u8, String>>(),
        list: Vec<Option<i8>> = vec(any::<Option<i8>>(), 0..4),
        bytes: ByteBuf = vec(any::<u8>(), 0..9).prop_map(ByteBuf::from),
        numbers: Vec<u8> = vec(any::<u8>(), 0..9),
        array: [u8; 3] = any::<[u8; 3]>(),
        tuple: (i8, String, (bool, u64)) = any::<(i8, String, (bool, u64))>(),
        deque: VecDeque<u32> = vec(any::<u32>(), 0..3).prop_map(VecDeque::from),
        linked: LinkedList<u8> = vec(any::<u8>(), 0..3).prop_map(LinkedList::from_iter),
        set: BTreeSet<String> = btree_set(text(), 0..4),
        hash_set: HashSet<i32> = hash_set(any::<i32>(), 0..2),
        map: BTreeMap<String, i64> = btree_map(text(), any::<i64>(), 0..4),
        hash_map: HashMap<String, bool> = hash_map(text(), any::<bool>(), 0..2),
        by_name: BTreeMap<Name, f32> = btree_map(text().prop_map(Name), any::<f32>(), 0..3),
        by_key: BTreeMap<Key, ()> = btree_map(key(), Just(()), 0..3),
        by_character: BTreeMap<char, u8> = btree_map(any::<char>(), any::<u8>(), 0..3),
        by_address: BTreeMap<IpAddr, u8> = btree_map(any::<IpAddr>(), any::<u8>(), 0..3),
        by_id: BTreeMap<uuid::Uuid, u8> = btree_map(any::<u128>().prop_map(uuid::Uuid::from_u128), any::<u8>(), 0..3),
        nested: BTreeMap<String, BTreeMap<String, Vec<u8>>> =
            btree_map(text(), btree_map(text(), vec(any::<u8>(), 0..3), 0..3), 0..3),
        boxed: Box<str> = text().prop_map(Into::into),
        shared: Arc<str> = text().prop_map(Into::into),
        counted: Rc<[u16]> = vec(any::<u16>(), 0..3).prop_map(Into::into),
        cow: Cow<'static, str> = text().prop_map(Cow::Owned),
        non_zero: NonZero<u32> = any::<NonZero<u32>>(),
        wrapping: Wrapping<i16> = any::<i16>().prop_map(Wrapping),
        saturating: Saturating<u8> = any::<u8>().prop_map(Saturating),
        range: Range<i32> = any::<Range<i32>>(),
        inclusive: RangeInclusive<u8> = any::<RangeInclusive<u8>>(),
        bounds: (Bound<i8>, Bound<i8>) = any::<i8>().prop_map(|n| (Bound::Included(n), Bound::Excluded(n))),
        bound: Bound<String> = prop_oneof![Just(Bound::Unbounded), text().prop_map(Bound::Excluded)],
        duration: Duration = any::<Duration>(),
        system_time: SystemTime = (0..1_u64 << 40, 0..1_000_000_000_u32)
            .prop_map(|(seconds, nanos)| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)),
        path: PathBuf = text().prop_map(PathBuf::from),
        os_text: OsString = text().prop_map(OsString::from),
        c_text: CString = vec(1_u8.., 0..4).prop_map(|bytes| CString::new(bytes).expect("no zeros")),
        address: IpAddr = any::<IpAddr>(),
        v4: Ipv4Addr = any::<Ipv4Addr>(),
        v6: Ipv6Addr = any::<Ipv6Addr>(),
        socket: SocketAddr = any::<SocketAddr>(),
        id: uuid::Uuid = any::<u128>().prop_map(uuid::Uuid::from_u128),
        chrono_utc: chrono::DateTime<chrono::Utc> = chrono_time(),
        chrono_offset: chrono::DateTime<chrono::FixedOffset> = chrono_time().prop_map(Into::into),
        chrono_local: chrono::NaiveDateTime = chrono_time().prop_map(|time| time.naive_utc()),
        chrono_date: chrono::NaiveDate = chrono_time().prop_map(|time| time.date_naive()),
        chrono_clock: chrono::NaiveTime = chrono_time().prop_map(|time| time.time()),
        chrono_span: chrono::TimeDelta = any::<i64>().prop_map(chrono::TimeDelta::nanoseconds),
        time_offset: time::OffsetDateTime = time_time(),
        time_local: time::PrimitiveDateTime = time_time().prop_map(|time| time::PrimitiveDateTime::new(time.date(), time.time())),
        time_date: time::Date = time_time().prop_map(time::OffsetDateTime::date),
        time_clock: time::Time = time_time().prop_map(time::OffsetDateTime::time),
        time_span: time::Duration = any::<i64>().prop_map(time::Duration::nanoseconds),
        jiff_timestamp: jiff::Timestamp = jiff_time(),
        jiff_local: jiff::civil::DateTime = jiff_time().prop_map(|time| utc(time).datetime()),
        jiff_date: jiff::civil::Date = jiff_time().prop_map(|time| utc(time).date()),
        jiff_clock: jiff::civil::Time = jiff_time().prop_map(|time| utc(time).time()),
        jiff_span: jiff::SignedDuration = any::<i64>().prop_map(jiff::SignedDuration::from_nanos),
    }
}

many! {
    // Types that do not arrive inside tagged, untagged and flattened types.
    Direct {
        marker: Marker = Just(Marker),
        wide: (i128, u128) = any::<(i128, u128)>(),
        non_zero: NonZero<u128> = any::<NonZero<u128>>(),
        by_number: BTreeMap<i64, String> = btree_map(any::<i64>(), text(), 0..3),
        by_byte: BTreeMap<u8, BTreeMap<u64, ()>> =
            btree_map(any::<u8>(), btree_map(any::<u64>(), Just(()), 0..3), 0..3),
        by_wide: BTreeMap<u128, i128> = btree_map(any::<u128>(), any::<i128>(), 0..3),
        by_boolean: BTreeMap<bool, u8> = btree_map(any::<bool>(), any::<u8>(), 0..3),
        anywhere: Anywhere = Anywhere::any(),
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Newtype<T>(T);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pair<T>(T, u8);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Named<T> {
    value: T,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum External<T> {
    UnitVariant,
    New(T),
    Tuple(T, u8),
    Struct { first_value: T, other: Option<T> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Internal<T> {
    Unit,
    New(Named<T>),
    Struct { value: T },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
enum Adjacent<T> {
    Unit,
    New(T),
    Tuple(T, u8),
    Struct { value: T },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged<T> {
    Nothing,
    Tuple(T, u8),
    Struct { field: T },
    New(T),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat<T> {
    first: u8,
    #[serde(flatten)]
    rest: Named<T>,
    #[serde(flatten)]
    others: BTreeMap<String, Option<T>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FlatVariant<T> {
    first: u8,
    #[serde(flatten)]
    variant: Internal<T>,
}

/// A value in all places that serde decodes directly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Clone + Deserialize<'de>"))]
struct Places<T: Clone + 'static> {
    plain: T,
    option: Option<T>,
    missing: Option<T>,
    list: Vec<T>,
    array: [Option<T>; 2],
    tuple: (T, u8),
    newtype: Newtype<T>,
    pair: Pair<T>,
    map: BTreeMap<String, Named<T>>,
    results: [Result<T, T>; 2],
    boxed: Box<T>,
    shared: Arc<T>,
    cow: Cow<'static, T>,
    external: [External<T>; 4],
    adjacent: [Adjacent<T>; 4],
}

impl<T: Clone + 'static> Places<T> {
    fn of(value: &T) -> Self {
        let value = || value.clone();
        Self {
            plain: value(),
            option: Some(value()),
            missing: None,
            list: vec![value(), value()],
            array: [None, Some(value())],
            tuple: (value(), 1),
            newtype: Newtype(value()),
            pair: Pair(value(), 2),
            map: [("key".to_owned(), Named { value: value() })].into(),
            results: [Ok(value()), Err(value())],
            boxed: value().into(),
            shared: value().into(),
            cow: Cow::Owned(value()),
            external: [
                External::UnitVariant,
                External::New(value()),
                External::Tuple(value(), 3),
                External::Struct {
                    first_value: value(),
                    other: Some(value()),
                },
            ],
            adjacent: [
                Adjacent::Unit,
                Adjacent::New(value()),
                Adjacent::Tuple(value(), 4),
                Adjacent::Struct { value: value() },
            ],
        }
    }
}

/// A value in the places where serde buffers it until the type is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Clone + Deserialize<'de>"))]
struct BufferedPlaces<T: Clone + 'static> {
    internal: [Internal<T>; 3],
    untagged: [Untagged<T>; 4],
    flat: Flat<T>,
    flat_variant: FlatVariant<T>,
    nested: Internal<Adjacent<Untagged<External<T>>>>,
    places: Internal<Places<T>>,
}

impl<T: Clone + 'static> BufferedPlaces<T> {
    fn of(value: &T) -> Self {
        let places = Places::of(value);
        let value = || value.clone();
        let field = || External::Tuple(value(), 5);
        Self {
            internal: [
                Internal::Unit,
                Internal::New(Named { value: value() }),
                Internal::Struct { value: value() },
            ],
            untagged: [
                Untagged::Nothing,
                Untagged::Tuple(value(), 6),
                Untagged::Struct { field: value() },
                Untagged::New(value()),
            ],
            flat: Flat {
                first: 7,
                rest: Named { value: value() },
                others: [
                    ("other".to_owned(), Some(value())),
                    ("none".to_owned(), None),
                ]
                .into(),
            },
            flat_variant: FlatVariant {
                first: 8,
                variant: Internal::Struct { value: value() },
            },
            nested: Internal::Struct {
                value: Adjacent::New(Untagged::Struct { field: field() }),
            },
            places: Internal::New(Named { value: places }),
        }
    }
}

/// Arguments of a method, as its client declares them.
#[derive(Serialize, Deserialize, Debug)]
struct Arguments<T> {
    first: T,
    #[serde(rename = "type")]
    second: Option<T>,
    last: u8,
}

/// Arguments of a method with one argument.
#[derive(Serialize, Deserialize, Debug)]
struct One<T> {
    n: T,
}

/// Arguments of the same method after a change: reordered, with a new argument, and without an old one.
#[derive(Serialize, Deserialize, Debug)]
struct Changed<T> {
    last: u8,
    new: Option<T>,
    first: T,
}

/// Checks that two values are equal to the bit: `==` ignores the sign of zero.
fn same<T: Debug>(read: Result<T, BoxError>, sent: &T, place: &str) -> Result<(), TestCaseError> {
    let read = read.map_err(|error| TestCaseError::fail(format!("{place}: {error}")))?;
    let (read, sent) = (format!("{read:?}"), format!("{sent:?}"));
    prop_assert_eq!(read, sent, "{}", place);
    Ok(())
}

/// Encodes arguments like a client that uses the format.
fn send<A: Serialize + DeserializeOwned>(
    arguments: &A,
    format: ContentType,
    names: &[&str],
) -> Result<Bytes, BoxError> {
    let body = encode(arguments, ContentType::MessagePack)?;
    match format {
        ContentType::MessagePack => Ok(body),
        _ => recode_arguments::<A>(&body, format, names),
    }
}

/// Sends a value as a result, and as an argument in all forms that servers accept.
fn arrives<T>(value: &T, format: ContentType) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + Clone + Debug,
{
    let body = encode(value, format).map_err(fail)?;
    same(decode(&body, format), value, "as a result")?;

    let names = ["first", "type", "last"];
    let arguments = Arguments {
        first: value.clone(),
        second: Some(value.clone()),
        last: 9,
    };
    let body = send(&arguments, format, &names).map_err(fail)?;
    same(
        decode_arguments(&body, format, &names),
        &arguments,
        "as an argument",
    )?;
    let changed = Changed {
        last: 9,
        new: None,
        first: value.clone(),
    };
    let read = decode_arguments(&body, format, &["last", "new", "first"]);
    same(read, &changed, "as an argument of another version")?;

    let array = encode(&(value, Some(value), 9), format).map_err(fail)?;
    let read = decode_arguments(&array, format, &names);
    same(read, &arguments, "as an argument without a name")?;

    let only = One { n: value.clone() };
    let body = send(&only, format, &["n"]).map_err(fail)?;
    same(
        decode_arguments(&body, format, &["n"]),
        &only,
        "as the only argument",
    )
}

fn fail(error: BoxError) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

/// The formats of this build, plain messages included.
fn formats() -> impl Iterator<Item = ContentType> {
    let all = [
        ContentType::MessagePack,
        ContentType::Json,
        ContentType::Plain,
    ];
    all.into_iter().filter(|format| format.is_supported())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_arrive_as_they_were_sent(value in Direct::any().prop_map(Box::new)) {
        for format in formats() {
            arrives(&Places::of(&value), format)?;
        }
    }

    #[test]
    fn values_arrive_in_tagged_untagged_and_flattened_types(value in Anywhere::any().prop_map(Box::new)) {
        for format in formats() {
            arrives(&BufferedPlaces::of(&value), format)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_arrive_to_the_last_bit(wide: u64, narrow: u32) {
        let (wide, narrow) = (f64::from_bits(wide), f32::from_bits(narrow));
        for format in formats() {
            for number in [wide, f64::from(narrow), wide.fract()] {
                if number.is_finite() || format == ContentType::MessagePack {
                    let body = encode(&number, format).unwrap();
                    let read: f64 = decode(&body, format).unwrap();
                    prop_assert_eq!(read.to_bits(), number.to_bits());
                } else {
                    encode(&number, format).unwrap_err();
                }
            }
            if narrow.is_finite() || format == ContentType::MessagePack {
                let body = encode(&narrow, format).unwrap();
                let read: f32 = decode(&body, format).unwrap();
                prop_assert_eq!(read.to_bits(), narrow.to_bits());
            } else {
                encode(&narrow, format).unwrap_err();
            }
        }
    }
}

/// The exceptions that PROTOCOL.md lists: values that do not arrive because of serde or a format.
mod exceptions {
    use super::*;

    /// Sends a value as a result. An error begins with the side that refused the value.
    fn transmit<T: Serialize + DeserializeOwned>(
        value: &T,
        format: ContentType,
    ) -> Result<T, String> {
        let body = encode(value, format).map_err(|error| format!("sender: {error}"))?;
        decode(&body, format).map_err(|error| format!("receiver: {error}"))
    }

    fn is_refused_by<T: Serialize + DeserializeOwned>(side: &str, value: &T, format: ContentType) {
        let error = transmit(value, format).err().expect("refused");
        assert!(error.starts_with(side), "{error}");
    }

    #[test]
    fn option_of_a_value_encoded_as_null_arrives_as_none() {
        for format in formats() {
            assert_eq!(transmit(&Some(None::<u8>), format).unwrap(), None);
            assert_eq!(transmit(&Some(()), format).unwrap(), None);
            let marker = transmit(&Some(Marker), format).unwrap();
            let is_nothing_in_json = format != ContentType::MessagePack;
            assert_eq!(marker.is_none(), is_nothing_in_json);
        }
    }

    /// A field that is absent, null or a value is the usual form of a patch. For this reason, `Some(None)` is not refused.
    #[test]
    fn nested_option_arrives_with_a_custom_deserializer() {
        fn present<'de, D: serde::Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Option<u8>>, D::Error> {
            Option::deserialize(deserializer).map(Some)
        }

        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Change {
            #[serde(
                default,
                skip_serializing_if = "Option::is_none",
                deserialize_with = "present"
            )]
            limit: Option<Option<u8>>,
        }

        for limit in [None, Some(None), Some(Some(7))] {
            for format in formats() {
                let change = Change { limit };
                assert_eq!(transmit(&change, format).unwrap(), change);
            }
        }
    }

    #[test]
    fn serde_does_not_buffer_integers_of_128_bits() {
        for format in formats() {
            let sent = Internal::Struct { value: u128::MAX };
            is_refused_by("receiver", &sent, format);
            is_refused_by("receiver", &Untagged::New(i128::MIN), format);
        }
    }

    #[test]
    fn serde_reads_buffered_keys_of_json_as_text() {
        let numbers = BTreeMap::from([(1, 2)]);
        let flags = BTreeMap::from([(true, 2)]);
        for format in formats() {
            if format == ContentType::MessagePack {
                let sent = Internal::Struct {
                    value: numbers.clone(),
                };
                assert_eq!(transmit(&sent, format).unwrap(), sent);
                let sent = Untagged::New(flags.clone());
                assert_eq!(transmit(&sent, format).unwrap(), sent);
            } else {
                let sent = Internal::Struct {
                    value: numbers.clone(),
                };
                is_refused_by("receiver", &sent, format);
                is_refused_by("receiver", &Untagged::New(flags.clone()), format);
            }
        }
    }

    #[test]
    fn serde_does_not_read_an_empty_array_as_a_buffered_unit_struct() {
        for format in formats() {
            let sent = Untagged::Struct { field: Marker };
            if format == ContentType::MessagePack {
                is_refused_by("receiver", &sent, format);
            } else {
                assert_eq!(transmit(&sent, format).unwrap(), sent);
            }
        }
    }

    #[test]
    fn sender_refuses_values_that_a_format_lacks() {
        let tuples = BTreeMap::from([((1, 2), 3)]);
        let nothing = BTreeMap::from([(None::<u8>, 3)]);
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        for format in formats() {
            is_refused_by("sender", &early, format);
            if format == ContentType::MessagePack {
                assert_eq!(transmit(&tuples, format).unwrap(), tuples);
                assert_eq!(transmit(&nothing, format).unwrap(), nothing);
                assert!(transmit(&f64::NAN, format).unwrap().is_nan());
                assert_eq!(transmit(&f32::INFINITY, format).unwrap(), f32::INFINITY);
                continue;
            }
            for keys in [
                transmit(&tuples, format).err(),
                transmit(&nothing, format).err(),
            ] {
                let error = keys.expect("keys that JSON lacks");
                assert!(error.starts_with("sender: JSON has only texts"), "{error}");
            }
            for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for error in [
                    transmit(&number, format).err(),
                    transmit(&(number as f32), format).err(),
                    transmit(&Some(vec![number]), format).err(),
                    transmit(
                        &Flat {
                            first: 1,
                            rest: Named { value: number },
                            others: BTreeMap::new(),
                        },
                        format,
                    )
                    .err(),
                    transmit(&Internal::New(Named { value: number }), format).err(),
                    send(&One { n: number }, format, &["n"])
                        .err()
                        .map(|error| format!("sender: {error}")),
                ] {
                    let error = error.expect("a number that JSON lacks");
                    assert!(error.starts_with("sender: JSON has no NaN"), "{error}");
                }
            }
        }
    }
}
