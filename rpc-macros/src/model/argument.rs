//! The arguments of a method.

use proc_macro2::Ident;
use quote::ToTokens as _;
use syn::ext::IdentExt as _;
use syn::{Attribute, LitStr, Meta, Pat, PatIdent, PatType, Type, TypeReference};

use crate::attributes;
use crate::mistakes::Mistakes;
use crate::model::owned;

/// One argument of a method.
pub(crate) struct Argument {
    /// Lint levels, which stay on the trait's method.
    pub(crate) attributes: Vec<Attribute>,
    /// `n` or `mut n`.
    pub(crate) pattern: PatIdent,
    pub(crate) ty: Type,
    pub(crate) role: Role,
}

/// Where the handler gets an argument from.
pub(crate) enum Role {
    /// From the caller, under this name.
    Sent { name: String, serde: Vec<Attribute> },
    /// From the server: it is marked with this `#[ctx]`.
    Context(Attribute),
}

impl Argument {
    /// Checks one argument. `None` if it has no name.
    pub(crate) fn check(
        written: &PatType,
        has_body: bool,
        mistakes: &mut Mistakes,
    ) -> Option<Self> {
        let Marks {
            context,
            serde,
            lints,
        } = Marks::check(&written.attrs, mistakes);
        match (&context, &*written.ty) {
            (None, Type::Reference(ty)) if is_called_context(&ty.elem) => {
                mistakes.at(ty, borrowed_context(&written.pat, ty));
            }
            (None, ty) => owned::check(ty, mistakes),
            (Some(_), Type::Reference(ty)) => {
                let (pattern, owned) = (written.pat.to_token_stream(), owned::owned(&ty.elem));
                mistakes.at(
                    ty,
                    format!("the handler owns its context: write `#[ctx] {pattern}: {owned}`"),
                );
            }
            // The compiler says whether it is a `Context`.
            (Some(_), _) => {}
        }
        let pattern = check_pattern(&written.pat, has_body, mistakes)?;
        let role = match context {
            Some(context) => {
                for attribute in &serde {
                    mistakes.at(attribute, "the context is not sent: remove `#[serde(…)]`");
                }
                Role::Context(context)
            }
            None => Role::Sent {
                name: wire_name(&pattern.ident, &serde, mistakes),
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

    /// Tells whether its type is called `Context`, by whatever path. Whose type that is, the compiler knows.
    pub(crate) fn is_called_context(&self) -> bool {
        is_called_context(&self.ty)
    }
}

fn is_called_context(ty: &Type) -> bool {
    matches!(ty, Type::Path(ty) if ty.path.segments.last().is_some_and(|last| last.ident == "Context"))
}

/// The mistake of a type such as `&Context` without `#[ctx]`.
fn borrowed_context(pattern: &Pat, ty: &TypeReference) -> String {
    let (pattern, owned) = (pattern.to_token_stream(), owned::owned(&ty.elem));
    format!(
        "`{}` is borrowed: write `#[ctx] {pattern}: {owned}` for the context of the call, which the handler owns, or remove the `&` for a \
         type of your own that callers send",
        owned::text(ty)
    )
}

/// The attributes of an argument.
#[derive(Default)]
struct Marks {
    context: Option<Attribute>,
    serde: Vec<Attribute>,
    lints: Vec<Attribute>,
}

impl Marks {
    fn check(attributes: &[Attribute], mistakes: &mut Mistakes) -> Self {
        let mut marks = Self::default();
        for attribute in attributes {
            let path = attribute.path();
            if path.is_ident("ctx") {
                if !matches!(attribute.meta, Meta::Path(_)) {
                    mistakes.at(attribute, "`ctx` has no options: write `#[ctx]`");
                }
                marks.context = Some(attribute.clone());
            } else if path.is_ident("serde") {
                marks.serde.push(attribute.clone());
            } else if attributes::is_lint(path) {
                marks.lints.push(attribute.clone());
            } else {
                mistakes.at(attribute, unknown_attribute(attribute));
            }
        }
        marks
    }
}

fn unknown_attribute(attribute: &Attribute) -> &'static str {
    let path = attribute.path();
    if path.is_ident("cfg") || path.is_ident("cfg_attr") {
        "an argument cannot depend on `cfg`, or callers and servers would disagree: put it on the method"
    } else if path.is_ident("doc") {
        "arguments have no docs of their own: describe them in the method's"
    } else if attributes::is_rpc(path) {
        "`#[rpc(…)]` is for the method: put it above `fn`"
    } else {
        "not an attribute of arguments: they can have `#[ctx]`, `#[serde(…)]` and lint levels such as `#[allow(…)]`"
    }
}

fn check_pattern(pattern: &Pat, has_body: bool, mistakes: &mut Mistakes) -> Option<PatIdent> {
    let simple = match pattern {
        Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => pattern,
        // A path or a literal is a pattern too, and `_` has no name either.
        _ => {
            mistakes.at(
                pattern,
                "an argument needs a name, which is its name on the wire: write `name: Type`",
            );
            return None;
        }
    };
    if let (Some(token), false) = (&simple.mutability, has_body) {
        mistakes.at(token, "`mut` is for the body, and this method has none: remove it here, and write it in the `impl`");
    }
    Some(simple.clone())
}

fn wire_name(ident: &Ident, serde: &[Attribute], mistakes: &mut Mistakes) -> String {
    if let Some(renamed) = renamed(serde) {
        return renamed.value();
    }
    let name = ident.unraw().to_string();
    if name.starts_with('_') {
        let plain = match name.trim_start_matches('_') {
            "" => "name",
            plain => plain,
        };
        mistakes.at(
            ident,
            format!(
                "an argument's name is its name on the wire, where an underscore says nothing: write `{plain}`, or \
                 `#[serde(rename = \"{plain}\")] {name}`"
            ),
        );
    }
    name
}

/// The name that `#[serde(rename = "…")]` gives. What serde does not understand, serde reports.
fn renamed(serde: &[Attribute]) -> Option<LitStr> {
    let mut name = None;
    for attribute in serde {
        let _ = attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("rename") && !meta.input.peek(syn::token::Paren) {
                name = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("rename") {
                meta.parse_nested_meta(|side| {
                    let text: LitStr = side.value()?.parse()?;
                    // The list of names is for reading what callers sent.
                    if side.path.is_ident("deserialize") {
                        name = Some(text);
                    }
                    Ok(())
                })?;
            } else if meta.input.peek(syn::Token![=]) {
                let _: syn::Expr = meta.value()?.parse()?;
            } else if meta.input.peek(syn::token::Paren) {
                let _: proc_macro2::Group = meta.input.parse()?;
            }
            Ok(())
        });
    }
    name
}
