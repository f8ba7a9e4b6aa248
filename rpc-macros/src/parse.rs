//! Tokens to syntax: the annotated item and the options of `#[rpc(…)]`, with their spans. `model` checks their meaning.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream, Parser as _};
use syn::{Attribute, Expr, Ident, Item, ItemTrait, Meta, Token, Type};

use crate::diagnostics::Diagnostics;

/// One unchecked option: `oneway` or `timeout = "2s"`.
pub(crate) struct RawOption {
    pub(crate) name: Ident,
    pub(crate) value: Option<Expr>,
}

impl Parse for RawOption {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if !input.peek(Ident::peek_any) {
            return Err(input.error("expected an option, such as `timeout = \"2s\"`"));
        }
        let name = Ident::parse_any(input)?;
        if input.is_empty() {
            return Ok(Self { name, value: None });
        }
        if !input.peek(Token![=]) {
            let rest: TokenStream = input.parse()?;
            return Err(syn::Error::new_spanned(
                rest,
                format!("expected `{name} = …`, or a comma before the next option"),
            ));
        }
        let equals: Token![=] = input.parse()?;
        if input.is_empty() {
            return Err(syn::Error::new_spanned(
                quote!(#name #equals),
                format!("expected a value after `{name} =`"),
            ));
        }
        let value = input.parse()?;
        if !input.is_empty() {
            let rest: TokenStream = input.parse()?;
            return Err(syn::Error::new_spanned(
                rest,
                "expected a comma before the next option",
            ));
        }
        Ok(Self {
            name,
            value: Some(value),
        })
    }
}

impl ToTokens for RawOption {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        self.name.to_tokens(tokens);
        if let Some(value) = &self.value {
            // The span of the `=` does not matter: an error marks the range from the first token to the last.
            tokens.extend(quote!(= #value));
        }
    }
}

/// Parses the options between the parentheses of `#[rpc(…)]`. Each option is parsed separately, so that a syntax error in
/// one does not hide errors in the others.
pub(crate) fn options(tokens: TokenStream, diagnostics: &mut Diagnostics) -> Vec<RawOption> {
    split_at_commas(tokens)
        .into_iter()
        .filter_map(|piece| match syn::parse2(piece) {
            Ok(option) => Some(option),
            Err(error) => {
                diagnostics.push(error);
                None
            }
        })
        .collect()
}

/// Parses the options of one `#[rpc]` attribute on a method.
pub(crate) fn attribute_options(
    attribute: &Attribute,
    diagnostics: &mut Diagnostics,
) -> Vec<RawOption> {
    match &attribute.meta {
        Meta::Path(_) => Vec::new(),
        Meta::List(list) => options(list.tokens.clone(), diagnostics),
        Meta::NameValue(pair) => {
            diagnostics.at(
                pair,
                "expected options in parentheses: write `#[rpc(name = \"…\")]`",
            );
            Vec::new()
        }
    }
}

/// Splits a list at its top-level commas and drops empty parts.
pub(crate) fn split_at_commas(tokens: TokenStream) -> Vec<TokenStream> {
    let mut pieces = vec![TokenStream::new()];
    for token in tokens {
        match (&token, pieces.last_mut()) {
            (TokenTree::Punct(punct), _) if punct.as_char() == ',' => {
                pieces.push(TokenStream::new());
            }
            (_, Some(piece)) => piece.extend([token]),
            (_, None) => {}
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// Parses the trait under `#[rpc]`.
pub(crate) fn item_trait(tokens: TokenStream) -> syn::Result<ItemTrait> {
    match syn::parse2(tokens)? {
        Item::Trait(item) => Ok(item),
        other => Err(not_a_trait(&other)),
    }
}

fn not_a_trait(item: &Item) -> syn::Error {
    if let Some(keyword) = mock(item) {
        return syn::Error::new_spanned(
            keyword,
            "`#[automock]` above `#[rpc]` copies `#[rpc]` to the mock, which is not a trait: write `#[rpc]` above `#[automock]`",
        );
    }
    let (tokens, found) = match item {
        Item::Impl(item) => {
            let impl_token = item.impl_token;
            let self_ty = &item.self_ty;
            let (head, advice) = match &item.trait_ {
                Some((path, for_token)) => {
                    let name = path
                        .segments
                        .last()
                        .map_or_else(String::new, |last| last.ident.to_string());
                    (
                        quote!(#impl_token #path #for_token #self_ty),
                        format!("put `#[rpc]` on `trait {name}`"),
                    )
                }
                None => (
                    quote!(#impl_token #self_ty),
                    "declare the methods in a trait and put `#[rpc]` on the trait".to_owned(),
                ),
            };
            return syn::Error::new_spanned(
                head,
                format!("`#[rpc]` can only be applied to a trait, not to an `impl`: {advice}"),
            );
        }
        Item::Struct(item) => (head(item.struct_token, &item.ident), "a struct"),
        Item::Enum(item) => (head(item.enum_token, &item.ident), "an enum"),
        Item::Union(item) => (head(item.union_token, &item.ident), "a union"),
        Item::Fn(item) => (head(item.sig.fn_token, &item.sig.ident), "a function"),
        Item::Mod(item) => (head(item.mod_token, &item.ident), "a module"),
        Item::Const(item) => (head(item.const_token, &item.ident), "a constant"),
        Item::Static(item) => (head(item.static_token, &item.ident), "a static"),
        Item::Type(item) => (head(item.type_token, &item.ident), "a type alias"),
        Item::TraitAlias(item) => (head(item.trait_token, &item.ident), "a trait alias"),
        other => (other.to_token_stream(), "this item"),
    };
    syn::Error::new_spanned(
        tokens,
        format!(
            "`#[rpc]` can only be applied to a trait, not to {found}: write `#[rpc] trait … {{ async fn …; }}`"
        ),
    )
}

/// Returns the keyword of an item that mockall generates beside a trait, with the attributes of the trait. The keywords of
/// all these items have the span of `#[automock]`, so the compiler reports the error once.
fn mock(item: &Item) -> Option<&dyn ToTokens> {
    let (keyword, ident, prefix): (&dyn ToTokens, _, _) = match item {
        Item::Struct(item) => (&item.struct_token, &item.ident, "Mock"),
        Item::Mod(item) => (&item.mod_token, &item.ident, "__mock_"),
        Item::Impl(item) => match &*item.self_ty {
            Type::Path(ty) => (&item.impl_token, &ty.path.segments.last()?.ident, "Mock"),
            _ => return None,
        },
        _ => return None,
    };
    ident.to_string().starts_with(prefix).then_some(keyword)
}

fn head(keyword: impl ToTokens, ident: &Ident) -> TokenStream {
    quote!(#keyword #ident)
}

/// Parses the path to a crate or module in the option `crate`.
pub(crate) fn module_path(text: &str, span: Span) -> Option<syn::Path> {
    let mut path = syn::Path::parse_mod_style.parse_str(text).ok()?;
    for segment in &mut path.segments {
        segment.ident.set_span(span);
    }
    Some(path)
}
