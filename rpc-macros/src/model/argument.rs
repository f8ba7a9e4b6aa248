//! Arguments of a method.

use proc_macro2::Ident;
use quote::ToTokens as _;
use syn::ext::IdentExt as _;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, LitStr, Meta, Pat, PatIdent, PatType, Type, TypeReference};

use crate::attributes;
use crate::diagnostics::Diagnostics;
use crate::model::stream::Stream;
use crate::model::wire_type;

/// One argument of a method.
pub(crate) struct Argument {
    /// Lint levels. They stay on the trait's method.
    pub(crate) attributes: Vec<Attribute>,
    /// `n` or `mut n`.
    pub(crate) pattern: PatIdent,
    pub(crate) ty: Type,
    pub(crate) role: Role,
}

/// The source of an argument.
pub(crate) enum Role {
    /// The caller sends the argument under this name.
    Sent { name: String, serde: Vec<Attribute> },
    /// The caller sends items, after the other arguments. Descriptions give the stream this name.
    Items { name: String, stream: Stream },
    /// The server provides the argument, which has this `#[ctx]`.
    Context(Attribute),
}

impl Argument {
    /// Checks one argument. Returns `None` if it has no name.
    pub(crate) fn check(
        written: &PatType,
        has_body: bool,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let ArgumentAttributes {
            context,
            serde,
            lints,
        } = ArgumentAttributes::check(&written.attrs, diagnostics);
        let stream = Stream::check(&written.ty, diagnostics);
        match (&context, &*written.ty) {
            (None, _) if stream.is_some() => {}
            (Some(attribute), _) if stream.is_some() => diagnostics.at(
                attribute,
                "`#[ctx]` marks the context, and this argument is a stream: remove `#[ctx]`",
            ),
            (None, Type::Reference(ty)) if is_called_context(&ty.elem) => {
                diagnostics.at(ty, borrowed_context(&written.pat, ty));
            }
            (None, ty) => wire_type::check(ty, diagnostics),
            (Some(_), Type::Reference(ty)) => {
                let (pattern, owned) = (
                    written.pat.to_token_stream(),
                    wire_type::owned_form(&ty.elem),
                );
                diagnostics.at(
                    ty,
                    format!(
                        "the context is owned by the handler: write `#[ctx] {pattern}: {owned}`"
                    ),
                );
            }
            // The compiler checks that the type is `Context`.
            (Some(_), _) => {}
        }
        let pattern = check_pattern(&written.pat, has_body, diagnostics)?;
        let role = match (context, stream) {
            (None, Some(stream)) => {
                for attribute in &serde {
                    diagnostics.at(
                        attribute,
                        "`#[serde(…)]` has no effect on a stream, whose items are sent one by one: remove it, and put it into the type of \
                         the items",
                    );
                }
                Role::Items {
                    name: stream_name(&pattern.ident, diagnostics),
                    stream,
                }
            }
            (Some(context), _) => {
                for attribute in &serde {
                    diagnostics.at(
                        attribute,
                        "`#[serde(…)]` has no effect on the context, which is not sent: remove it",
                    );
                }
                Role::Context(context)
            }
            (None, None) => Role::Sent {
                name: wire_name(&pattern.ident, &serde, diagnostics),
                serde,
            },
        };
        Some(Self {
            attributes: lints,
            pattern,
            ty: (*written.ty).clone(),
            role,
        })
    }

    pub(crate) fn ident(&self) -> &Ident {
        &self.pattern.ident
    }

    /// Returns the effects of the argument's `#[serde(…)]` on descriptions.
    pub(crate) fn serde_form(&self) -> SerdeForm {
        let mut form = SerdeForm::default();
        if let Role::Sent { serde, .. } = &self.role {
            each_serde_option(serde, |meta| {
                let is = |name| meta.path.is_ident(name);
                form.has_default |= is("default") || is("skip") || is("skip_deserializing");
                form.is_read_by_function |= is("with") || is("deserialize_with");
                form.has_own_form |= is("with") || is("deserialize_with") || is("serialize_with");
                Ok(())
            });
        }
        form
    }

    /// Returns `true` if the type is called `Context`, by any path. The macro cannot know if it is `rpc_core::Context`.
    pub(crate) fn is_called_context(&self) -> bool {
        is_called_context(&self.ty)
    }
}

/// Effects of `#[serde(…)]` on the description of an argument.
#[derive(Default)]
pub(crate) struct SerdeForm {
    /// A request may leave the argument out, no matter its type.
    pub(crate) has_default: bool,
    /// Functions write or read the argument in another form than its type has.
    pub(crate) has_own_form: bool,
    /// A function reads the argument. Then serde requires the argument, even if it is an `Option`.
    pub(crate) is_read_by_function: bool,
}

fn is_called_context(ty: &Type) -> bool {
    matches!(ty, Type::Path(ty) if ty.path.segments.last().is_some_and(|last| last.ident == "Context"))
}

/// The error message for a type such as `&Context` without `#[ctx]`.
fn borrowed_context(pattern: &Pat, ty: &TypeReference) -> String {
    let (pattern, owned) = (pattern.to_token_stream(), wire_type::owned_form(&ty.elem));
    format!(
        "`{}` is borrowed, and arguments must be owned: write `#[ctx] {pattern}: {owned}` for the context of the call, or remove the `&` \
         if the type is your own",
        wire_type::text(ty)
    )
}

/// The attributes of an argument by purpose.
#[derive(Default)]
struct ArgumentAttributes {
    context: Option<Attribute>,
    serde: Vec<Attribute>,
    lints: Vec<Attribute>,
}

impl ArgumentAttributes {
    fn check(attributes: &[Attribute], diagnostics: &mut Diagnostics) -> Self {
        let mut sorted = Self::default();
        for attribute in attributes {
            let path = attribute.path();
            if path.is_ident("ctx") {
                if !matches!(attribute.meta, Meta::Path(_)) {
                    diagnostics.at(attribute, "`ctx` has no options: write `#[ctx]`");
                }
                sorted.context = Some(attribute.clone());
            } else if path.is_ident("serde") {
                sorted.serde.push(attribute.clone());
            } else if attributes::is_lint(path) {
                sorted.lints.push(attribute.clone());
            } else {
                diagnostics.at(attribute, unknown_attribute(attribute));
            }
        }
        sorted
    }
}

fn unknown_attribute(attribute: &Attribute) -> &'static str {
    let path = attribute.path();
    if path.is_ident("cfg") || path.is_ident("cfg_attr") {
        "arguments cannot depend on `cfg`, because callers and servers must agree on them: put the `cfg` on the method"
    } else if path.is_ident("doc") {
        "arguments cannot have doc comments: describe them in the docs of the method"
    } else if attributes::is_rpc(path) {
        "arguments have no `#[rpc(…)]` options: put the attribute above `fn`"
    } else {
        "unsupported attribute of an argument: write `#[ctx]`, `#[serde(…)]` or a lint level such as `#[allow(…)]`"
    }
}

fn check_pattern(pattern: &Pat, has_body: bool, diagnostics: &mut Diagnostics) -> Option<PatIdent> {
    let simple = match pattern {
        Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => pattern,
        _ => {
            diagnostics.at(
                pattern,
                "an argument must have a name, which is sent with it: write `name: Type`",
            );
            return None;
        }
    };
    if let (Some(token), false) = (&simple.mutability, has_body) {
        diagnostics.at(token, "`mut` has no effect on a method without a body: remove it here, and write it in the `impl`");
    }
    Some(simple.clone())
}

fn wire_name(ident: &Ident, serde: &[Attribute], diagnostics: &mut Diagnostics) -> String {
    if let Some(renamed) = renamed(serde) {
        return renamed.value();
    }
    let name = ident.unraw().to_string();
    if let Some(plain) = without_underscore(&name) {
        diagnostics.at(
            ident,
            format!(
                "argument names are sent and must not begin with an underscore: write `{plain}`, or \
                 `#[serde(rename = \"{plain}\")] {name}`"
            ),
        );
    }
    name
}

/// Returns the name of a stream, which descriptions show.
fn stream_name(ident: &Ident, diagnostics: &mut Diagnostics) -> String {
    let name = ident.unraw().to_string();
    if let Some(plain) = without_underscore(&name) {
        diagnostics.at(
            ident,
            format!(
                "names of streams are part of the contract and must not begin with an underscore: write `{plain}`"
            ),
        );
    }
    name
}

/// Returns the name to write instead of one that begins with an underscore.
fn without_underscore(name: &str) -> Option<&str> {
    match name.strip_prefix('_')?.trim_start_matches('_') {
        "" => Some("name"),
        plain => Some(plain),
    }
}

/// Returns the name in `#[serde(rename = "…")]`.
fn renamed(serde: &[Attribute]) -> Option<LitStr> {
    let mut name = None;
    each_serde_option(serde, |meta| {
        if meta.path.is_ident("rename") && !meta.input.peek(syn::token::Paren) {
            name = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("rename") {
            meta.parse_nested_meta(|side| {
                let text: LitStr = side.value()?.parse()?;
                // The list of names serves to read the arguments of callers.
                if side.path.is_ident("deserialize") {
                    name = Some(text);
                }
                Ok(())
            })?;
        }
        Ok(())
    });
    name
}

/// Calls a function for each option in `#[serde(…)]`. The function need not parse the option's value. serde reports syntax errors in its
/// attributes.
fn each_serde_option(
    serde: &[Attribute],
    mut visit: impl FnMut(&ParseNestedMeta<'_>) -> syn::Result<()>,
) {
    for attribute in serde {
        let _ = attribute.parse_nested_meta(|meta| {
            visit(&meta)?;
            if meta.input.peek(syn::Token![=]) {
                let _: syn::Expr = meta.value()?.parse()?;
            } else if meta.input.peek(syn::token::Paren) {
                let _: proc_macro2::Group = meta.input.parse()?;
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::quote;
    use syn::FnArg;

    fn form(argument: &PatType) -> (bool, bool, bool) {
        let mut diagnostics = Diagnostics::default();
        let argument = Argument::check(argument, false, &mut diagnostics).expect("a name");
        assert_eq!(diagnostics.messages(), Vec::<String>::new());
        let form = argument.serde_form();
        (
            form.has_default,
            form.has_own_form,
            form.is_read_by_function,
        )
    }

    #[test]
    fn options_of_serde_affect_the_description() {
        let typed = |tokens| match syn::parse2(tokens) {
            Ok(FnArg::Typed(argument)) => form(&argument),
            _ => panic!("not an argument"),
        };
        assert_eq!(typed(quote!(n: u8)), (false, false, false));
        assert_eq!(
            typed(quote!(#[serde(rename(deserialize = "m"), alias = "k", default)] n: u8)),
            (true, false, false)
        );
        assert_eq!(
            typed(quote!(#[serde(default = "five", with = "form")] n: u8)),
            (true, true, true)
        );
        assert_eq!(
            typed(quote!(#[serde(rename = "m")] #[serde(serialize_with = "write")] n: u8)),
            (false, true, false)
        );
    }
}
