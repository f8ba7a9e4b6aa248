//! Types that can be sent: concrete, owned and the same on both sides.

use proc_macro2::Ident;
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{GenericArgument, Generics, Type, TypePath};

use crate::mistakes::Mistakes;

/// Notes what in a type of an argument or a return value cannot be sent.
pub(crate) fn check(ty: &Type, mistakes: &mut Mistakes) {
    // Behind a pointer, as in `Box<str>`, these are well owned.
    let is_unsized = match ty {
        Type::Slice(_) => true,
        Type::Path(path) => path.path.is_ident("str"),
        _ => false,
    };
    if is_unsized {
        mistakes.at(
            ty,
            format!(
                "`{}` has no size of its own: write `{}`",
                text(ty),
                owned(ty)
            ),
        );
    } else {
        Owned { mistakes }.visit_type(ty);
    }
}

/// Whether `Self` is named anywhere in it.
pub(crate) fn names_self(visit: impl FnOnce(&mut NamesSelf)) -> bool {
    let mut finder = NamesSelf(false);
    visit(&mut finder);
    finder.0
}

/// Whether a type names one of the trait's type or const parameters.
pub(crate) fn names_parameter(ty: &Type, generics: &Generics) -> bool {
    let mut finder = NamesParameter {
        generics,
        found: false,
    };
    finder.visit_type(ty);
    finder.found
}

struct Owned<'a> {
    mistakes: &'a mut Mistakes,
}

impl<'ast> Visit<'ast> for Owned<'_> {
    fn visit_type(&mut self, ty: &'ast Type) {
        let message = match ty {
            Type::Reference(reference) => format!(
                "`{}` is borrowed, and what is sent must be owned: write `{}`",
                text(ty),
                owned(&reference.elem)
            ),
            Type::ImplTrait(_) => {
                format!(
                    "`{}` does not say which type is sent: write a concrete type",
                    text(ty)
                )
            }
            Type::TraitObject(_) => format!(
                "`{}` could be any type, and the receiver has to know which: write a concrete type, such as an enum of \
                 the choices",
                text(ty)
            ),
            Type::Infer(_) => "`_` does not say which type is sent: write it out".to_owned(),
            Type::Never(_) => "`!` is never sent: write `()`".to_owned(),
            Type::Ptr(_) | Type::FnPtr(_) => format!(
                "`{}` is an address, which means nothing in another process: send the value itself",
                text(ty)
            ),
            Type::Path(path) if is_self(path) => {
                "`Self` is the handler, which the client does not know: write a concrete type"
                    .to_owned()
            }
            _ => return visit::visit_type(self, ty),
        };
        self.mistakes.at(ty, message);
    }

    fn visit_generic_argument(&mut self, argument: &'ast GenericArgument) {
        match argument {
            GenericArgument::Lifetime(lifetime) if lifetime.ident != "static" => self.mistakes.at(
                lifetime,
                format!("a type with `{lifetime}` is borrowed, and what is sent must be owned: write an owned type"),
            ),
            _ => visit::visit_generic_argument(self, argument),
        }
    }

    /// Paths outside types: the length of an array.
    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        if names_self(|finder| finder.visit_expr_path(path)) {
            self.mistakes.at(
                path,
                "`Self` is the handler, which the client does not know: write the value or name a constant outside the trait",
            );
        }
    }
}

/// `Self`, `Self::Item` or `<Self as Trait>::Item`.
fn is_self(path: &TypePath) -> bool {
    path.path
        .segments
        .first()
        .is_some_and(|first| first.ident == "Self")
        || path
            .qself
            .as_ref()
            .is_some_and(|qself| names_self(|finder| finder.visit_type(&qself.ty)))
}

/// The owned type to write instead of a borrowed one.
pub(crate) fn owned(ty: &Type) -> String {
    match ty {
        Type::Path(path) if path.path.is_ident("str") => "String".to_owned(),
        Type::Slice(slice) => format!("Vec<{}>", owned(&slice.elem)),
        Type::Reference(reference) => owned(&reference.elem),
        Type::Paren(paren) => owned(&paren.elem),
        Type::Group(group) => owned(&group.elem),
        _ => text(ty),
    }
}

/// The type, spaced as people write it.
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

pub(crate) struct NamesSelf(bool);

impl<'ast> Visit<'ast> for NamesSelf {
    fn visit_ident(&mut self, ident: &'ast Ident) {
        self.0 |= ident == "Self";
    }
}

struct NamesParameter<'a> {
    generics: &'a Generics,
    found: bool,
}

impl<'ast> Visit<'ast> for NamesParameter<'_> {
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
        // What a macro makes of its tokens cannot be known; one that is given a parameter will use it.
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

    fn mistakes(ty: &Type) -> Vec<String> {
        let mut mistakes = Mistakes::default();
        check(ty, &mut mistakes);
        mistakes.messages()
    }

    #[test]
    fn the_owned_type_is_suggested() {
        let cases: [(Type, &str); 5] = [
            (
                parse_quote!(&str),
                "`&str` is borrowed, and what is sent must be owned: write `String`",
            ),
            (parse_quote!(&'static [&str]), "write `Vec<String>`"),
            (
                parse_quote!(&mut HashMap<String, Vec<u8>>),
                "write `HashMap<String, Vec<u8>>`",
            ),
            (
                parse_quote!(Option<&(u8, u8)>),
                "`&(u8, u8)` is borrowed, and what is sent must be owned: write `(u8, u8)`",
            ),
            (
                parse_quote!([u8]),
                "`[u8]` has no size of its own: write `Vec<u8>`",
            ),
        ];
        for (ty, expected) in cases {
            let mistakes = mistakes(&ty);
            assert!(
                mistakes.len() == 1 && mistakes[0].contains(expected),
                "{mistakes:?}"
            );
        }
    }

    #[test]
    fn owned_types_pass() {
        let types: [Type; 4] = [
            parse_quote!(Box<str>),
            parse_quote!(Cow<'static, [u8]>),
            parse_quote!([(u8, Option<String>); 3]),
            parse_quote!(<Vec<u8> as IntoIterator>::Item),
        ];
        for ty in types {
            assert_eq!(mistakes(&ty), Vec::<String>::new());
        }
    }
}
