//! The trait as a whole.

use std::iter;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt as _;
use syn::punctuated::Punctuated;
use syn::visit::Visit as _;
use syn::{
    Attribute, GenericParam, Generics, ItemTrait, LitStr, Path, Signature, Token, TraitItem,
    TypeParamBound, Visibility, WherePredicate, parse_quote,
};

use crate::attributes;
use crate::dependency::{self, Name};
use crate::diagnostics::Diagnostics;
use crate::model::Method;
use crate::model::options::{self, Level, Options};
use crate::model::wire_type::mentions_self;
use crate::names::{MAX_QUEUE_NAME, MAX_SERVICE_NAME, QUEUE_PREFIX};
use crate::parse;

/// A checked trait.
pub(crate) struct Service {
    /// All attributes except `#[rpc]`.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    pub(crate) supertraits: Punctuated<TypeParamBound, Token![+]>,
    /// The path to `rpc_core`.
    pub(crate) krate: Path,
    pub(crate) name: String,
    pub(crate) queue: String,
    /// The option `version`.
    pub(crate) version: Option<String>,
    pub(crate) client: Ident,
    pub(crate) dispatcher: Ident,
    /// The name of the client's additional type parameter. The trait does not use this name.
    pub(crate) service_parameter: Ident,
    /// The name of the dispatcher's additional type parameter. The trait does not use this name.
    pub(crate) handler_parameter: Ident,
    pub(crate) methods: Vec<Method>,
    pub(crate) conflicts: Vec<Conflict>,
}

/// A trait with errors.
pub(crate) struct InvalidTrait {
    pub(crate) diagnostics: Diagnostics,
    pub(crate) item: ItemTrait,
    /// The path to `rpc_core`.
    pub(crate) krate: Path,
    /// For each item of the trait the method, or `None` if the item has an error or is not a method.
    pub(crate) methods: Vec<Option<Method>>,
}

impl Service {
    /// Checks all rules.
    pub(crate) fn check(options: TokenStream, item: ItemTrait) -> Result<Self, Box<InvalidTrait>> {
        let mut diagnostics = Diagnostics::default();
        let written = parse::options(options, &mut diagnostics);
        let options = Options::check(&written, Level::Trait, &mut diagnostics);
        if let Some(error) = async_trait(&item) {
            diagnostics.push(error);
            // `#[async_trait]` has rewritten the rest, so errors in it would not concern the user's code.
            return Err(Box::new(InvalidTrait {
                diagnostics,
                krate: parse_quote!(::rpc_core),
                methods: item.items.iter().map(|_| None).collect(),
                item,
            }));
        }
        let krate = options
            .krate
            .unwrap_or_else(|| default_crate(&mut diagnostics));
        check_head(&item, &mut diagnostics);
        let name = name(
            &item.ident,
            options.name.as_ref(),
            options.queue.is_none(),
            &mut diagnostics,
        );
        let queue = options
            .queue
            .map_or_else(|| default_queue(&name), |queue| queue.value());
        let (methods, conflicts) =
            check_items(&item, &queue, options.timeout_millis, &mut diagnostics);
        if !diagnostics.is_empty() {
            return Err(Box::new(InvalidTrait {
                diagnostics,
                item,
                krate,
                methods,
            }));
        }
        let used = identifiers(item.to_token_stream());
        Ok(Self {
            attributes: attributes::without_rpc(&item.attrs),
            krate,
            queue,
            name,
            version: options.version.map(|version| version.value()),
            client: format_ident!("{}Client", item.ident),
            dispatcher: format_ident!("{}Dispatcher", item.ident),
            service_parameter: unused("S", &used),
            handler_parameter: unused("H", &used),
            visibility: item.vis,
            ident: item.ident,
            generics: item.generics,
            supertraits: item.supertraits,
            methods: methods.into_iter().flatten().collect(),
            conflicts,
        })
    }
}

/// Returns an error if `#[async_trait]` stands below `#[rpc]`, or has rewritten the trait because it stands above.
fn async_trait(item: &ItemTrait) -> Option<syn::Error> {
    let message = "`#[async_trait]` cannot be combined with `#[rpc]`, which supports `async fn` itself: remove `#[async_trait]` here \
                   and from every `impl` of this trait";
    let below = item
        .attrs
        .iter()
        .find(|attribute| attributes::is_async_trait(attribute));
    if let Some(attribute) = below {
        return Some(syn::Error::new_spanned(attribute, message));
    }
    item.items.iter().find_map(|inner| match inner {
        TraitItem::Fn(function) if is_rewritten(&function.sig) => {
            Some(syn::Error::new_spanned(&function.sig.output, message))
        }
        _ => None,
    })
}

/// Returns `true` if `#[async_trait]` has rewritten the method: it adds a lifetime of that name.
pub(crate) fn is_rewritten(signature: &Signature) -> bool {
    let mut lifetimes = signature.generics.lifetimes();
    lifetimes.any(|parameter| parameter.lifetime.ident == "async_trait")
}

/// Checks the trait's declaration before the braces.
fn check_head(item: &ItemTrait, diagnostics: &mut Diagnostics) {
    for attribute in item
        .attrs
        .iter()
        .filter(|attribute| attributes::is_rpc(attribute.path()))
    {
        diagnostics.at(
            attribute,
            "a trait can have one `#[rpc]`: write all options in one attribute",
        );
    }
    if let Some(path) = attributes::conditional_rpc(&item.attrs) {
        diagnostics.at(
            path,
            "`#[rpc]` cannot be conditional: write it without `cfg_attr`",
        );
    }
    if let Some(token) = item.unsafety {
        diagnostics.at(
            token,
            "a remote service cannot be an `unsafe trait`: remove `unsafe`",
        );
    }
    if let Some(token) = item.modifiers.auto_token {
        diagnostics.at(
            token,
            "a remote service cannot be an `auto trait`: remove `auto`",
        );
    }
    for parameter in &item.generics.params {
        check_parameter(parameter, diagnostics);
    }
    for predicate in item
        .generics
        .where_clause
        .iter()
        .flat_map(|clause| &clause.predicates)
    {
        // Bounds of `Self` are supertraits, which stay on the trait.
        if !is_supertrait(predicate)
            && mentions_self(|finder| finder.visit_where_predicate(predicate))
        {
            diagnostics.at(predicate, bound_on_self());
        }
    }
}

fn check_parameter(parameter: &GenericParam, diagnostics: &mut Diagnostics) {
    match parameter {
        GenericParam::Lifetime(lifetime) => diagnostics.at(
            lifetime,
            "a service cannot have lifetime parameters, because it is `'static`: remove the parameter, and write owned types",
        ),
        GenericParam::Type(parameter) => {
            for bound in &parameter.bounds {
                if mentions_self(|finder| finder.visit_type_param_bound(bound)) {
                    diagnostics.at(bound, bound_on_self());
                }
            }
        }
        GenericParam::Const(_) => {}
    }
}

fn bound_on_self() -> &'static str {
    "bounds cannot mention `Self`, because the client repeats them: write a bound without `Self`"
}

/// Returns `true` for a predicate of the form `Self: Bounds`.
pub(crate) fn is_supertrait(predicate: &WherePredicate) -> bool {
    match predicate {
        WherePredicate::Type(predicate) => {
            matches!(&predicate.bounded_ty, syn::Type::Path(path) if path.qself.is_none() && path.path.is_ident("Self"))
        }
        _ => false,
    }
}

fn name(
    ident: &Ident,
    given: Option<&LitStr>,
    in_queue: bool,
    diagnostics: &mut Diagnostics,
) -> String {
    let name = given.map_or_else(|| ident.unraw().to_string(), LitStr::value);
    let queue_len = default_queue(&name).len();
    // The option `name` is checked already.
    if given.is_none() && name.len() > MAX_SERVICE_NAME {
        diagnostics.at(ident, options::too_long_service(name.len()));
        return name;
    }
    if in_queue && queue_len > MAX_QUEUE_NAME {
        let message = format!(
            "the queue `{QUEUE_PREFIX}…` of this name would have {}: shorten the name, or write `queue = \"…\"`",
            options::too_long(queue_len)
        );
        match given {
            Some(given) => diagnostics.at(given, message),
            None => diagnostics.at(ident, message),
        }
    }
    name
}

fn default_queue(name: &str) -> String {
    format!("{QUEUE_PREFIX}{name}")
}

/// Checks the items between the braces.
fn check_items(
    item: &ItemTrait,
    queue: &str,
    timeout_millis: Option<u64>,
    diagnostics: &mut Diagnostics,
) -> (Vec<Option<Method>>, Vec<Conflict>) {
    let mut names = WireNames::default();
    let methods = item
        .items
        .iter()
        .map(|inner| match inner {
            TraitItem::Fn(function) => {
                let before = diagnostics.len();
                let method =
                    Method::check(function, &item.generics, queue, timeout_millis, diagnostics);
                names.check(&method, diagnostics);
                (diagnostics.len() == before).then_some(method)
            }
            other => {
                diagnostics.at(head_of(other), only_methods(other));
                None
            }
        })
        .collect();
    (methods, names.conflicts)
}

fn only_methods(item: &TraitItem) -> &'static str {
    match item {
        TraitItem::Type(_) => {
            "a service cannot have associated types, because clients do not know the handler: write a type parameter of the \
             trait, as in `trait Store<T>`, or a concrete type"
        }
        TraitItem::Const(_) => {
            "a service cannot have associated constants: move the constant out of the trait"
        }
        TraitItem::Macro(_) => {
            "`#[rpc]` cannot expand macros inside a trait: write the methods without the macro"
        }
        _ => "a service can only have methods: remove this item",
    }
}

fn head_of(item: &TraitItem) -> TokenStream {
    match item {
        TraitItem::Type(item) => {
            let (keyword, ident) = (item.type_token, &item.ident);
            quote!(#keyword #ident)
        }
        TraitItem::Const(item) => {
            let (keyword, ident) = (item.const_token, &item.ident);
            quote!(#keyword #ident)
        }
        other => other.to_token_stream(),
    }
}

/// Names on the wire of the methods that were checked so far.
#[derive(Default)]
struct WireNames {
    seen: Vec<Declared>,
    conflicts: Vec<Conflict>,
}

/// A method that was checked.
struct Declared {
    name: String,
    is_default: bool,
    /// The method's `cfg`s.
    conditions: Vec<TokenStream>,
}

/// Two methods that must not both exist. Both have `cfg`s, so only the compiler knows if they do.
pub(crate) struct Conflict {
    /// The `cfg`s of both methods.
    pub(crate) conditions: Vec<TokenStream>,
    /// The error if all conditions hold.
    pub(crate) error: syn::Error,
}

impl WireNames {
    fn check(&mut self, method: &Method, diagnostics: &mut Diagnostics) {
        let method_conditions = attributes::conditions(&method.attributes);
        let message = format!(
            "two methods have the name `{}` on the wire: rename one with `#[rpc(name = \"…\")]`",
            method.name
        );
        let error = syn::Error::new_spanned(method.name_tokens(), message);
        self.exclude(
            |seen| seen.name == method.name,
            &method_conditions,
            error,
            diagnostics,
        );
        if let Some(default) = &method.options.default {
            let message = "only one method can be the default for requests without a method name: remove one `default`";
            let error = syn::Error::new_spanned(default, message);
            self.exclude(
                |seen| seen.is_default,
                &method_conditions,
                error,
                diagnostics,
            );
        }
        self.seen.push(Declared {
            name: method.name.clone(),
            is_default: method.options.default.is_some(),
            conditions: method_conditions,
        });
    }

    /// Adds an error for each such method that exists together with a method that has these `cfg`s.
    fn exclude(
        &mut self,
        is_meant: impl Fn(&Declared) -> bool,
        conditions: &[TokenStream],
        error: syn::Error,
        diagnostics: &mut Diagnostics,
    ) {
        for seen in self.seen.iter().filter(|seen| is_meant(seen)) {
            if seen.conditions.is_empty() || conditions.is_empty() {
                return diagnostics.push(error);
            }
            self.conflicts.push(Conflict {
                conditions: [&seen.conditions, conditions].concat(),
                error: error.clone(),
            });
        }
    }
}

/// The path to `rpc_core` without the option `crate`.
fn default_crate(diagnostics: &mut Diagnostics) -> Path {
    let own = parse_quote!(::rpc_core);
    match dependency::name() {
        Name::Own => own,
        Name::New(name) => syn::parse_str(&format!("::{name}")).unwrap_or(own),
        Name::Missing => {
            diagnostics.push(syn::Error::new(
                Span::call_site(),
                "generated code needs `rpc_core`, and this crate does not depend on it: add `rpc-core` to `Cargo.toml`, or write the path \
                 to another crate's export, as in `#[rpc(crate = \"facade::rpc_core\")]`",
            ));
            own
        }
    }
}

/// Returns all identifiers in the tokens, at any depth.
fn identifiers(tokens: TokenStream) -> Vec<String> {
    tokens
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Ident(ident) => vec![ident.to_string()],
            TokenTree::Group(group) => identifiers(group.stream()),
            _ => Vec::new(),
        })
        .collect()
}

/// Returns a name for a type parameter that is not in use. A type parameter would shadow a type of the user with the same
/// name, regardless of hygiene.
fn unused(wanted: &str, used: &[String]) -> Ident {
    let free = iter::once(wanted.to_owned())
        .chain((1..).map(|number| format!("{wanted}{number}")))
        .find(|name| !used.contains(name))
        .unwrap_or_default();
    Ident::new(&free, Span::call_site())
}
