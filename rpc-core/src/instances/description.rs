//! Descriptions of services, made from the definitions of their traits and the types in their methods.

use uuid::Uuid;

use super::info::{ArgumentInfo, MethodInfo, MethodKind, ServiceInfo, TypeInfo};
use crate::definition::{Method, Queues, Service};

/// Direction of values, seen from the described program. serde may read a type more leniently than it writes the type, so the two have
/// schemas of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The program writes the values.
    Sent,
    /// The program reads the values.
    Received,
}

/// The described program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A client, which sends arguments and receives results and errors.
    Client,
    /// A server, which receives arguments and sends results and errors.
    Server,
}

impl Side {
    fn of_arguments(self) -> Direction {
        match self {
            Self::Client => Direction::Sent,
            Self::Server => Direction::Received,
        }
    }

    fn of_results(self) -> Direction {
        match self {
            Self::Client => Direction::Received,
            Self::Server => Direction::Sent,
        }
    }
}

/// A type in a method, as generated code names it.
///
/// Generated code calls the two functions by the type itself, because code that is generic over the type could not know if the type has a
/// schema.
#[derive(Clone, Copy, Debug)]
pub struct DescribedType {
    name: fn() -> &'static str,
    schema: fn(Direction) -> Option<String>,
}

impl DescribedType {
    /// Describes a type by [`std::any::type_name`] and its schema.
    #[must_use]
    pub fn new(name: fn() -> &'static str, schema: fn(Direction) -> Option<String>) -> Self {
        Self { name, schema }
    }

    fn info(&self, direction: Direction) -> TypeInfo {
        TypeInfo {
            rust: without_paths((self.name)()),
            schema: (self.schema)(direction),
        }
    }
}

/// An argument of a method.
#[derive(Clone, Copy, Debug)]
pub struct DescribedArgument {
    ty: DescribedType,
    has_default: bool,
    accepts_missing: fn() -> bool,
    is_stream: bool,
}

impl DescribedArgument {
    /// Describes an argument by its type, its `#[serde(default)]`, and the type's own answer to a missing value.
    #[must_use]
    pub fn new(ty: DescribedType, has_default: bool, accepts_missing: fn() -> bool) -> Self {
        Self {
            ty,
            has_default,
            accepts_missing,
            is_stream: false,
        }
    }

    /// Describes a stream by the type of its items.
    #[must_use]
    pub fn stream(items: DescribedType) -> Self {
        Self {
            ty: items,
            has_default: false,
            accepts_missing: || false,
            is_stream: true,
        }
    }
}

/// The types of a method.
#[derive(Clone, Debug)]
pub struct DescribedMethod {
    arguments: Vec<DescribedArgument>,
    /// The value of a reply, or of the items of a stream.
    result: DescribedType,
    error: Option<DescribedType>,
    /// The error that ends a stream.
    item_error: Option<DescribedType>,
}

impl DescribedMethod {
    /// Describes the types of a method, with all arguments in order. The type of an error counts if the method is fallible.
    #[must_use]
    pub fn new<const N: usize>(
        arguments: [DescribedArgument; N],
        result: DescribedType,
        fallible: bool,
        error: DescribedType,
    ) -> Self {
        Self {
            arguments: arguments.into(),
            result,
            error: fallible.then_some(error),
            item_error: None,
        }
    }

    /// Describes the error that ends a stream. The type counts if the items are fallible.
    #[must_use]
    pub fn item_error(mut self, fallible: bool, error: DescribedType) -> Self {
        self.item_error = fallible.then_some(error);
        self
    }
}

/// Describes a service with the queues of one deployment. `types` has the types of each method, in the order of the definition.
pub(crate) fn describe(
    service: &'static Service,
    queues: &Queues,
    version: Option<&str>,
    types: &[DescribedMethod],
    side: Side,
) -> ServiceInfo {
    let methods = service.methods.iter().zip(types);
    let mut info = ServiceInfo {
        name: service.name.to_owned(),
        version: version.or(service.version).unwrap_or_default().to_owned(),
        docs: service.doc_comment(),
        queue: queues.common_queue().into_owned(),
        contract: String::new(),
        methods: methods
            .map(|(method, types)| describe_method(method, queues, types, side))
            .collect(),
    };
    info.contract = hash(&info);
    info
}

/// Describes a service for a client that was compiled with it, with the queues that the trait names.
#[must_use]
pub fn describe_client(service: &'static Service, types: Vec<DescribedMethod>) -> ServiceInfo {
    describe(service, &Queues::of(service), None, &types, Side::Client)
}

/// Describes a service as a server serves it that was compiled with the same trait, with the queues that the trait names.
#[must_use]
pub fn describe_server(service: &'static Service, types: Vec<DescribedMethod>) -> ServiceInfo {
    describe(service, &Queues::of(service), None, &types, Side::Server)
}

fn describe_method(
    method: &'static Method,
    queues: &Queues,
    types: &DescribedMethod,
    side: Side,
) -> MethodInfo {
    MethodInfo {
        name: method.name.to_owned(),
        docs: method.doc_comment(),
        kind: kind(method),
        queue: method.queue.map(|_| queues.of_method(method).into_owned()),
        arguments: describe_arguments(method, &types.arguments, side),
        result: types.result.info(side.of_results()),
        error: types.error.map(|error| error.info(side.of_results())),
        item_error: types.item_error.map(|error| error.info(side.of_results())),
        idempotent: method.idempotent,
        at_most_once: method.at_most_once,
        persistent: method.persistent,
        default: method.default,
        priority: method.priority,
        timeout: method.timeout,
    }
}

fn kind(method: &Method) -> MethodKind {
    match (method.stream_argument, method.streams_items) {
        (Some(_), true) => MethodKind::Bidirectional,
        (Some(_), false) => MethodKind::ClientStreaming,
        (None, true) => MethodKind::ServerStreaming,
        (None, false) if method.oneway => MethodKind::Oneway,
        (None, false) => MethodKind::Unary,
    }
}

/// Describes the arguments in the order of their declaration. The definition names the stream apart from the others.
fn describe_arguments(
    method: &'static Method,
    types: &[DescribedArgument],
    side: Side,
) -> Vec<ArgumentInfo> {
    let mut names = method.arguments.iter().copied();
    types
        .iter()
        .filter_map(|argument| {
            let name = match argument.is_stream {
                true => method.stream_argument,
                false => names.next(),
            };
            Some(ArgumentInfo {
                name: name?.to_owned(),
                ty: argument.ty.info(side.of_arguments()),
                optional: argument.has_default || (argument.accepts_missing)(),
                stream: argument.is_stream,
            })
        })
        .collect()
}

/// Namespace of the hashes: a random UUID.
const CONTRACTS: Uuid = Uuid::from_u128(0x8d1f_3c52_7a0e_4b6b_9a57_2c41_e6d0_93b8);

/// Returns the hash of a contract: a UUID of version 5. Programs of other languages can compute it, so its text is stable: see
/// [`hashed_text`].
fn hash(service: &ServiceInfo) -> String {
    Uuid::new_v5(&CONTRACTS, hashed_text(service).as_bytes()).to_string()
}

/// Returns the parts of a description that belong to the contract. Each part is a word, a space, the length of a name in bytes, a colon, the
/// name and a newline. Methods and arguments are sorted by name, because their order does not matter.
fn hashed_text(service: &ServiceInfo) -> String {
    let mut text = String::new();
    let mut part = |word: &str, name: &str| {
        let len = name.len().to_string();
        for piece in [word, " ", &len, ":", name, "\n"] {
            text.push_str(piece);
        }
    };
    part("service", &service.name);
    let mut methods: Vec<_> = service.methods.iter().collect();
    methods.sort_by(|a, b| a.name.cmp(&b.name));
    for method in methods {
        part("method", &method.name);
        part("kind", &method.kind.to_string());
        let mut arguments: Vec<_> = method.arguments.iter().collect();
        arguments.sort_by(|a, b| a.name.cmp(&b.name));
        for argument in arguments {
            let word = match argument.stream {
                true => "stream",
                false => "argument",
            };
            part(word, &argument.name);
            part("type", &argument.ty.rust);
        }
        part("result", &method.result.rust);
        for (word, error) in [("error", &method.error), ("item_error", &method.item_error)] {
            if let Some(error) = error {
                part(word, &error.rust);
            }
        }
    }
    text
}

/// Removes the modules from a type's name: `alloc::vec::Vec<shop::Item>` becomes `Vec<Item>`.
fn without_paths(name: &str) -> String {
    // Braces and `#` are parts of segments such as `{{closure}}` and `r#type`.
    let is_segment = |c: char| c.is_alphanumeric() || "_{}#".contains(c);
    let mut short = String::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| !is_segment(c)).unwrap_or(rest.len());
        let (segment, after) = rest.split_at(end.max(first.len_utf8()));
        rest = after;
        match after.strip_prefix("::") {
            Some(after) if end > 0 => rest = after,
            _ => short.push_str(segment),
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use std::any::type_name;
    use std::collections::BTreeMap;

    use super::*;

    /// A type in a module.
    mod inner {
        pub(super) struct Item;
        pub(super) trait Shop {
            type Goods;
        }
    }
    use inner::Item;

    impl inner::Shop for Item {
        type Goods = u8;
    }

    #[test]
    fn names_of_types_have_no_paths() {
        assert_eq!(without_paths(type_name::<Vec<Item>>()), "Vec<Item>");
        assert_eq!(
            without_paths(type_name::<
                BTreeMap<String, (Option<[Item; 3]>, &'static [u8])>,
            >()),
            "BTreeMap<String, (Option<[Item; 3]>, &[u8])>"
        );
        struct Local;
        let local = || {
            struct Local;
            type_name::<Local>()
        };
        assert_eq!(without_paths(local()), "Local");
        assert_eq!(without_paths(type_name::<Option<Local>>()), "Option<Local>");
        assert_eq!(
            without_paths("<a::b::T as c::Shop>::Goods"),
            "<T as Shop>::Goods"
        );
        assert_eq!(without_paths("a::{{closure}}::B<é::C>"), "B<C>");
        assert_eq!(without_paths("()"), "()");
        assert_eq!(
            without_paths(type_name::<<Item as inner::Shop>::Goods>()),
            "u8"
        );
    }

    fn unknown() -> DescribedType {
        DescribedType::new(type_name::<u64>, |_| None)
    }

    fn described(service: &'static Service, arguments: [&'static str; 2]) -> ServiceInfo {
        let ty = |name| match name {
            "text" => DescribedType::new(type_name::<String>, |_| None),
            _ => unknown(),
        };
        let arguments = arguments.map(|name| DescribedArgument::new(ty(name), false, || false));
        let method = DescribedMethod::new(arguments, unknown(), false, unknown());
        describe_client(service, vec![method.clone(), method])
    }

    #[test]
    fn the_hash_ignores_order_and_options_of_one_side() {
        const ADD: &Method = &Method::new("add", &["a", "b"]);
        const OTHER: &Method = &Method::new("other", &["a", "b"]);
        const ADD_REORDERED: &Method = &Method::new("add", &["b", "a"])
            .queue("own")
            .idempotent()
            .timeout_millis(5)
            .docs(&["text"]);
        static FIRST: Service = Service::new("Sums", "sums", &[ADD, OTHER]);
        static SECOND: Service =
            Service::new("Sums", "other", &[OTHER, ADD_REORDERED]).version(Some("2"));
        static THIRD: Service = Service::new("Sum", "sums", &[ADD, OTHER]);
        let first = described(&FIRST, ["n", "n"]);
        assert_eq!(first.contract, described(&SECOND, ["n", "n"]).contract);
        assert_ne!(first.contract, described(&THIRD, ["n", "n"]).contract);
        assert_ne!(first.contract, described(&FIRST, ["n", "text"]).contract);
    }

    /// Programs compare hashes of different versions of this library.
    #[test]
    fn the_hash_is_stable() {
        const ADD: &Method = &Method::new("add", &["b", "a"]);
        static SERVICE: Service = Service::new("Sums", "sums", &[ADD]);
        let info = described(&SERVICE, ["text", "n"]);
        assert_eq!(
            hashed_text(&info),
            "service 4:Sums\nmethod 3:add\nkind 5:unary\nargument 1:a\ntype 3:u64\nargument 1:b\ntype 6:String\nresult 3:u64\n"
        );
        assert_eq!(info.contract, "5f7029cd-505b-5b6f-a173-d21a0006f5e1");
    }
}
