//! Which of the user's attributes go where.
//!
//! All of them but `#[rpc]` stay on the trait and its methods. What is generated takes along those that describe it
//! (docs, `deprecated`), decide whether it exists (`cfg`) or set how it is linted (`allow` and its kin), also where they
//! are hidden behind `cfg_attr`. Others, such as `#[tracing::instrument]`, are about the user's own code.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::{AttrStyle, Attribute, Meta, Path};

use crate::parse::split_at_commas;

/// What an attribute does for an item that it is carried to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `#[cfg(…)]`
    Condition,
    /// Doc comments and `#[doc = …]`
    Text,
    /// `#[doc(hidden)]` and the like
    DocSetting,
    Deprecation,
    /// `allow`, `expect`, `warn`, `deny`, `forbid`
    Lint,
    Other,
}

/// `#[rpc]`, by whatever path.
pub(crate) fn is_rpc(path: &Path) -> bool {
    path.segments.last().is_some_and(|last| last.ident == "rpc")
}

/// `#[async_trait]`, by whatever path.
pub(crate) fn is_async_trait(attribute: &Attribute) -> bool {
    let path = attribute.path();
    path.segments
        .last()
        .is_some_and(|last| last.ident == "async_trait")
}

pub(crate) fn is_lint(path: &Path) -> bool {
    ["allow", "expect", "warn", "deny", "forbid"]
        .iter()
        .any(|name| path.is_ident(name))
}

/// What stays on the user's own item: everything but `#[rpc]`.
pub(crate) fn without_rpc(attributes: &[Attribute]) -> Vec<Attribute> {
    attributes
        .iter()
        .filter(|attribute| !is_rpc(attribute.path()))
        .cloned()
        .collect()
}

/// For what stands for the trait or a method in the user's documentation: the client and its methods.
pub(crate) fn for_twin(attributes: &[Attribute]) -> Vec<TokenStream> {
    carried(attributes, |kind| kind != Kind::Other)
}

/// For what has docs of its own: the dispatcher.
pub(crate) fn for_companion(attributes: &[Attribute]) -> Vec<TokenStream> {
    carried(attributes, |kind| !matches!(kind, Kind::Other | Kind::Text))
}

/// For hidden items.
pub(crate) fn for_hidden(attributes: &[Attribute]) -> Vec<TokenStream> {
    carried(attributes, |kind| {
        matches!(kind, Kind::Condition | Kind::Lint)
    })
}

/// For expressions and match arms.
pub(crate) fn conditions(attributes: &[Attribute]) -> Vec<TokenStream> {
    carried(attributes, |kind| kind == Kind::Condition)
}

/// Whether `cfg` decides over the item.
pub(crate) fn is_conditional(attributes: &[Attribute]) -> bool {
    !conditions(attributes).is_empty()
}

/// Whether the item has a doc comment.
pub(crate) fn is_documented(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| kind(&attribute.meta) == Kind::Text)
}

/// `#[rpc]` behind a `cfg_attr`, which no macro can look through.
pub(crate) fn conditional_rpc(attributes: &[Attribute]) -> Option<Path> {
    fn inside(meta: &Meta) -> Option<Path> {
        conditional(meta)?
            .1
            .iter()
            .find_map(|meta| match is_rpc(meta.path()) {
                true => Some(meta.path().clone()),
                false => inside(meta),
            })
    }
    attributes
        .iter()
        .find_map(|attribute| inside(&attribute.meta))
}

fn kind(meta: &Meta) -> Kind {
    let path = meta.path();
    if path.is_ident("cfg") {
        Kind::Condition
    } else if path.is_ident("doc") {
        match meta {
            Meta::NameValue(_) => Kind::Text,
            _ => Kind::DocSetting,
        }
    } else if path.is_ident("deprecated") {
        Kind::Deprecation
    } else if is_lint(path) {
        Kind::Lint
    } else {
        Kind::Other
    }
}

fn carried(attributes: &[Attribute], keep: fn(Kind) -> bool) -> Vec<TokenStream> {
    attributes
        .iter()
        .filter(|attribute| matches!(attribute.style, AttrStyle::Outer))
        .filter_map(|attribute| carried_meta(&attribute.meta, keep))
        .map(|meta| quote!(#[#meta]))
        .collect()
}

fn carried_meta(meta: &Meta, keep: fn(Kind) -> bool) -> Option<TokenStream> {
    if let Some((condition, metas)) = conditional(meta) {
        let kept: Vec<_> = metas
            .iter()
            .filter_map(|meta| carried_meta(meta, keep))
            .collect();
        return (!kept.is_empty()).then(|| quote!(cfg_attr(#condition, #(#kept),*)));
    }
    let kind = kind(meta);
    if !keep(kind) {
        return None;
    }
    Some(match (kind, meta) {
        (Kind::Lint, Meta::List(list)) => {
            let (level, lints) = (carried_level(&list.path), &list.tokens);
            quote!(#level(#lints))
        }
        _ => meta.to_token_stream(),
    })
}

/// An `expect` may well be fulfilled by the user's code alone, and a `forbid` would outlaw the `allow`s of generated code.
fn carried_level(path: &Path) -> Path {
    let Some(level) = path.get_ident() else {
        return path.clone();
    };
    match level.to_string().as_str() {
        "expect" => Ident::new("allow", level.span()).into(),
        "forbid" => Ident::new("deny", level.span()).into(),
        _ => path.clone(),
    }
}

/// The condition and the attributes of a `cfg_attr(condition, attributes…)`.
fn conditional(meta: &Meta) -> Option<(TokenStream, Vec<Meta>)> {
    let list = meta.require_list().ok()?;
    if !list.path.is_ident("cfg_attr") {
        return None;
    }
    let mut parts = split_at_commas(list.tokens.clone()).into_iter();
    let condition = parts.next()?;
    Some((
        condition,
        parts.filter_map(|part| syn::parse2(part).ok()).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn text(tokens: &[TokenStream]) -> String {
        quote!(#(#tokens)*).to_string()
    }

    #[test]
    fn a_conditional_attribute_is_carried_in_the_parts_that_apply() {
        let attributes: Vec<Attribute> = vec![
            parse_quote!(#[cfg_attr(unix, cfg(a), tracing::instrument, cfg_attr(b, deprecated))]),
        ];
        assert_eq!(
            text(&for_twin(&attributes)),
            quote!(#[cfg_attr(unix, cfg(a), cfg_attr(b, deprecated))]).to_string()
        );
        assert_eq!(
            text(&conditions(&attributes)),
            quote!(#[cfg_attr(unix, cfg(a))]).to_string()
        );
        assert!(is_conditional(&attributes));
    }

    #[test]
    fn expect_is_carried_as_allow_and_forbid_as_deny() {
        let attributes: Vec<Attribute> = vec![
            parse_quote!(#[expect(deprecated)]),
            parse_quote!(#[forbid(unused)]),
        ];
        assert_eq!(
            text(&for_hidden(&attributes)),
            quote!(#[allow(deprecated)] #[deny(unused)]).to_string()
        );
    }

    #[test]
    fn rpc_is_found_behind_a_condition() {
        assert!(
            conditional_rpc(&[parse_quote!(#[cfg_attr(a, cfg_attr(b, my::rpc(oneway)))])])
                .is_some()
        );
        assert!(conditional_rpc(&[parse_quote!(#[cfg_attr(a, doc = "rpc")])]).is_none());
    }
}
