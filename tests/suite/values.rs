//! Values of every shape in every content type.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rpc_core::{CallError, ClientBuilder, ErrorKind, RpcError, Server, rpc};
use rpc_tests::unique_queue;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{client_builder, start};
use crate::broker;

#[rpc]
trait Mirror<T: Serialize + DeserializeOwned + Send + Sync + 'static> {
    async fn reflect(value: T) -> T;
}

/// A service with a single method, since a plain request names no method.
#[rpc]
trait Critic<T: Serialize + DeserializeOwned + Send + Sync + 'static> {
    async fn refuse(value: T) -> Result<(), T>;
}

struct Glass;

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Mirror<T> for Glass {
    async fn reflect(&self, value: T) -> T {
        value
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Critic<T> for Glass {
    async fn refuse(&self, value: T) -> Result<(), T> {
        Err(value)
    }
}

/// The result of sending a value to a service and back.
#[derive(Debug)]
struct Reflected<T> {
    result: Result<T, RpcError>,
    error: Result<(), CallError<T>>,
}

/// The responses in MessagePack, in JSON and to a plain request of services that return their argument as value and as error.
async fn reflect<T>(value: T) -> [Reflected<T>; 3]
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let connection = broker().await.connect().await;
    let queues = [unique_queue("mirror"), unique_queue("critic")];
    let server = Server::builder(&connection)
        .service(MirrorDispatcher::<T, Glass>::new(Glass).with_queue(&queues[0]))
        .service(CriticDispatcher::<T, Glass>::new(Glass).with_queue(&queues[1]))
        .build()
        .start()
        .await
        .expect("the server starts");
    let reflected = async |builder: ClientBuilder| {
        let client = builder.build();
        let mirror = MirrorClient::new(client.clone()).with_queue(&queues[0]);
        let critic = CriticClient::new(client).with_queue(&queues[1]);
        Reflected {
            result: mirror.reflect(value.clone()).await,
            error: critic.refuse(value.clone()).await,
        }
    };
    let reflected = [
        reflected(client_builder(&connection)).await,
        reflected(client_builder(&connection).json()).await,
        reflected(client_builder(&connection).plain()).await,
    ];
    server.shutdown().await.unwrap();
    reflected
}

/// Asserts that a value arrives as an argument, as a result and as an application error in every content type.
async fn arrives<T>(value: T)
where
    T: Serialize + DeserializeOwned + Clone + Debug + PartialEq + Send + Sync + 'static,
{
    for reflected in reflect(value.clone()).await {
        assert_eq!(reflected.result.unwrap(), value);
        match reflected.error {
            Err(CallError::App(error)) => assert_eq!(error, value),
            other => panic!("{other:?}"),
        }
    }
}

/// Asserts that a value is refused by its sender for a reason.
fn is_not_sent<T: Debug>(reflected: &Reflected<T>, reason: &str) {
    let Reflected {
        result: Err(result),
        error: Err(CallError::Rpc(error)),
    } = reflected
    else {
        panic!("{reflected:?}");
    };
    for error in [result, error] {
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(!error.may_have_executed());
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    integers: (i8, u64, i64, i128, u128),
    floats: [f64; 4],
    narrow: f32,
    texts: Vec<(char, String)>,
    options: [Option<u8>; 2],
    unit: (),
    keys: BTreeMap<i64, HashMap<char, bool>>,
    external: Vec<External>,
    internal: Vec<Internal>,
    untagged: Vec<Untagged>,
    results: [Result<u8, String>; 2],
    time: Duration,
    address: IpAddr,
    #[serde(rename = "renamed!", default)]
    renamed: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, Option<f64>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum External {
    Unit,
    Newtype(Nested),
    Tuple(u8, String),
    Struct { deep: Vec<Vec<u8>> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Nested(u8);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Internal {
    Empty,
    WithField { field: Option<i64> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u8),
    Text(String),
    Struct { field: f64 },
}

fn everything() -> Everything {
    Everything {
        integers: (i8::MIN, u64::MAX, i64::MIN, i128::MIN, u128::MAX),
        floats: [f64::MAX, f64::MIN_POSITIVE, 0.1, 1.0],
        narrow: 0.1,
        texts: vec![('ß', "a\0\"\\ \u{1F600}".to_owned()), ('\0', String::new())],
        options: [Some(0), None],
        unit: (),
        keys: BTreeMap::from([(-1, HashMap::from([('k', true)])), (1, HashMap::new())]),
        external: vec![
            External::Unit,
            External::Newtype(Nested(1)),
            External::Tuple(2, "two".to_owned()),
            External::Struct {
                deep: vec![vec![], vec![3]],
            },
        ],
        internal: vec![
            Internal::Empty,
            Internal::WithField { field: None },
            Internal::WithField {
                field: Some(i64::MAX),
            },
        ],
        untagged: vec![
            Untagged::Number(4),
            Untagged::Text("5".to_owned()),
            Untagged::Struct { field: 6.5 },
        ],
        results: [Ok(7), Err("eight".to_owned())],
        time: Duration::new(9, 999_999_999),
        address: IpAddr::from([10, 0, 0, 1]),
        renamed: 11,
        rest: BTreeMap::from([("other".to_owned(), Some(12.5)), ("none".to_owned(), None)]),
    }
}

#[tokio::test]
async fn values_of_every_shape_arrive_as_they_were_sent() {
    arrives(everything()).await;
    arrives(i128::MIN).await;
}

#[tokio::test]
async fn floating_point_numbers_arrive_bit_by_bit() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut numbers = vec![117.633_311_394_000_17, 0.1, -0.0, 5e-324, f64::MAX];
    numbers.extend(std::iter::repeat_with(|| f64::from_bits(random.u64(..))).take(2_000));
    numbers.extend(std::iter::repeat_with(|| 1_000.0 * random.f64()).take(2_000));
    numbers.retain(|number| number.is_finite());
    let bits: Vec<u64> = numbers.iter().map(|number| number.to_bits()).collect();
    for reflected in reflect(numbers).await {
        let numbers = reflected.result.unwrap();
        assert!(
            numbers
                .into_iter()
                .map(f64::to_bits)
                .eq(bits.iter().copied())
        );
    }
    let narrow = Vec::from_iter((0..2_000).map(|n| f32::from_bits(n * 1_000_003)));
    arrives(narrow).await;
}

/// Types with one serde form for people and one for machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Session {
    ip: IpAddr,
    port: SocketAddr,
    id: uuid::Uuid,
    chrono: chrono::DateTime<chrono::Utc>,
    time: time::OffsetDateTime,
    jiff: jiff::Timestamp,
    key: serde_bytes::ByteBuf,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Event {
    Login { ip: IpAddr },
    Begun(Session),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
enum Adjacent {
    Login { ip: IpAddr },
    Begun(Session),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Address(IpAddr),
    Session(Session),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Logged {
    line: u64,
    #[serde(flatten)]
    event: Event,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Labelled {
    line: u64,
    #[serde(flatten)]
    labels: BTreeMap<String, Either>,
}

fn session() -> Session {
    let seconds = 1_700_000_000;
    Session {
        ip: "2001:db8::1".parse().unwrap(),
        port: "10.0.0.1:5672".parse().unwrap(),
        id: uuid::Uuid::from_u128(7),
        chrono: chrono::DateTime::from_timestamp(seconds, 8).unwrap(),
        time: time::OffsetDateTime::from_unix_timestamp(seconds).unwrap(),
        jiff: jiff::Timestamp::from_second(seconds).unwrap(),
        key: serde_bytes::ByteBuf::from(vec![0, 0xff]),
    }
}

#[tokio::test]
async fn addresses_ids_and_times_arrive_in_tagged_untagged_and_flattened_types() {
    let ip = IpAddr::from([10, 0, 0, 1]);
    arrives(session()).await;
    arrives(vec![Event::Login { ip }, Event::Begun(session())]).await;
    arrives(vec![Adjacent::Login { ip }, Adjacent::Begun(session())]).await;
    arrives(vec![Either::Address(ip), Either::Session(session())]).await;
    arrives(Labelled {
        line: 1,
        labels: [("from".to_owned(), Either::Address(ip))].into(),
    })
    .await;
    arrives(Logged {
        line: 2,
        event: Event::Login { ip },
    })
    .await;
    arrives(Logged {
        line: 3,
        event: Event::Begun(session()),
    })
    .await;
}

#[tokio::test]
async fn some_of_none_arrives_as_none() {
    for reflected in reflect(Some(None::<u8>)).await {
        assert_eq!(reflected.result.unwrap(), None);
    }
    for reflected in reflect(Some(())).await {
        assert_eq!(reflected.result.unwrap(), None);
    }
}

#[tokio::test]
async fn values_that_json_cannot_represent_are_not_sent() {
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let [message_pack, json, plain] = reflect(Some(number)).await;
        let arrived = message_pack.result.unwrap().unwrap();
        assert_eq!(arrived.to_bits(), number.to_bits());
        is_not_sent(&json, "JSON has no NaN and no infinity");
        is_not_sent(&plain, "JSON has no NaN and no infinity");
    }
    let pairs = BTreeMap::from([((1, 2), 3)]);
    let [message_pack, json, plain] = reflect(pairs.clone()).await;
    assert_eq!(message_pack.result.unwrap(), pairs);
    is_not_sent(&json, "JSON has only texts as the keys of maps");
    is_not_sent(&plain, "JSON has only texts as the keys of maps");
}

/// A type that nests to any depth, with nothing but variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Chain {
    End,
    Link(Box<Chain>),
}

impl Chain {
    fn of(levels: usize) -> Self {
        (1..levels).fold(Self::End, |inner, _| Self::Link(inner.into()))
    }
}

#[rpc]
trait Source {
    async fn number() -> f64;
    async fn failing_number() -> Result<(), f64>;
    async fn chain(levels: usize) -> Chain;
    async fn failing_chain(levels: usize) -> Result<(), Chain>;
}

struct Spring;

impl Source for Spring {
    async fn number(&self) -> f64 {
        f64::NAN
    }

    async fn failing_number(&self) -> Result<(), f64> {
        Err(f64::INFINITY)
    }

    async fn chain(&self, levels: usize) -> Chain {
        Chain::of(levels)
    }

    async fn failing_chain(&self, levels: usize) -> Result<(), Chain> {
        Err(Chain::of(levels))
    }
}

#[tokio::test]
async fn an_argument_nested_too_deep_is_not_sent() {
    // The arguments themselves are one level.
    arrives(Chain::of(127)).await;
    for levels in [128, 1_000] {
        for reflected in reflect(Chain::of(levels)).await {
            is_not_sent(&reflected, "nested deeper than 128 levels");
        }
    }
}

#[tokio::test]
async fn an_invalid_result_is_a_fault_with_the_reason() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("source");
    let server = start(
        &connection,
        SourceDispatcher::new(Spring).with_queue(&queue),
    )
    .await;
    let client = |builder: ClientBuilder| SourceClient::new(builder.build()).with_queue(&queue);
    let message_pack = client(client_builder(&connection));
    let json = client(client_builder(&connection).json());
    let fault = |error: RpcError, reason: &str| {
        assert_eq!(error.kind(), ErrorKind::BadReply);
        assert!(error.may_have_executed());
        assert!(error.to_string().contains(reason), "{error}");
    };
    fn own<T: Debug, E: Debug>(answer: Result<T, CallError<E>>) -> RpcError {
        match answer {
            Err(CallError::Rpc(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    assert!(message_pack.number().await.unwrap().is_nan());
    fault(json.number().await.unwrap_err(), "JSON has no NaN");
    fault(own(json.failing_number().await), "JSON has no NaN");
    for source in [message_pack, json] {
        assert_eq!(source.chain(128).await.unwrap(), Chain::of(128));
        for levels in [129, 1_000] {
            let reason = "nested deeper than 128 levels";
            fault(source.chain(levels).await.unwrap_err(), reason);
            fault(own(source.failing_chain(levels).await), reason);
        }
    }
    server.shutdown().await.unwrap();
}
