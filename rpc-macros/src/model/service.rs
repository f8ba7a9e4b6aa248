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
use crate::mistakes::Mistakes;
use crate::model::Method;
use crate::model::options::{self, Level, Options};
use crate::model::owned::names_self;
use crate::parse;

/// A trait that keeps all the rules.
pub(crate) struct Service {
    /// All but `#[rpc]`.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    pub(crate) supertraits: Punctuated<TypeParamBound, Token![+]>,
    /// The path to `rpc_core`.
    pub(crate) krate: Path,
    pub(crate) name: String,
    pub(crate) queue: String,
    pub(crate) client: Ident,
    pub(crate) dispatcher: Ident,
    /// The name of the client's own type parameter; one that the trait does not use for anything else.
    pub(crate) service_parameter: Ident,
    /// The same for the dispatcher's.
    pub(crate) handler_parameter: Ident,
    pub(crate) methods: Vec<Method>,
    pub(crate) alternatives: Vec<Alternatives>,
}

/// A trait that does not: what is wrong, and what could be read nevertheless.
pub(crate) struct Broken {
    pub(crate) mistakes: Mistakes,
    pub(crate) item: ItemTrait,
    /// For each item of the trait the method, if that is one without a mistake.
    pub(crate) methods: Vec<Option<Method>>,
}

impl Service {
    /// Checks every rule.
    pub(crate) fn check(options: TokenStream, item: ItemTrait) -> Result<Self, Box<Broken>> {
        let mut mistakes = Mistakes::default();
        let written = parse::options(options, &mut mistakes);
        let options = Options::check(&written, Level::Trait, &mut mistakes);
        if let Some(error) = async_trait(&item) {
            mistakes.push(error);
            // Nothing else of what it made of the trait is the user's.
            return Err(Box::new(Broken {
                mistakes,
                methods: item.items.iter().map(|_| None).collect(),
                item,
            }));
        }
        let krate = options
            .krate
            .unwrap_or_else(|| default_crate(&mut mistakes));
        check_head(&item, &mut mistakes);
        let name = name(
            &item.ident,
            options.name.as_ref(),
            options.queue.is_none(),
            &mut mistakes,
        );
        let queue = options
            .queue
            .map_or_else(|| default_queue(&name), |queue| queue.value());
        let (methods, alternatives) =
            check_items(&item, &queue, options.timeout_millis, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(Box::new(Broken {
                mistakes,
                item,
                methods,
            }));
        }
        let used = identifiers(item.to_token_stream());
        Ok(Self {
            attributes: attributes::without_rpc(&item.attrs),
            krate,
            queue,
            name,
            client: format_ident!("{}Client", item.ident),
            dispatcher: format_ident!("{}Dispatcher", item.ident),
            service_parameter: unused("S", &used),
            handler_parameter: unused("H", &used),
            visibility: item.vis,
            ident: item.ident,
            generics: item.generics,
            supertraits: item.supertraits,
            methods: methods.into_iter().flatten().collect(),
            alternatives,
        })
    }
}

/// The mistake of a trait that `#[async_trait]` has rewritten, for it stood above `#[rpc]`, or is about to.
fn async_trait(item: &ItemTrait) -> Option<syn::Error> {
    let message = "`#[async_trait]` does not go with `#[rpc]`, which makes `async fn` in traits work by itself: remove `#[async_trait]` \
                   here and from every `impl` of this trait";
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

/// Tells whether `#[async_trait]` has been here: each of its methods has a lifetime of that name.
pub(crate) fn is_rewritten(signature: &Signature) -> bool {
    let mut lifetimes = signature.generics.lifetimes();
    lifetimes.any(|parameter| parameter.lifetime.ident == "async_trait")
}

/// What stands before the braces.
fn check_head(item: &ItemTrait, mistakes: &mut Mistakes) {
    for attribute in item
        .attrs
        .iter()
        .filter(|attribute| attributes::is_rpc(attribute.path()))
    {
        mistakes.at(
            attribute,
            "a trait has one `#[rpc]`: put all options into one",
        );
    }
    if let Some(path) = attributes::conditional_rpc(&item.attrs) {
        mistakes.at(
            path,
            "`#[rpc]` cannot stand behind `cfg_attr`: write it out",
        );
    }
    if let Some(token) = item.unsafety {
        mistakes.at(
            token,
            "a remote service has nothing for its implementors to promise: remove `unsafe`",
        );
    }
    if let Some(token) = item.modifiers.auto_token {
        mistakes.at(token, "a service is implemented by hand: remove `auto`");
    }
    for parameter in &item.generics.params {
        check_parameter(parameter, mistakes);
    }
    for predicate in item
        .generics
        .where_clause
        .iter()
        .flat_map(|clause| &clause.predicates)
    {
        // Bounds of `Self` itself are supertraits, which stay on the trait alone.
        if !is_supertrait(predicate) && names_self(|finder| finder.visit_where_predicate(predicate))
        {
            mistakes.at(predicate, bound_on_self());
        }
    }
}

fn check_parameter(parameter: &GenericParam, mistakes: &mut Mistakes) {
    match parameter {
        GenericParam::Lifetime(lifetime) => mistakes.at(
            lifetime,
            "a service outlives every borrow: remove the lifetime parameter and use owned types",
        ),
        GenericParam::Type(parameter) => {
            for bound in &parameter.bounds {
                if names_self(|finder| finder.visit_type_param_bound(bound)) {
                    mistakes.at(bound, bound_on_self());
                }
            }
        }
        GenericParam::Const(_) => {}
    }
}

fn bound_on_self() -> &'static str {
    "the client has the same bounds, and no `Self` to go with them: write a bound without `Self`"
}

/// Whether it is of the form `Self: Bounds`.
pub(crate) fn is_supertrait(predicate: &WherePredicate) -> bool {
    match predicate {
        WherePredicate::Type(predicate) => {
            matches!(&predicate.bounded_ty, syn::Type::Path(path) if path.qself.is_none() && path.path.is_ident("Self"))
        }
        _ => false,
    }
}

fn name(ident: &Ident, given: Option<&LitStr>, in_queue: bool, mistakes: &mut Mistakes) -> String {
    let name = given.map_or_else(|| ident.unraw().to_string(), LitStr::value);
    let queue_len = default_queue(&name).len();
    if in_queue && queue_len > options::MAX_QUEUE {
        let message = format!(
            "the queue `rpc.…` of this name would have {}: shorten the name, or set `queue = \"…\"`",
            options::too_long(queue_len)
        );
        match given {
            Some(given) => mistakes.at(given, message),
            None => mistakes.at(ident, message),
        }
    }
    name
}

fn default_queue(name: &str) -> String {
    format!("rpc.{name}")
}

/// What stands between the braces.
fn check_items(
    item: &ItemTrait,
    queue: &str,
    timeout_millis: Option<u64>,
    mistakes: &mut Mistakes,
) -> (Vec<Option<Method>>, Vec<Alternatives>) {
    let mut names = WireNames::default();
    let methods = item
        .items
        .iter()
        .map(|inner| match inner {
            TraitItem::Fn(function) => {
                let before = mistakes.len();
                let method =
                    Method::check(function, &item.generics, queue, timeout_millis, mistakes);
                names.check(&method, mistakes);
                (mistakes.len() == before).then_some(method)
            }
            other => {
                mistakes.at(head_of(other), only_methods(other));
                None
            }
        })
        .collect();
    (methods, names.alternatives)
}

fn only_methods(item: &TraitItem) -> &'static str {
    match item {
        TraitItem::Type(_) => {
            "a service has methods only, and the client could not know this type: use a type parameter of the trait, as \
             in `trait Store<T>`, or a concrete type"
        }
        TraitItem::Const(_) => "a service has methods only: move the constant out of the trait",
        TraitItem::Macro(_) => {
            "`#[rpc]` has to see every method, and cannot look inside a macro: write the methods out"
        }
        _ => "a service has methods only: remove this",
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

/// What the methods so far are called on the wire.
#[derive(Default)]
struct WireNames {
    seen: Vec<Seen>,
    alternatives: Vec<Alternatives>,
}

/// A method so far.
struct Seen {
    name: String,
    is_default: bool,
    /// Its `cfg`s.
    conditions: Vec<TokenStream>,
}

/// Two methods that cannot both be there. Both are behind `cfg`s, so it is the compiler that knows.
pub(crate) struct Alternatives {
    /// The `cfg`s of both.
    pub(crate) conditions: Vec<TokenStream>,
    /// What to say if all of them hold.
    pub(crate) mistake: syn::Error,
}

impl WireNames {
    fn check(&mut self, method: &Method, mistakes: &mut Mistakes) {
        let method_conditions = attributes::conditions(&method.attributes);
        let message = format!(
            "two methods have the name `{}` on the wire: give one another with `#[rpc(name = \"…\")]`",
            method.name
        );
        let mistake = syn::Error::new_spanned(method.name_tokens(), message);
        self.exclude(
            |seen| seen.name == method.name,
            &method_conditions,
            mistake,
            mistakes,
        );
        if let Some(default) = &method.options.default {
            let message =
                "only one method can be the one for requests that name none: remove one `default`";
            let mistake = syn::Error::new_spanned(default, message);
            self.exclude(
                |seen| seen.is_default,
                &method_conditions,
                mistake,
                mistakes,
            );
        }
        self.seen.push(Seen {
            name: method.name.clone(),
            is_default: method.options.default.is_some(),
            conditions: method_conditions,
        });
    }

    /// It is a mistake if any such method is there together with one that has these `cfg`s.
    fn exclude(
        &mut self,
        is_meant: impl Fn(&Seen) -> bool,
        conditions: &[TokenStream],
        mistake: syn::Error,
        mistakes: &mut Mistakes,
    ) {
        for seen in self.seen.iter().filter(|seen| is_meant(seen)) {
            if seen.conditions.is_empty() || conditions.is_empty() {
                return mistakes.push(mistake);
            }
            self.alternatives.push(Alternatives {
                conditions: [&seen.conditions, conditions].concat(),
                mistake: mistake.clone(),
            });
        }
    }
}

/// The path to `rpc_core`, unless it is given.
fn default_crate(mistakes: &mut Mistakes) -> Path {
    let own = parse_quote!(::rpc_core);
    match dependency::name() {
        Name::Own => own,
        Name::New(name) => syn::parse_str(&format!("::{name}")).unwrap_or(own),
        Name::Missing => {
            mistakes.push(syn::Error::new(
                Span::call_site(),
                "this crate does not depend on `rpc_core` itself, which the generated code names: add `rpc-core` to its `Cargo.toml`, or \
                 say where another crate exports it, as in `#[rpc(crate = \"facade::rpc_core\")]`",
            ));
            own
        }
    }
}

/// Every identifier in the tokens, at any depth.
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

/// A type parameter shadows the user's types of the same name, hygiene or not, so it has to have a name of its own.
fn unused(wanted: &str, used: &[String]) -> Ident {
    let free = iter::once(wanted.to_owned())
        .chain((1..).map(|number| format!("{wanted}{number}")))
        .find(|name| !used.contains(name))
        .unwrap_or_default();
    Ident::new(&free, Span::call_site())
}
