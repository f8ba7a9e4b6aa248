//! One method of the trait.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt as _;
use syn::{
    Attribute, Block, FnArg, Generics, PathArguments, Receiver, ReceiverKind, ReturnType, Safety,
    Signature, TraitItemFn, Type, TypeParamBound,
};

use crate::attributes;
use crate::diagnostics::Diagnostics;
use crate::model::options::{Level, Options};
use crate::model::stream::{self, Stream};
use crate::model::{Argument, Role, wire_type};
use crate::parse;

/// A checked method.
pub(crate) struct Method {
    /// All attributes except `#[rpc]`.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) ident: Ident,
    /// The user's `&self`.
    pub(crate) receiver: Option<Receiver>,
    pub(crate) arguments: Vec<Argument>,
    /// The return type; `()` stands in place of a stream.
    pub(crate) output: Type,
    pub(crate) fallibility: Fallibility,
    /// The stream that the method returns.
    pub(crate) streamed: Option<Streamed>,
    pub(crate) execution: Execution,
    pub(crate) default_body: Option<Block>,
    /// The name on the wire.
    pub(crate) name: String,
    /// The method's queue, or `None` if its requests go to the trait's queue.
    pub(crate) queue: Option<String>,
    /// The method's timeout, or the trait's.
    pub(crate) timeout_millis: Option<u64>,
    pub(crate) options: Options,
}

/// A stream that a method returns.
pub(crate) struct Streamed {
    pub(crate) stream: Stream,
    /// The fallibility of the items.
    pub(crate) fallibility: Fallibility,
    /// The return type as written.
    pub(crate) output: Type,
}

/// The execution of a handler.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Execution {
    Async,
    /// The handler runs on the blocking pool.
    Blocking,
}

/// Determines if a method returns a `Result`, whose error then belongs to the service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallibility {
    /// The return type is `()`, a tuple, an array or a primitive.
    Never,
    /// Generated code asks the compiler, which resolves aliases.
    Probed,
    /// The name of the type decides, because the compiler cannot evaluate types that depend on the trait's parameters.
    ByName { is_result: bool },
}

/// Methods of clients, or of all types, that would be called instead of the service's method, and their description.
const SHADOWED: &[(&str, &str)] = &[
    ("with_queue", "another method of the client"),
    ("with_queue_prefix", "another method of the client"),
    ("into", "`Into::into`"),
    ("try_into", "`TryInto::try_into`"),
];

impl Method {
    /// Checks one method. The result is valid only if no error was added.
    pub(crate) fn check(
        written: &TraitItemFn,
        generics: &Generics,
        service_queue: &str,
        service_timeout_millis: Option<u64>,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let options = check_options(&written.attrs, diagnostics);
        let signature = &written.sig;
        check_modifiers(signature, diagnostics);
        let execution = check_execution(written, &options, diagnostics);
        check_generics(signature, diagnostics);
        let (receiver, arguments) = check_inputs(signature, written.default.is_some(), diagnostics);
        let (output, stream) = check_output(signature, &options, execution, diagnostics);
        let has_items = arguments
            .iter()
            .any(|argument| matches!(argument.role, Role::Items { .. }));
        check_streams(&options, stream.is_some(), has_items, diagnostics);
        let name = options
            .name
            .as_ref()
            .map_or_else(|| signature.ident.unraw().to_string(), syn::LitStr::value);
        check_name(&signature.ident, diagnostics);
        Self {
            attributes: attributes::without_rpc(&written.attrs),
            ident: signature.ident.clone(),
            receiver,
            arguments,
            fallibility: match &stream {
                None => fallibility(&output, generics),
                Some(_) if is_unit(&output) => Fallibility::Never,
                Some(_) => Fallibility::ByName { is_result: true },
            },
            streamed: stream.map(|(stream, written)| Streamed {
                fallibility: fallibility(&stream.item, generics),
                stream,
                output: written,
            }),
            output,
            execution: execution.unwrap_or(Execution::Async),
            default_body: written.default.clone(),
            name,
            queue: options
                .queue
                .as_ref()
                .map(syn::LitStr::value)
                .filter(|queue| queue != service_queue),
            timeout_millis: options.timeout_millis.or(service_timeout_millis),
            options,
        }
    }

    /// Returns the tokens that determine the name on the wire.
    pub(crate) fn name_tokens(&self) -> TokenStream {
        match &self.options.name {
            Some(name) => name.to_token_stream(),
            None => self.ident.to_token_stream(),
        }
    }

    /// Returns `true` if the return type is `()`.
    pub(crate) fn returns_unit(&self) -> bool {
        is_unit(&self.output)
    }

    /// The caller's stream, with its argument.
    pub(crate) fn items(&self) -> Option<(&Argument, &Stream)> {
        self.arguments
            .iter()
            .find_map(|argument| match &argument.role {
                Role::Items { stream, .. } => Some((argument, stream)),
                _ => None,
            })
    }

    /// The arguments that callers send, in order.
    pub(crate) fn sent(&self) -> impl Iterator<Item = &Argument> {
        self.arguments
            .iter()
            .filter(|argument| matches!(argument.role, Role::Sent { .. }))
    }
}

fn check_options(attributes: &[Attribute], diagnostics: &mut Diagnostics) -> Options {
    let written: Vec<_> = attributes
        .iter()
        .filter(|attribute| attributes::is_rpc(attribute.path()))
        .flat_map(|attribute| parse::attribute_options(attribute, diagnostics))
        .collect();
    if let Some(path) = attributes::conditional_rpc(attributes) {
        diagnostics.at(path, "`#[rpc]` cannot be conditional: write it without `cfg_attr`, or write the method twice, each with a `cfg`");
    }
    Options::check(&written, Level::Method, diagnostics)
}

fn check_modifiers(signature: &Signature, diagnostics: &mut Diagnostics) {
    if let Some(token) = signature.constness {
        diagnostics.at(token, "a remote method cannot be `const`: write `async fn`");
    }
    match &signature.safety {
        Safety::Unsafe(token) => {
            diagnostics.at(token, "a remote method cannot be `unsafe`: remove `unsafe`");
        }
        Safety::Safe(token) => diagnostics.at(
            token,
            "a remote method cannot be marked `safe`: remove `safe`",
        ),
        Safety::Default => {}
    }
    if let Some(abi) = &signature.abi {
        diagnostics.at(
            abi,
            "a remote method has no ABI, because messages carry its calls: remove `extern`",
        );
    }
    if let Some(variadic) = &signature.variadic {
        diagnostics.at(
            variadic,
            "a remote method cannot be variadic: write an argument of type `Vec<…>`",
        );
    }
}

fn check_execution(
    written: &TraitItemFn,
    options: &Options,
    diagnostics: &mut Diagnostics,
) -> Option<Execution> {
    let signature = &written.sig;
    let ident = &signature.ident;
    match (signature.asyncness, &options.blocking) {
        (Some(token), Some(_)) if written.default.is_some() => {
            diagnostics.at(
                token,
                "the body of a blocking method cannot `.await`: remove `async`",
            );
            Some(Execution::Blocking)
        }
        (_, Some(_)) => Some(Execution::Blocking),
        (Some(_), None) => Some(Execution::Async),
        // Reported at `const`.
        (None, None) if signature.constness.is_some() => None,
        (None, None) => {
            let keyword = signature.fn_token;
            let output = match future_output(&signature.output) {
                Some(output) => format!("(…) -> {}", output.to_token_stream()),
                None => String::new(),
            };
            diagnostics.at(
                quote!(#keyword #ident),
                format!(
                    "a remote method must be `async`: write `async fn {ident}{output}`, or add `#[rpc(blocking)]` to run \
                     the handler on the blocking pool"
                ),
            );
            None
        }
    }
}

/// Returns the `T` of `-> impl Future<Output = T>`, the long form of `async fn`.
fn future_output(output: &ReturnType) -> Option<&Type> {
    let ReturnType::Type(_, ty) = output else {
        return None;
    };
    let Type::ImplTrait(opaque) = &**ty else {
        return None;
    };
    opaque.bounds.iter().find_map(|bound| {
        let TypeParamBound::Trait(bound) = bound else {
            return None;
        };
        let last = bound.path.segments.last()?;
        let PathArguments::AngleBracketed(arguments) = &last.arguments else {
            return None;
        };
        arguments.args.iter().find_map(|argument| match argument {
            syn::GenericArgument::AssocType(output) if output.ident == "Output" => Some(&output.ty),
            _ => None,
        })
    })
}

fn check_generics(signature: &Signature, diagnostics: &mut Diagnostics) {
    if !signature.generics.params.is_empty() {
        diagnostics.at(
            &signature.generics,
            "a remote method cannot be generic, because the server must know its types: move the parameters to the trait, \
             or write concrete types",
        );
    }
    if let Some(clause) = &signature.generics.where_clause {
        diagnostics.at(
            clause,
            "a remote method cannot have bounds: move them to the trait",
        );
    }
}

fn check_inputs(
    signature: &Signature,
    has_body: bool,
    diagnostics: &mut Diagnostics,
) -> (Option<Receiver>, Vec<Argument>) {
    let mut receiver = None;
    let mut arguments: Vec<Argument> = Vec::new();
    for input in &signature.inputs {
        match input {
            FnArg::Receiver(written) => {
                check_receiver(written, diagnostics);
                receiver = Some(written.clone());
            }
            FnArg::Typed(written) => {
                let Some(argument) = Argument::check(written, has_body, diagnostics) else {
                    continue;
                };
                for earlier in &arguments {
                    check_pair(earlier, &argument, diagnostics);
                }
                arguments.push(argument);
            }
        }
    }
    (receiver, arguments)
}

fn check_receiver(receiver: &Receiver, diagnostics: &mut Diagnostics) {
    match &receiver.kind {
        ReceiverKind::Reference(_, None, None) if receiver.attrs.is_empty() => {}
        _ => diagnostics.at(
            receiver,
            "concurrent calls share the handler: write `&self`, and keep mutable state behind a lock",
        ),
    }
}

fn check_pair(earlier: &Argument, argument: &Argument, diagnostics: &mut Diagnostics) {
    match (&earlier.role, &argument.role) {
        _ if earlier.ident() == argument.ident() => {
            diagnostics.at(
                argument.ident(),
                format!(
                    "two arguments are called `{}`: rename one",
                    argument.ident()
                ),
            );
        }
        (Role::Context(_), Role::Context(attribute)) => {
            diagnostics.at(
                attribute,
                "a method has one context: remove the second `#[ctx]`",
            );
        }
        (Role::Items { .. }, Role::Items { stream, .. }) => {
            diagnostics.at(
                &stream.written,
                "a method has one stream among its arguments: remove one, or send the items of both as an enum in one stream",
            );
        }
        (
            Role::Sent { name: first, .. } | Role::Items { name: first, .. },
            Role::Sent { name: second, .. } | Role::Items { name: second, .. },
        ) if first == second => {
            diagnostics.at(
                argument.ident(),
                format!("two arguments have the name `{second}` on the wire: rename one"),
            );
        }
        _ => {}
    }
}

/// Returns the return type, with `()` in place of a stream, and the stream with the return type as written.
fn check_output(
    signature: &Signature,
    options: &Options,
    execution: Option<Execution>,
    diagnostics: &mut Diagnostics,
) -> (Type, Option<(Stream, Type)>) {
    let ReturnType::Type(_, ty) = &signature.output else {
        return (stream::unit(), None);
    };
    let mut output = (**ty).clone();
    if options.oneway.is_some() && !is_unit(&output) {
        diagnostics.at(
            &signature.output,
            "a `oneway` method has no reply, so it cannot return a value: remove the return type, or remove `oneway`",
        );
    } else if execution.is_none() && future_output(&signature.output).is_some() {
        // Reported: the method must be `async fn`.
    } else if let Some(place) = stream::in_output(&mut output) {
        let stream = Stream::check(place, diagnostics);
        *place = stream::unit();
        wire_type::check(&output, diagnostics);
        return (output, stream.map(|stream| (stream, (**ty).clone())));
    } else {
        wire_type::check(ty, diagnostics);
    }
    (output, None)
}

fn is_unit(ty: &Type) -> bool {
    match ty {
        Type::Tuple(tuple) => tuple.elems.is_empty(),
        _ => false,
    }
}

/// Reports options that streams cannot have.
fn check_streams(
    options: &Options,
    returns_stream: bool,
    has_items: bool,
    diagnostics: &mut Diagnostics,
) {
    if let (Some(token), true) = (&options.blocking, returns_stream || has_items) {
        diagnostics.at(
            token,
            "a `blocking` method cannot have streams, which wait: remove `blocking`, and call `tokio::task::spawn_blocking` in the \
             handler for the parts that block",
        );
    }
    if let (Some(token), true) = (&options.default, returns_stream || has_items) {
        diagnostics.at(
            token,
            "a plain request cannot open a stream: remove `default`",
        );
    }
    // A returned stream is reported as a returned value.
    if let (Some(token), true) = (&options.oneway, has_items) {
        diagnostics.at(
            token,
            "a `oneway` method cannot have streams, because its caller does not learn which server takes the request: remove `oneway`",
        );
    }
}

fn check_name(ident: &Ident, diagnostics: &mut Diagnostics) {
    let name = ident.unraw().to_string();
    if let Some((name, taken)) = SHADOWED.iter().find(|(taken, _)| *taken == name) {
        diagnostics.at(
            ident,
            format!(
                "`client.{name}(…)` would call {taken}: rename the method, and write `#[rpc(name = \"{name}\")]` to keep \
                 its name on the wire"
            ),
        );
    }
}

fn fallibility(output: &Type, generics: &Generics) -> Fallibility {
    match output {
        Type::Tuple(_) | Type::Array(_) => Fallibility::Never,
        Type::Path(path)
            if path.qself.is_none() && path.path.get_ident().is_some_and(is_primitive) =>
        {
            Fallibility::Never
        }
        _ if !wire_type::mentions_parameter(output, generics) => Fallibility::Probed,
        Type::Path(path) => Fallibility::ByName {
            is_result: path
                .path
                .segments
                .last()
                .is_some_and(|last| last.ident.to_string().ends_with("Result")),
        },
        _ => Fallibility::ByName { is_result: false },
    }
}

fn is_primitive(ident: &Ident) -> bool {
    const PRIMITIVES: &[&str] = &[
        "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16",
        "u32", "u64", "u128", "usize",
    ];
    PRIMITIVES.iter().any(|primitive| ident == primitive)
}
