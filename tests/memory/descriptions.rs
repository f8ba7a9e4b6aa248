//! Descriptions of services: docs, versions, and the types of arguments, results and errors.

use std::collections::BTreeMap;

use rpc_core::instances::{Contract, MethodInfo, MethodKind, ServiceClient, ServiceInfo, TypeInfo};
use rpc_core::{Context, Dispatch, Stream, rpc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

type Outcome<T> = Result<T, Refusal>;

/// Keeps parcels.
///
///   - in order
#[rpc(timeout = "5s")]
trait Parcels {
    /// Registers a parcel.
    ///
    /// Returns its number.
    async fn register(
        parcel: Parcel,
        #[ctx] cx: Context,
        note: Option<String>,
        #[serde(default)] copies: u8,
        #[serde(rename = "type")] kind: MaybeText,
    ) -> Outcome<(u64, Vec<Parcel>)>;

    #[doc = include_str!("descriptions.md")]
    #[rpc(oneway)]
    async fn seen(
        #[serde(with = "serde_bytes")] place: Vec<u8>,
        #[serde(with = "serde_bytes")] more: Option<Vec<u8>>,
    );

    /** A block. */
    #[cfg(any())]
    async fn absent(n: u64) -> u64;

    #[rpc(queue = "rpc.Parcels.labels", name = "print")]
    async fn label(opaque: Opaque) -> BTreeMap<String, Opaque>;

    #[cfg(test)]
    async fn present();
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Parcel {
    /// Receiver of the parcel.
    to: String,
    #[serde(default)]
    weight: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Refusal;

/// A type without a schema.
#[derive(Serialize, Deserialize)]
struct Opaque;

/// A type that is read like an `Option`.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct MaybeText(Option<String>);

#[rpc(version = "7.1-beta")]
trait Store<T: Serialize + serde::de::DeserializeOwned + Send + 'static, const N: usize> {
    async fn put(value: T, values: Vec<T>, #[serde(default)] number: u64) -> Result<T, [u8; 2]>;
}

/// All shapes of streams.
#[rpc]
trait Feeds {
    async fn watch(from: u64) -> impl Stream<Item = Outcome<Parcel>>;
    async fn open(from: u64) -> Result<impl Stream<Item = Parcel>, Refusal>;
    async fn load(
        #[ctx] cx: Context,
        parcels: impl Stream<Item = Parcel>,
        note: Option<String>,
    ) -> Outcome<u64>;
    async fn sort(parcels: impl Stream<Item = Opaque>) -> impl Stream<Item = u8>;
}

struct Office;

impl Parcels for Office {
    async fn register(
        &self,
        _: Parcel,
        _: Context,
        _: Option<String>,
        _: u8,
        _: MaybeText,
    ) -> Outcome<(u64, Vec<Parcel>)> {
        Err(Refusal)
    }

    async fn seen(&self, _: Vec<u8>, _: Option<Vec<u8>>) {}

    async fn label(&self, _: Opaque) -> BTreeMap<String, Opaque> {
        BTreeMap::new()
    }

    async fn present(&self) {}
}

impl Store<String, 2> for Office {
    async fn put(&self, value: String, _: Vec<String>, _: u64) -> Result<String, [u8; 2]> {
        Ok(value)
    }
}

fn parcels() -> ServiceInfo {
    ParcelsDispatcher::new(Office).dispatcher().describe()
}

fn method(info: &ServiceInfo, name: &str) -> MethodInfo {
    let mut methods = info.methods.iter();
    let found = methods.find(|method| method.name == name);
    found.expect("the service has the method").clone()
}

#[test]
fn docs_are_those_of_the_trait() {
    let info = parcels();
    assert_eq!(info.docs.as_deref(), Some("Keeps parcels.\n\n  - in order"));
    let docs = |name| method(&info, name).docs;
    assert_eq!(
        docs("register").as_deref(),
        Some("Registers a parcel.\n\nReturns its number.")
    );
    assert_eq!(
        docs("seen").as_deref(),
        Some("# Seen\n\nReports a place:\n\n - as bytes")
    );
    assert_eq!(docs("print"), None);
}

#[test]
fn methods_that_are_configured_out_are_not_described() {
    let info = parcels();
    let names: Vec<_> = info.methods.iter().map(|method| &*method.name).collect();
    assert_eq!(names, ["register", "seen", "print", "present"]);
    // The types stay with their methods.
    assert_eq!(method(&info, "present").result.rust, "()");
    assert_eq!(method(&info, "print").arguments[0].ty.rust, "Opaque");
}

#[test]
fn types_are_named_without_paths() {
    let info = parcels();
    let register = method(&info, "register");
    let arguments: Vec<_> = register
        .arguments
        .iter()
        .map(|argument| (&*argument.name, &*argument.ty.rust))
        .collect();
    assert_eq!(
        arguments,
        [
            ("parcel", "Parcel"),
            ("note", "Option<String>"),
            ("copies", "u8"),
            ("type", "MaybeText")
        ]
    );
    assert_eq!(register.result.rust, "(u64, Vec<Parcel>)");
    assert_eq!(
        register.error.map(|error| error.rust).as_deref(),
        Some("Refusal")
    );
    assert_eq!(method(&info, "seen").kind, MethodKind::Oneway);
    let print = method(&info, "print");
    assert_eq!(print.result.rust, "BTreeMap<String, Opaque>");
    assert_eq!(print.error, None);
    assert_eq!(print.queue.as_deref(), Some("rpc.Parcels.labels"));
}

#[test]
fn streams_are_described_by_their_items() {
    let info = FeedsClient::<()>::service_info();
    let served = FeedsClient::<()>::served_info();
    let rust = |ty: Option<&TypeInfo>| ty.map(|ty| ty.rust.clone());
    let seen = |name| {
        let method = method(&info, name);
        let result = method.result.rust.clone();
        let errors = [method.error.as_ref(), method.item_error.as_ref()].map(rust);
        (method.kind, result, errors)
    };
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(
        ["watch", "open", "load", "sort"].map(seen),
        [
            (
                MethodKind::ServerStreaming,
                "Parcel".into(),
                [None, some("Refusal")]
            ),
            (
                MethodKind::ServerStreaming,
                "Parcel".into(),
                [some("Refusal"), None]
            ),
            (
                MethodKind::ClientStreaming,
                "u64".into(),
                [some("Refusal"), None]
            ),
            (MethodKind::Bidirectional, "u8".into(), [None, None]),
        ]
    );
    let load = method(&info, "load");
    let arguments: Vec<_> = load
        .arguments
        .iter()
        .map(|argument| {
            (
                &*argument.name,
                &*argument.ty.rust,
                argument.stream,
                argument.optional,
            )
        })
        .collect();
    assert_eq!(
        arguments,
        [
            ("parcels", "Parcel", true, false),
            ("note", "Option<String>", false, true)
        ]
    );
    // A server sends all fields, and reads a parcel without a weight.
    let required =
        |schema: &Option<String>| schema.as_ref().unwrap().contains(r#"["to","weight"]"#);
    let (watch, load) = (method(&served, "watch"), method(&served, "load"));
    assert!(required(&watch.result.schema));
    assert!(!required(&load.arguments[0].ty.schema));
    assert!(watch.item_error.unwrap().schema.is_some());
    assert_eq!(info.contract, served.contract);
    assert_eq!(info.compare(&served), Contract::Same);
}

#[test]
fn arguments_are_optional_if_serde_reads_a_request_without_them() {
    let info = parcels();
    let optional = |name, position: usize| method(&info, name).arguments[position].optional;
    assert!(!optional("register", 0));
    assert!(optional("register", 1), "an option");
    assert!(optional("register", 2), "a default");
    assert!(optional("register", 3), "a type like an option");
    assert!(!optional("seen", 0));
    assert!(!optional("seen", 1), "serde requires fields with functions");
}

#[test]
fn types_that_implement_json_schema_have_one() {
    let info = parcels();
    let register = method(&info, "register");
    let schema = register.arguments[0].ty.schema.as_deref().unwrap();
    assert!(schema.contains("https://json-schema.org/draft/2020-12/schema"));
    assert!(schema.contains("Receiver of the parcel."), "{schema}");
    // A server requires fewer fields than it sends.
    assert!(schema.contains(r#""required":["to"]"#), "{schema}");
    let schema = register.result.schema.as_deref().unwrap();
    assert!(schema.contains(r#""required":["to","weight"]"#), "{schema}");
    assert!(register.error.unwrap().schema.is_some());
    // Another form than that of the type, and no form that is known.
    assert_eq!(method(&info, "seen").arguments[0].ty.schema, None);
    assert_eq!(method(&info, "print").result.schema, None);
}

#[test]
fn a_generic_trait_has_schemas_for_types_that_it_names() {
    let client = StoreClient::<String, 2, ()>::service_info();
    let put = method(&client, "put");
    assert_eq!(put.arguments[0].ty.rust, "String");
    assert_eq!(put.arguments[0].ty.schema, None);
    assert_eq!(put.arguments[1].ty.rust, "Vec<String>");
    assert_eq!(put.arguments[1].ty.schema, None);
    assert!(put.arguments[2].ty.schema.is_some());
    assert_eq!(
        put.error.map(|error| error.rust).as_deref(),
        Some("[u8; 2]")
    );
    // Another type is another contract.
    let other = StoreClient::<u64, 2, ()>::service_info();
    assert_ne!(client.contract, other.contract);
    let contract = other.compare(&client);
    assert_eq!(
        contract.differences()[0].to_string(),
        "incompatible: method 'put': argument 'value': 'u64' is read as 'String': cannot be decided without schemas of both sides"
    );
    let dispatcher = StoreDispatcher::<String, 2, _>::new(Office);
    assert_eq!(dispatcher.dispatcher().describe().contract, client.contract);
}

#[test]
fn the_version_is_that_of_the_dispatcher_the_trait_or_the_crate() {
    assert_eq!(parcels().version, env!("CARGO_PKG_VERSION"));
    let store = StoreDispatcher::<String, 2, _>::new(Office);
    assert_eq!(store.dispatcher().describe().version, "7.1-beta");
    let store = store.with_version(String::from("8"));
    assert_eq!(store.dispatcher().describe().version, "8");
    assert_eq!(store.clone().dispatcher().describe().version, "8");
    assert_eq!(StoreClient::<u8, 0, ()>::service_info().version, "7.1-beta");
}
