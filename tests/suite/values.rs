//! Values of every shape, in every content type.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use rpc_core::{ClientBuilder, ErrorKind, RpcError, rpc};
use rpc_tests::unique_queue;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{client_builder, start};
use crate::broker;

#[rpc]
trait Mirror<T: Serialize + DeserializeOwned + Send + Sync + 'static> {
    async fn reflect(value: T) -> T;
}

struct Glass;

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Mirror<T> for Glass {
    async fn reflect(&self, value: T) -> T {
        value
    }
}

/// What comes back in MessagePack, in JSON and as a plain message.
async fn reflect<T>(value: T) -> [Result<T, RpcError>; 3]
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let connection = broker().await.connect().await;
    let queue = unique_queue("mirror");
    let mirror = MirrorDispatcher::<T, Glass>::new(Glass).with_queue(&queue);
    let server = start(&connection, mirror).await;
    let client = |builder: ClientBuilder| MirrorClient::new(builder.build()).with_queue(&queue);
    let reflected = [
        client(client_builder(&connection))
            .reflect(value.clone())
            .await,
        client(client_builder(&connection).json())
            .reflect(value.clone())
            .await,
        client(client_builder(&connection).plain())
            .reflect(value)
            .await,
    ];
    server.shutdown().await.unwrap();
    reflected
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
    for reflected in reflect(everything()).await {
        assert_eq!(reflected.unwrap(), everything());
    }
    for reflected in reflect(i128::MIN).await {
        assert_eq!(reflected.unwrap(), i128::MIN);
    }
}

#[tokio::test]
async fn a_none_within_some_is_written_as_none() {
    for reflected in reflect(Some(None::<u8>)).await {
        assert_eq!(reflected.unwrap(), None);
    }
    for reflected in reflect(Some(())).await {
        assert_eq!(reflected.unwrap(), None);
    }
}

#[tokio::test]
async fn what_json_cannot_hold_is_null_or_an_error() {
    let [message_pack, json, plain] = reflect(f64::INFINITY).await;
    assert_eq!(message_pack.unwrap(), f64::INFINITY);
    assert_eq!(json.unwrap_err().kind(), ErrorKind::BadRequest);
    assert_eq!(plain.unwrap_err().kind(), ErrorKind::BadRequest);
    for reflected in &reflect(Some(f64::NEG_INFINITY)).await[1..] {
        assert_eq!(reflected.as_ref().unwrap(), &None);
    }

    let pairs = BTreeMap::from([((1, 2), 3)]);
    let [message_pack, json, plain] = reflect(pairs.clone()).await;
    assert_eq!(message_pack.unwrap(), pairs);
    assert_eq!(json.unwrap_err().kind(), ErrorKind::Encode);
    assert_eq!(plain.unwrap_err().kind(), ErrorKind::Encode);
}
