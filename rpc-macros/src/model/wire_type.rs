//! Types of arguments and return values: concrete, owned, and the same on both sides.

use proc_macro2::Ident;
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{GenericArgument, Generics, Type, TypePath};

use crate::diagnostics::Diagnostics;
use crate::model::stream::{is_stream, misspelt};

/// Reports the parts of an argument's or return value's type that cannot be sent.
pub(crate) fn check(ty: &Type, diagnostics: &mut Diagnostics) {
    // Inside another type, as in `Box<str>`, unsized types are allowed.
    let is_unsized = match ty {
        Type::Slice(_) => true,
        Type::Path(path) => path.path.is_ident("str"),
        _ => false,
    };
    if is_unsized {
        diagnostics.at(
            ty,
            format!(
                "the size of `{}` is not known: write `{}`",
                text(ty),
                owned_form(ty)
            ),
        );
    } else {
        Owned { diagnostics }.visit_type(ty);
    }
}

/// Returns `true` if the visited syntax mentions `Self`.
pub(crate) fn mentions_self(visit: impl FnOnce(&mut MentionsSelf)) -> bool {
    let mut finder = MentionsSelf(false);
    visit(&mut finder);
    finder.0
}

/// Returns `true` if a type mentions one of the trait's type or const parameters.
pub(crate) fn mentions_parameter(ty: &Type, generics: &Generics) -> bool {
    let mut finder = MentionsParameter {
        generics,
        found: false,
    };
    finder.visit_type(ty);
    finder.found
}

struct Owned<'a> {
    diagnostics: &'a mut Diagnostics,
}

impl<'ast> Visit<'ast> for Owned<'_> {
    fn visit_type(&mut self, ty: &'ast Type) {
        if let Some(message) = misspelt(ty) {
            self.diagnostics.at(ty, message);
            return;
        }
        let message = match ty {
            Type::Reference(reference) => format!(
                "`{}` is borrowed, and types that are sent must be owned: write `{}`",
                text(ty),
                owned_form(&reference.elem)
            ),
            Type::ImplTrait(_) if is_stream(ty) => format!(
                "`{0}` is inside another type: a stream can be an argument, the return type, or the first part of a `Result` (or an \
                 alias whose name ends in `Result`) that is returned. Instead of an `Option` or a tuple, return `Result<{0}, E>`. To send \
                 several values at once, write `Vec<…>`",
                text(ty)
            ),
            Type::ImplTrait(_) => {
                format!(
                    "`{}` is not a concrete type: write the type that is sent",
                    text(ty)
                )
            }
            Type::TraitObject(_) => format!(
                "`{}` is not a concrete type, which the receiver must know: write a concrete type, such as an enum of \
                 the possible types",
                text(ty)
            ),
            Type::Infer(_) => "`_` is not a concrete type: write the type that is sent".to_owned(),
            Type::Never(_) => "`!` has no values that could be sent: write `()`".to_owned(),
            Type::Ptr(_) | Type::FnPtr(_) => format!(
                "`{}` is an address, which is not valid in another process: send the value",
                text(ty)
            ),
            Type::Path(path) if is_self(path) => {
                "`Self` is the handler's type, which clients do not know: write a concrete type"
                    .to_owned()
            }
            _ => return visit::visit_type(self, ty),
        };
        self.diagnostics.at(ty, message);
    }

    fn visit_generic_argument(&mut self, argument: &'ast GenericArgument) {
        match argument {
            GenericArgument::Lifetime(lifetime) if lifetime.ident != "static" => self.diagnostics.at(
                lifetime,
                format!("a type with the lifetime `{lifetime}` is borrowed, and types that are sent must be owned: write an owned type"),
            ),
            _ => visit::visit_generic_argument(self, argument),
        }
    }

    /// Visits paths outside types, such as the length of an array.
    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        if mentions_self(|finder| finder.visit_expr_path(path)) {
            self.diagnostics.at(
                path,
                "`Self` is the handler's type, which clients do not know: write the value, or a constant outside the trait",
            );
        }
    }
}

/// Returns `true` for `Self`, `Self::Item` and `<Self as Trait>::Item`.
fn is_self(path: &TypePath) -> bool {
    path.path
        .segments
        .first()
        .is_some_and(|first| first.ident == "Self")
        || path
            .qself
            .as_ref()
            .is_some_and(|qself| mentions_self(|finder| finder.visit_type(&qself.ty)))
}

/// Returns the owned type to write instead of a borrowed one.
pub(crate) fn owned_form(ty: &Type) -> String {
    match ty {
        Type::Path(path) if path.path.is_ident("str") => "String".to_owned(),
        Type::Slice(slice) => format!("Vec<{}>", owned_form(&slice.elem)),
        Type::Reference(reference) => owned_form(&reference.elem),
        Type::Paren(paren) => owned_form(&paren.elem),
        Type::Group(group) => owned_form(&group.elem),
        _ => text(ty),
    }
}

/// Returns the text of a type with usual spacing.
pub(crate) fn text(ty: impl ToTokens) -> String {
    let tight = [
        "& ", " <", "< ", " >", " ,", " ::", ":: ", " ;", "* ", " (", "( ", " )", "[ ", " ]",
    ];
    let mut text = ty.to_token_stream().to_string();
    for spaced in tight {
        text = text.replace(spaced, spaced.trim());
    }
    text
}

pub(crate) struct MentionsSelf(bool);

impl<'ast> Visit<'ast> for MentionsSelf {
    fn visit_ident(&mut self, ident: &'ast Ident) {
        self.0 |= ident == "Self";
    }
}

struct MentionsParameter<'a> {
    generics: &'a Generics,
    found: bool,
}

impl<'ast> Visit<'ast> for MentionsParameter<'_> {
    fn visit_ident(&mut self, ident: &'ast Ident) {
        self.found |= self
            .generics
            .type_params()
            .any(|parameter| parameter.ident == *ident)
            || self
                .generics
                .const_params()
                .any(|parameter| parameter.ident == *ident);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        // A macro's expansion is not known here. A macro that is given a parameter probably uses it.
        for token in invocation.tokens.clone() {
            if let proc_macro2::TokenTree::Ident(ident) = token {
                self.visit_ident(&ident);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn diagnostics(ty: &Type) -> Vec<String> {
        let mut diagnostics = Diagnostics::default();
        check(ty, &mut diagnostics);
        diagnostics.messages()
    }

    #[test]
    fn errors_suggest_the_owned_type() {
        let cases: [(Type, &str); 5] = [
            (
                parse_quote!(&str),
                "`&str` is borrowed, and types that are sent must be owned: write `String`",
            ),
            (parse_quote!(&'static [&str]), "write `Vec<String>`"),
            (
                parse_quote!(&mut HashMap<String, Vec<u8>>),
                "write `HashMap<String, Vec<u8>>`",
            ),
            (
                parse_quote!(Option<&(u8, u8)>),
                "`&(u8, u8)` is borrowed, and types that are sent must be owned: write `(u8, u8)`",
            ),
            (
                parse_quote!([u8]),
                "the size of `[u8]` is not known: write `Vec<u8>`",
            ),
        ];
        for (ty, expected) in cases {
            let diagnostics = diagnostics(&ty);
            assert!(
                diagnostics.len() == 1 && diagnostics[0].contains(expected),
                "{diagnostics:?}"
            );
        }
    }

    #[test]
    fn owned_types_are_accepted() {
        let types: [Type; 4] = [
            parse_quote!(Box<str>),
            parse_quote!(Cow<'static, [u8]>),
            parse_quote!([(u8, Option<String>); 3]),
            parse_quote!(<Vec<u8> as IntoIterator>::Item),
        ];
        for ty in types {
            assert_eq!(diagnostics(&ty), Vec::<String>::new());
        }
    }
}
