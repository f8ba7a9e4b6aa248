//! The user's attributes and the generated items that take them over.
//!
//! All attributes except `#[rpc]` stay on the trait and its methods. Generated items take over docs, `deprecated`, `cfg` and
//! lint levels, also inside `cfg_attr`. Other attributes, such as `#[tracing::instrument]`, concern the user's code alone.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::{AttrStyle, Attribute, Expr, Meta, Path};

use crate::parse::split_at_commas;

/// The effect of an attribute on a generated item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `#[cfg(…)]`
    Condition,
    /// Doc comments and `#[doc = …]`
    Text,
    /// `#[doc(hidden)]` and other settings
    DocSetting,
    Deprecation,
    /// `allow`, `expect`, `warn`, `deny`, `forbid`
    Lint,
    Other,
}

/// Returns `true` for `#[rpc]`, by any path.
pub(crate) fn is_rpc(path: &Path) -> bool {
    path.segments.last().is_some_and(|last| last.ident == "rpc")
}

/// Returns `true` for `#[async_trait]`, by any path.
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

/// Attributes that stay on the user's item: all except `#[rpc]`.
pub(crate) fn without_rpc(attributes: &[Attribute]) -> Vec<Attribute> {
    attributes
        .iter()
        .filter(|attribute| !is_rpc(attribute.path()))
        .cloned()
        .collect()
}

/// Attributes for the client and its methods, which have the docs of the trait.
pub(crate) fn for_client(attributes: &[Attribute]) -> Vec<TokenStream> {
    carried(attributes, |kind| kind != Kind::Other)
}

/// Attributes for the dispatcher, which has generated docs.
pub(crate) fn for_dispatcher(attributes: &[Attribute]) -> Vec<TokenStream> {
    carried(attributes, |kind| !matches!(kind, Kind::Other | Kind::Text))
}

/// Attributes for hidden items.
pub(crate) fn for_hidden(attributes: &[Attribute]) -> Vec<TokenStream> {
    carried(attributes, |kind| {
        matches!(kind, Kind::Condition | Kind::Lint)
    })
}

/// Attributes for expressions and match arms: `cfg`s.
pub(crate) fn conditions(attributes: &[Attribute]) -> Vec<TokenStream> {
    carried(attributes, |kind| kind == Kind::Condition)
}

/// Returns `true` if the item has a `cfg`.
pub(crate) fn is_conditional(attributes: &[Attribute]) -> bool {
    !conditions(attributes).is_empty()
}

/// Returns `true` if the item has a doc comment.
pub(crate) fn is_documented(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| kind(&attribute.meta) == Kind::Text)
}

/// Returns the texts of the doc comment, also expressions such as `include_str!(…)`, without those inside `cfg_attr`.
pub(crate) fn texts(attributes: &[Attribute]) -> Vec<&Expr> {
    let outer = attributes
        .iter()
        .filter(|attribute| matches!(attribute.style, AttrStyle::Outer));
    outer
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if kind(&attribute.meta) == Kind::Text => Some(&pair.value),
            _ => None,
        })
        .collect()
}

/// Returns the path of an `#[rpc]` inside `cfg_attr`, which a macro cannot evaluate.
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

/// Turns `expect` into `allow`, because the expected lint may occur in the user's code only, and `forbid` into `deny`, because
/// `forbid` would reject the `allow`s of generated code.
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

/// Splits `cfg_attr(condition, attributes…)` into the condition and the attributes.
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
    fn relevant_parts_of_a_conditional_attribute_are_carried() {
        let attributes: Vec<Attribute> = vec![
            parse_quote!(#[cfg_attr(unix, cfg(a), tracing::instrument, cfg_attr(b, deprecated))]),
        ];
        assert_eq!(
            text(&for_client(&attributes)),
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
    fn rpc_is_found_inside_cfg_attr() {
        assert!(
            conditional_rpc(&[parse_quote!(#[cfg_attr(a, cfg_attr(b, my::rpc(oneway)))])])
                .is_some()
        );
        assert!(conditional_rpc(&[parse_quote!(#[cfg_attr(a, doc = "rpc")])]).is_none());
    }
}
