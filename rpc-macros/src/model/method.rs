//! One method of the trait.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt as _;
use syn::{
    Attribute, Block, FnArg, Generics, PathArguments, Receiver, ReceiverKind, ReturnType, Safety,
    Signature, TraitItemFn, Type, TypeParamBound, parse_quote,
};

use crate::attributes;
use crate::mistakes::Mistakes;
use crate::model::options::{Level, Options};
use crate::model::{Argument, Role, owned};
use crate::parse;

/// A method that keeps all the rules.
pub(crate) struct Method {
    /// All but `#[rpc]`.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) ident: Ident,
    /// The `&self` that the user wrote.
    pub(crate) receiver: Option<Receiver>,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) output: Type,
    pub(crate) answer: Answer,
    pub(crate) running: Running,
    pub(crate) default_body: Option<Block>,
    /// On the wire.
    pub(crate) name: String,
    /// Of its own; `None` if its requests go to the trait's.
    pub(crate) queue: Option<String>,
    /// Its own, or the trait's.
    pub(crate) timeout_millis: Option<u64>,
    pub(crate) options: Options,
}

/// How the handler runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    Async,
    /// On the blocking pool.
    Blocking,
}

/// Whether the method answers with a `Result`, whose error is then the service's own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It does not: the type is `()`, a tuple, an array or a primitive.
    Plain,
    /// The compiler knows, looking through aliases.
    Asked,
    /// Guessed from the name of a type that depends on the trait's parameters, where the compiler cannot be asked in time.
    Named { result: bool },
}

/// Methods of every type that take `self` by value, and so would be called instead of the client's.
const TAKEN: &[(&str, &str)] = &[
    ("with_queue", "the client's own `with_queue`"),
    ("with_queue_prefix", "the client's own `with_queue_prefix`"),
    ("into", "`Into::into`"),
    ("try_into", "`TryInto::try_into`"),
];

impl Method {
    /// Checks one method. What comes back is only of use if there was no mistake.
    pub(crate) fn check(
        written: &TraitItemFn,
        generics: &Generics,
        service_queue: &str,
        service_timeout_millis: Option<u64>,
        mistakes: &mut Mistakes,
    ) -> Self {
        let options = check_options(&written.attrs, mistakes);
        let signature = &written.sig;
        check_modifiers(signature, mistakes);
        let running = check_running(written, &options, mistakes);
        check_generics(signature, mistakes);
        let (receiver, arguments) = check_inputs(signature, written.default.is_some(), mistakes);
        let output = check_output(signature, &options, running, mistakes);
        let name = options
            .name
            .as_ref()
            .map_or_else(|| signature.ident.unraw().to_string(), syn::LitStr::value);
        check_name(&signature.ident, mistakes);
        Self {
            attributes: attributes::without_rpc(&written.attrs),
            ident: signature.ident.clone(),
            receiver,
            arguments,
            answer: answer(&output, generics),
            output,
            running: running.unwrap_or(Running::Async),
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

    /// What says how the method is called on the wire.
    pub(crate) fn name_tokens(&self) -> TokenStream {
        match &self.options.name {
            Some(name) => name.to_token_stream(),
            None => self.ident.to_token_stream(),
        }
    }

    /// Whether there is nothing to return.
    pub(crate) fn returns_unit(&self) -> bool {
        matches!(&self.output, Type::Tuple(tuple) if tuple.elems.is_empty())
    }

    /// The arguments that the caller gives, in order.
    pub(crate) fn sent(&self) -> impl Iterator<Item = &Argument> {
        self.arguments
            .iter()
            .filter(|argument| matches!(argument.role, Role::Sent { .. }))
    }
}

fn check_options(attributes: &[Attribute], mistakes: &mut Mistakes) -> Options {
    let written: Vec<_> = attributes
        .iter()
        .filter(|attribute| attributes::is_rpc(attribute.path()))
        .flat_map(|attribute| parse::attribute_options(attribute, mistakes))
        .collect();
    if let Some(path) = attributes::conditional_rpc(attributes) {
        mistakes.at(path, "`#[rpc]` cannot stand behind `cfg_attr`: write it out, or write the method twice behind `cfg`");
    }
    Options::check(&written, Level::Method, mistakes)
}

fn check_modifiers(signature: &Signature, mistakes: &mut Mistakes) {
    if let Some(token) = signature.constness {
        mistakes.at(
            token,
            "a remote method cannot be run by the compiler: write `async fn`",
        );
    }
    match &signature.safety {
        Safety::Unsafe(token) => mistakes.at(
            token,
            "a caller elsewhere has nothing to promise: remove `unsafe`",
        ),
        Safety::Safe(token) => mistakes.at(token, "a method is safe anyway: remove `safe`"),
        Safety::Default => {}
    }
    if let Some(abi) = &signature.abi {
        mistakes.at(
            abi,
            "a remote method is called through messages, not by an ABI: remove this",
        );
    }
    if let Some(variadic) = &signature.variadic {
        mistakes.at(
            variadic,
            "the arguments of a message are fixed: take a `Vec<…>` instead",
        );
    }
}

fn check_running(
    written: &TraitItemFn,
    options: &Options,
    mistakes: &mut Mistakes,
) -> Option<Running> {
    let signature = &written.sig;
    let ident = &signature.ident;
    match (signature.asyncness, &options.blocking) {
        (Some(token), Some(_)) if written.default.is_some() => {
            mistakes.at(
                token,
                "the body of a blocking method cannot `.await`: remove `async`",
            );
            Some(Running::Blocking)
        }
        (_, Some(_)) => Some(Running::Blocking),
        (Some(_), None) => Some(Running::Async),
        // Already said, beside `const`.
        (None, None) if signature.constness.is_some() => None,
        (None, None) => {
            let keyword = signature.fn_token;
            let output = match future_output(&signature.output) {
                Some(output) => format!("(…) -> {}", output.to_token_stream()),
                None => String::new(),
            };
            mistakes.at(
                quote!(#keyword #ident),
                format!(
                    "a remote method is `async`: write `async fn {ident}{output}`, or mark it `#[rpc(blocking)]` to run \
                     its handler on the blocking pool"
                ),
            );
            None
        }
    }
}

/// The `T` of `-> impl Future<Output = T>`, which is how `async fn` can be written too.
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

fn check_generics(signature: &Signature, mistakes: &mut Mistakes) {
    if !signature.generics.params.is_empty() {
        mistakes.at(
            &signature.generics,
            "a remote method cannot be generic, for the server has to know the types: make them parameters of the trait, \
             or use concrete types",
        );
    }
    if let Some(clause) = &signature.generics.where_clause {
        mistakes.at(
            clause,
            "a remote method has no bounds of its own: move them to the trait",
        );
    }
}

fn check_inputs(
    signature: &Signature,
    has_body: bool,
    mistakes: &mut Mistakes,
) -> (Option<Receiver>, Vec<Argument>) {
    let mut receiver = None;
    let mut arguments: Vec<Argument> = Vec::new();
    for input in &signature.inputs {
        match input {
            FnArg::Receiver(written) => {
                check_receiver(written, mistakes);
                receiver = Some(written.clone());
            }
            FnArg::Typed(written) => {
                let Some(argument) = Argument::check(written, has_body, mistakes) else {
                    continue;
                };
                for earlier in &arguments {
                    check_pair(earlier, &argument, mistakes);
                }
                arguments.push(argument);
            }
        }
    }
    (receiver, arguments)
}

fn check_receiver(receiver: &Receiver, mistakes: &mut Mistakes) {
    match &receiver.kind {
        ReceiverKind::Reference(_, None, None) if receiver.attrs.is_empty() => {}
        _ => mistakes.at(
            receiver,
            "calls run at the same time and share the handler: write `&self`, and keep what changes behind a lock",
        ),
    }
}

fn check_pair(earlier: &Argument, argument: &Argument, mistakes: &mut Mistakes) {
    match (&earlier.role, &argument.role) {
        _ if earlier.ident() == argument.ident() => {
            mistakes.at(
                argument.ident(),
                format!(
                    "two arguments are called `{}`: rename one",
                    argument.ident()
                ),
            );
        }
        (Role::Context(_), Role::Context(attribute)) => {
            mistakes.at(
                attribute,
                "there is one context to a call: remove the second `#[ctx]`",
            );
        }
        (Role::Sent { name: first, .. }, Role::Sent { name: second, .. }) if first == second => {
            mistakes.at(
                argument.ident(),
                format!("two arguments have the name `{second}` on the wire: rename one"),
            );
        }
        _ => {}
    }
}

fn check_output(
    signature: &Signature,
    options: &Options,
    running: Option<Running>,
    mistakes: &mut Mistakes,
) -> Type {
    let ReturnType::Type(_, ty) = &signature.output else {
        return parse_quote!(());
    };
    let is_unit = matches!(&**ty, Type::Tuple(tuple) if tuple.elems.is_empty());
    if options.oneway.is_some() && !is_unit {
        mistakes.at(
            &signature.output,
            "a `oneway` method has no reply that could carry a value: remove the return type, or `oneway`",
        );
    } else if running.is_none() && future_output(&signature.output).is_some() {
        // Already said: it should be `async fn`.
    } else {
        owned::check(ty, mistakes);
    }
    (**ty).clone()
}

fn check_name(ident: &Ident, mistakes: &mut Mistakes) {
    let name = ident.unraw().to_string();
    if let Some((name, taken)) = TAKEN.iter().find(|(taken, _)| *taken == name) {
        mistakes.at(
            ident,
            format!(
                "`client.{name}(…)` would call {taken}: rename the method, and keep the name on the wire with \
                 `#[rpc(name = \"{name}\")]`"
            ),
        );
    }
}

fn answer(output: &Type, generics: &Generics) -> Answer {
    match output {
        Type::Tuple(_) | Type::Array(_) => Answer::Plain,
        Type::Path(path)
            if path.qself.is_none() && path.path.get_ident().is_some_and(is_primitive) =>
        {
            Answer::Plain
        }
        _ if !owned::names_parameter(output, generics) => Answer::Asked,
        Type::Path(path) => Answer::Named {
            result: path
                .path
                .segments
                .last()
                .is_some_and(|last| last.ident.to_string().ends_with("Result")),
        },
        _ => Answer::Named { result: false },
    }
}

fn is_primitive(ident: &Ident) -> bool {
    const PRIMITIVES: &[&str] = &[
        "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16",
        "u32", "u64", "u128", "usize",
    ];
    PRIMITIVES.iter().any(|primitive| ident == primitive)
}
