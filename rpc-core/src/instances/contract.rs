//! Comparison of the contract that a client was compiled with and the contract that an instance serves.
//!
//! The guide's page on [evolution](crate::guide::evolution) has the rules. A difference counts as compatible if no value breaks a call
//! because of it. `schema` compares the types.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::info::{ArgumentInfo, MethodInfo, MethodKind, ServiceInfo, TypeInfo};
use super::schema;

/// Limit of the work for the schemas of a contract, which may come from a stranger: the steps of comparing all its types.
const MAX_STEPS: u32 = 200_000;

/// A client that `#[rpc]` generated.
///
/// `#[rpc]` implements this for the client of a trait; do not implement it by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a generated client",
    note = "name the client that `#[rpc]` generates: for `trait Fib`, `FibClient`"
)]
pub trait ServiceClient {
    /// Returns the contract that the client was compiled with. The queues are those of the trait.
    ///
    /// ```
    /// use rpc_core::instances::ServiceClient;
    /// use rpc_core::rpc;
    ///
    /// #[rpc(version = "2.1")]
    /// pub trait Fib {
    ///     /// The n-th Fibonacci number.
    ///     async fn fib(n: u64) -> u64;
    /// }
    ///
    /// let info = <FibClient as ServiceClient>::service_info();
    /// assert_eq!((&*info.name, &*info.version), ("Fib", "2.1"));
    /// let method = &info.methods[0];
    /// assert_eq!(method.docs.as_deref(), Some("The n-th Fibonacci number."));
    /// assert_eq!(method.arguments[0].ty.rust, "u64");
    /// ```
    fn service_info() -> ServiceInfo;

    /// Returns the contract as an instance serves it that was compiled with the same trait. Tests and pipelines
    /// [compare](ServiceInfo::compare) the contract of another version with this one, without a broker.
    ///
    /// The two sides of a contract differ in their schemas, because serde may read a type more leniently than it writes the type.
    fn served_info() -> ServiceInfo;
}

/// Relation between the contract of a client and the contract that an instance serves.
///
/// A contract shows the fields and variants of a type only if it has a schema of the type. **Without the feature `schema` on both sides, a type
/// that changed under the same name counts as the same**, although its calls may fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contract {
    /// The contracts do not differ, as far as they show.
    Same,
    /// Every call works, as far as the contracts show. At least one difference.
    Compatible(Vec<Difference>),
    /// Some calls fail, or may fail. At least one of the differences is incompatible. The incompatible ones come first.
    Incompatible(Vec<Difference>),
}

impl Contract {
    /// Returns `true` unless the contract is incompatible.
    #[must_use]
    pub fn is_compatible(&self) -> bool {
        !matches!(self, Self::Incompatible(_))
    }

    /// Returns all differences.
    #[must_use]
    pub fn differences(&self) -> &[Difference] {
        match self {
            Self::Same => &[],
            Self::Compatible(differences) | Self::Incompatible(differences) => differences,
        }
    }
}

impl From<Vec<Difference>> for Contract {
    /// Judges all differences together.
    fn from(mut differences: Vec<Difference>) -> Self {
        // A stable sort: apart from this, differences stay in the order of the methods.
        differences.sort_by_key(|difference| difference.compatible);
        match differences.first() {
            None => Self::Same,
            Some(first) if first.compatible => Self::Compatible(differences),
            Some(_) => Self::Incompatible(differences),
        }
    }
}

/// One difference between two contracts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Difference {
    /// Name of the method; `None` if the difference concerns the service.
    pub method: Option<String>,
    /// Name of the argument; `None` if the difference concerns the whole method.
    pub argument: Option<String>,
    /// Description of the difference, for people: "only the client has the method".
    pub what: String,
    /// `true` if every call works in spite of the difference.
    pub compatible: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.compatible {
            true => "compatible: ",
            false => "incompatible: ",
        })?;
        if let Some(method) = &self.method {
            write!(f, "method '{method}': ")?;
        }
        if let Some(argument) = &self.argument {
            write!(f, "argument '{argument}': ")?;
        }
        f.write_str(&self.what)
    }
}

impl ServiceInfo {
    /// Compares this contract, as a client's, with the contract that an instance serves.
    ///
    /// The rules are those of the guide's page on [evolution](crate::guide::evolution#comparing-contracts), as far as they show in a
    /// contract. Types with the same Rust name are the same, unless both descriptions have schemas and the schemas differ. Types with
    /// different names are compared by their schemas, which needs the feature `schema` in both programs and in the one that compares.
    /// Anything that cannot be decided counts as incompatible, and says so.
    ///
    /// Versions, docs, options of one side, and the name of the service's queue are not compared.
    ///
    /// ```
    /// use rpc_core::instances::{Contract, ServiceClient};
    /// use rpc_core::rpc;
    ///
    /// mod old {
    ///     #[rpc_core::rpc]
    ///     pub trait Stock {
    ///         async fn count(item: String) -> u64;
    ///     }
    /// }
    ///
    /// #[rpc]
    /// pub trait Stock {
    ///     async fn count(item: String, warehouse: Option<String>) -> u64;
    ///     async fn count_all(items: Vec<String>) -> u64;
    /// }
    ///
    /// // An old client calls a new server.
    /// let old = <old::StockClient as ServiceClient>::service_info();
    /// assert!(old.compare(&<StockClient as ServiceClient>::served_info()).is_compatible());
    /// // A new client calls an old server.
    /// let new = <StockClient as ServiceClient>::service_info();
    /// match new.compare(&<old::StockClient as ServiceClient>::served_info()) {
    ///     Contract::Incompatible(differences) => assert_eq!(
    ///         differences[0].to_string(),
    ///         "incompatible: method 'count_all': only the client has the method",
    ///     ),
    ///     other => panic!("{other:?}"),
    /// }
    /// ```
    #[must_use]
    pub fn compare(&self, served: &ServiceInfo) -> Contract {
        let mut found = Found::new();
        if self.name != served.name {
            let what = format!(
                "the client calls the service '{}', and the instance serves '{}'",
                self.name, served.name
            );
            found.add(false, what);
        }
        for method in &self.methods {
            found.method = Some(method.name.clone());
            match served.methods.iter().find(|it| it.name == method.name) {
                Some(other) => compare_methods((self, method), (served, other), &mut found),
                None => found.add(false, "only the client has the method"),
            }
        }
        for method in &served.methods {
            if self.methods.iter().all(|known| known.name != method.name) {
                found.method = Some(method.name.clone());
                found.add(true, "only the instance has the method");
            }
        }
        found.differences.into()
    }
}

/// The differences so far, and the place of the next ones.
struct Found {
    differences: Vec<Difference>,
    method: Option<String>,
    argument: Option<String>,
    /// The work that is left for schemas.
    steps: u32,
}

impl Found {
    fn new() -> Self {
        Self {
            differences: Vec::new(),
            method: None,
            argument: None,
            steps: MAX_STEPS,
        }
    }

    fn add(&mut self, compatible: bool, what: impl Into<String>) {
        self.differences.push(Difference {
            method: self.method.clone(),
            argument: self.argument.clone(),
            what: what.into(),
            compatible,
        });
    }
}

fn compare_methods(
    (client, method): (&ServiceInfo, &MethodInfo),
    (served, other): (&ServiceInfo, &MethodInfo),
    found: &mut Found,
) {
    if method.kind != other.kind {
        // A caller that expects no reply gets none, and a handler of a oneway method answers `()` to a caller that expects a reply.
        let compatible = !method.kind.has_stream() && !other.kind.has_stream();
        let (expected, actual) = (method.kind, other.kind);
        let what = format!(
            "the client calls the method as {expected}, and the instance serves it as {actual}"
        );
        found.add(compatible, what);
        if !compatible {
            return;
        }
    }
    compare_queues((client, method), (served, other), found);
    compare_arguments(&method.arguments, &other.arguments, found);
    if method.kind != MethodKind::Oneway {
        compare_types("result", &other.result, &method.result, found);
        compare_errors("error", other.error.as_ref(), method.error.as_ref(), found);
        compare_errors(
            "error of items",
            other.item_error.as_ref(),
            method.item_error.as_ref(),
            found,
        );
    }
}

/// Compares the queue of the client's requests with the queues that the instance reads: a server runs a method no matter which of the
/// service's queues a request came through.
fn compare_queues(
    (client, method): (&ServiceInfo, &MethodInfo),
    (served, other): (&ServiceInfo, &MethodInfo),
    found: &mut Found,
) {
    let Some(queue) = &method.queue else {
        if let Some(queue) = &other.queue {
            let what = format!("the instance also reads the method's own queue '{queue}'");
            found.add(true, what);
        }
        return;
    };
    // Server and client have the same prefix at run time, and the client's description has none.
    let prefix = served.queue.strip_suffix(&*client.queue);
    let is_read = |name: &str| {
        let own = served.methods.iter().filter_map(|it| it.queue.as_deref());
        own.chain([&*served.queue]).any(|read| read == name)
    };
    if is_read(&format!("{}{queue}", prefix.unwrap_or_default())) {
        if other.queue.is_none() {
            let what = format!("the method has the queue '{queue}' of its own only for the client");
            found.add(true, what);
        }
    } else if prefix.is_some() {
        let what =
            format!("the client sends to the queue '{queue}', which the instance does not read");
        found.add(false, what);
    } else {
        let what = format!(
            "cannot be decided if the instance reads the queue '{queue}' of the method, because its queues have other names"
        );
        found.add(false, what);
    }
}

fn compare_arguments(sent: &[ArgumentInfo], expected: &[ArgumentInfo], found: &mut Found) {
    for argument in sent {
        found.argument = Some(argument.name.clone());
        match counterpart(argument, expected) {
            None if argument.stream => found.add(false, "is a stream on one side only"),
            None => found.add(
                true,
                "only the client has the argument: the server ignores it",
            ),
            Some(other) => {
                compare_types("", &argument.ty, &other.ty, found);
                if other.name != argument.name {
                    let what = format!("the instance calls the stream '{}'", other.name);
                    found.add(true, what);
                }
            }
        }
    }
    for argument in expected {
        if counterpart(argument, sent).is_none() {
            found.argument = Some(argument.name.clone());
            match (argument.stream, argument.optional) {
                (true, _) => found.add(false, "is a stream on one side only"),
                (false, true) => found.add(
                    true,
                    "only the instance has the argument, which is optional",
                ),
                (false, false) => found.add(
                    false,
                    "only the instance has the argument, which is required",
                ),
            }
        }
    }
    found.argument = None;
}

/// Returns the same argument among others. A method has one stream at most, whose name is not sent.
fn counterpart<'a>(
    argument: &ArgumentInfo,
    others: &'a [ArgumentInfo],
) -> Option<&'a ArgumentInfo> {
    others.iter().find(|other| match argument.stream {
        true => other.stream,
        false => !other.stream && other.name == argument.name,
    })
}

fn compare_errors(
    place: &str,
    written: Option<&TypeInfo>,
    read: Option<&TypeInfo>,
    found: &mut Found,
) {
    match (written, read) {
        (Some(written), Some(read)) => compare_types(place, written, read, found),
        (Some(written), None) => {
            let rust = &written.rust;
            let what = format!(
                "the instance answers with the {place} '{rust}', and the client expects none"
            );
            found.add(false, what);
        }
        (None, Some(_)) => found.add(true, format!("only the client has an {place}")),
        (None, None) => {}
    }
}

/// Compares the type that one program writes with the type that the other reads.
fn compare_types(place: &str, written: &TypeInfo, read: &TypeInfo, found: &mut Found) {
    let is_renamed = written.rust != read.rust;
    let place = match place {
        "" => String::new(),
        place => format!("{place}: "),
    };
    let names = match is_renamed {
        true => format!("'{}' is read as '{}'", written.rust, read.rust),
        false => format!("'{}'", read.rust),
    };
    match (&written.schema, &read.schema) {
        (Some(written), Some(read)) => {
            let findings = schema::compare(written, read, is_renamed, &mut found.steps);
            if findings.is_empty() && is_renamed {
                found.add(true, format!("{place}{names}"));
            }
            for finding in findings {
                let what = format!("{place}{names}: {}", finding.text);
                found.add(finding.compatible, what);
            }
        }
        _ if is_renamed => {
            let what = format!("{place}{names}: cannot be decided without schemas of both sides");
            found.add(false, what);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ty(rust: &str) -> TypeInfo {
        TypeInfo {
            rust: rust.to_owned(),
            schema: None,
        }
    }

    fn method(kind: MethodKind, result: &str) -> MethodInfo {
        MethodInfo {
            name: "get".to_owned(),
            docs: None,
            kind,
            queue: None,
            arguments: Vec::new(),
            result: ty(result),
            error: None,
            item_error: None,
            idempotent: false,
            at_most_once: false,
            persistent: false,
            default: false,
            priority: None,
            timeout: None,
        }
    }

    fn service(queue: &str, method: MethodInfo) -> ServiceInfo {
        ServiceInfo {
            name: "Store".to_owned(),
            version: String::new(),
            docs: None,
            queue: queue.to_owned(),
            contract: String::new(),
            methods: vec![method],
        }
    }

    fn with_queue(common: &str, own: Option<&str>) -> ServiceInfo {
        let mut method = method(MethodKind::Unary, "u8");
        method.queue = own.map(str::to_owned);
        service(common, method)
    }

    fn shown(contract: &Contract) -> Vec<String> {
        let differences = contract.differences().iter();
        differences.map(ToString::to_string).collect()
    }

    #[test]
    fn queues_of_methods_are_compared_without_their_prefix() {
        let client = with_queue("store", Some("slow"));
        for same in [
            with_queue("store", Some("slow")),
            with_queue("staging.store", Some("staging.slow")),
        ] {
            assert_eq!(client.compare(&same), Contract::Same);
        }
        // Queues of the service are set at run time.
        let served = with_queue("other", Some("slow"));
        assert_eq!(client.compare(&served), Contract::Same);
        assert_eq!(
            shown(&client.compare(&with_queue("staging.store", Some("slow")))),
            [
                "incompatible: method 'get': the client sends to the queue 'slow', which the instance does not read"
            ]
        );
        assert_eq!(
            shown(&client.compare(&with_queue("other", Some("staging.slow")))),
            [
                "incompatible: method 'get': cannot be decided if the instance reads the queue 'slow' of the method, because its queues have \
              other names"
            ]
        );
        // A server reads all queues of its service.
        let client = with_queue("store", None);
        assert!(
            client
                .compare(&with_queue("store", Some("slow")))
                .is_compatible()
        );
        let client = with_queue("store", Some("store"));
        assert!(client.compare(&with_queue("store", None)).is_compatible());
    }

    #[test]
    fn kinds_with_one_message_in_each_direction_are_compatible() {
        let compare = |client, client_result, served, served_result| {
            let client = service("q", method(client, client_result));
            let contract = client.compare(&service("q", method(served, served_result)));
            contract.is_compatible()
        };
        use MethodKind::{Oneway, ServerStreaming, Unary};
        assert!(compare(Unary, "()", Oneway, "()"));
        assert!(compare(Oneway, "()", Unary, "()"));
        // A caller that expects no reply does not read one.
        assert!(compare(Oneway, "()", Unary, "u8"));
        assert!(!compare(Unary, "u8", Oneway, "()"));
        assert!(!compare(Unary, "u8", ServerStreaming, "u8"));
    }

    #[test]
    fn streams_are_compatible_with_the_same_streams_alone() {
        use MethodKind::{Bidirectional, ClientStreaming, Oneway, ServerStreaming, Unary};
        let kinds = [
            Unary,
            Oneway,
            ServerStreaming,
            ClientStreaming,
            Bidirectional,
        ];
        for client in kinds {
            for served in kinds {
                let single = [client, served].map(|kind| matches!(kind, Unary | Oneway));
                let contract =
                    service("q", method(client, "()")).compare(&service("q", method(served, "()")));
                let expected = client == served || single == [true, true];
                assert_eq!(contract.is_compatible(), expected, "{client:?} {served:?}");
            }
        }
    }

    #[test]
    fn streams_among_arguments_and_errors_of_items_are_compared() {
        let argument = |name: &str, rust: &str, stream| ArgumentInfo {
            name: name.to_owned(),
            ty: ty(rust),
            optional: false,
            stream,
        };
        let with = |argument: ArgumentInfo, item_error: Option<&str>| {
            let mut method = method(MethodKind::Bidirectional, "u8");
            method.arguments = vec![argument];
            method.item_error = item_error.map(ty);
            service("q", method)
        };
        let client = with(argument("parts", "Part", true), Some("Lost"));
        let cases: [(ServiceInfo, &[&str]); 7] = [
            (with(argument("parts", "Part", true), Some("Lost")), &[]),
            (
                with(argument("parts", "Part", false), Some("Lost")),
                &[
                    "incompatible: method 'get': argument 'parts': is a stream on one side only",
                    "incompatible: method 'get': argument 'parts': only the instance has the argument, which is required",
                ],
            ),
            (
                with(argument("parts", "Piece", true), Some("Lost")),
                &[
                    "incompatible: method 'get': argument 'parts': 'Part' is read as 'Piece': cannot be decided without schemas of both sides",
                ],
            ),
            (
                with(argument("pieces", "Part", true), Some("Lost")),
                &[
                    "compatible: method 'get': argument 'parts': the instance calls the stream 'pieces'",
                ],
            ),
            (
                with(argument("parts", "Part", true), None),
                &["compatible: method 'get': only the client has an error of items"],
            ),
            (
                with(argument("parts", "Part", true), Some("Gone")),
                &[
                    "incompatible: method 'get': error of items: 'Gone' is read as 'Lost': cannot be decided without schemas of both sides",
                ],
            ),
            (
                with(argument("pieces", "Piece", true), Some("Lost")),
                &[
                    "incompatible: method 'get': argument 'parts': 'Part' is read as 'Piece': cannot be decided without schemas of both sides",
                    "compatible: method 'get': argument 'parts': the instance calls the stream 'pieces'",
                ],
            ),
        ];
        for (served, expected) in cases {
            assert_eq!(shown(&client.compare(&served)), expected);
        }
        let without = with(argument("parts", "Part", true), None);
        assert_eq!(
            shown(&without.compare(&client)),
            [
                "incompatible: method 'get': the instance answers with the error of items 'Lost', and the client expects none"
            ]
        );
    }

    #[test]
    fn types_without_schemas_are_compared_by_name() {
        let client = service("q", method(MethodKind::Unary, "u8"));
        let mut served = service("q", method(MethodKind::Unary, "u16"));
        served.methods[0].error = Some(ty("Refusal"));
        served.methods.push(MethodInfo {
            name: "added".to_owned(),
            ..method(MethodKind::Unary, "u8")
        });
        let contract = client.compare(&served);
        assert!(matches!(contract, Contract::Incompatible(_)));
        // Incompatible differences come first.
        assert_eq!(
            shown(&contract),
            [
                "incompatible: method 'get': result: 'u16' is read as 'u8': cannot be decided without schemas of both sides",
                "incompatible: method 'get': the instance answers with the error 'Refusal', and the client expects none",
                "compatible: method 'added': only the instance has the method",
            ]
        );
    }
}
