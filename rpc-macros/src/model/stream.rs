//! Streams in signatures: `impl Stream<Item = T>`.

use quote::ToTokens;
use syn::punctuated::Punctuated;
use syn::{
    AngleBracketedGenericArguments, GenericArgument, PathArguments, PathSegment, Token, Type,
    TypeImplTrait, TypeParamBound, parse_quote,
};

use crate::diagnostics::Diagnostics;
use crate::model::wire_type;

/// A stream, as a return type, inside a returned `Result`, or as an argument.
#[derive(Clone)]
pub(crate) struct Stream {
    /// `impl Stream<Item = T>`, with all bounds.
    pub(crate) written: TypeImplTrait,
    pub(crate) item: Type,
}

impl Stream {
    /// Checks a type. Returns `None` if it is not a stream.
    pub(crate) fn check(ty: &Type, diagnostics: &mut Diagnostics) -> Option<Self> {
        let written = opaque(ty)?;
        let arguments = arguments(&written.bounds, "Stream")?;
        let item = associated(arguments, "Item");
        match item {
            Some(item) => wire_type::check(item, diagnostics),
            None => diagnostics.at(
                written,
                format!(
                    "`{}` does not say what its items are: write `impl Stream<Item = T>`",
                    wire_type::text(written)
                ),
            ),
        }
        Some(Self {
            written: written.clone(),
            item: item.cloned().unwrap_or_else(unit),
        })
    }

    /// Returns the type with further bounds, each unless it is written.
    pub(crate) fn with_bounds(&self, bounds: &[TypeParamBound]) -> Type {
        let mut opaque = self.written.clone();
        for bound in bounds {
            let name = |bound: &TypeParamBound| match bound {
                TypeParamBound::Trait(bound) => bound
                    .path
                    .segments
                    .last()
                    .map(|last| last.ident.to_string()),
                other => Some(other.to_token_stream().to_string()),
            };
            if opaque.bounds.iter().all(|it| name(it) != name(bound)) {
                opaque.bounds.push(bound.clone());
            }
        }
        Type::ImplTrait(opaque)
    }
}

/// Returns `true` for `impl Stream`, by any path.
pub(crate) fn is_stream(ty: &Type) -> bool {
    opaque(ty).is_some_and(|opaque| arguments(&opaque.bounds, "Stream").is_some())
}

/// Returns the error message about a type in place of which `impl Stream` is written in a trait; `None` for other types. Names decide, because the
/// compiler's message about such a type would not name the remedy.
pub(crate) fn misspelt(ty: &Type) -> Option<String> {
    let text = wire_type::text(ty);
    let message = match ty {
        Type::ImplTrait(opaque) => {
            if let Some(items) = arguments(&opaque.bounds, "Iterator") {
                let item = text_of(associated(items, "Item"));
                format!(
                    "`{text}` is not a concrete type: write `impl Stream<Item = {item}>` to send one item after the other, or \
                     `Vec<{item}>` to send all at once"
                )
            } else {
                let items = arguments(&opaque.bounds, "TryStream")?;
                let (ok, error) = (associated(items, "Ok"), associated(items, "Error"));
                format!(
                    "`{text}` is not supported: write `impl Stream<Item = Result<{}, {}>>`",
                    text_of(ok),
                    text_of(error)
                )
            }
        }
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            match (last.ident.to_string().as_str(), types(last).as_slice()) {
                ("Incoming", [item]) => format!(
                    "`{text}` is the stream that the handler receives: in the trait, write `impl Stream<Item = {}>`",
                    wire_type::text(item)
                ),
                ("Streaming", [item, _]) => format!(
                    "`{text}` is the stream that the caller gets: in the trait, write `impl Stream<Item = {}>`",
                    wire_type::text(item)
                ),
                ("Box" | "Pin", [_]) => {
                    let item = text_of(associated(boxed(ty)?, "Item"));
                    format!(
                        "`{text}` is a stream in a box: in the trait, write `impl Stream<Item = {item}>`"
                    )
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(message)
}

/// Returns the arguments of `Stream` in `Box<dyn Stream>` and `Pin<Box<dyn Stream>>`; the outer `None` for other types.
fn boxed(ty: &Type) -> Option<Option<&AngleBracketedGenericArguments>> {
    match ty {
        Type::TraitObject(object) => arguments(&object.bounds, "Stream"),
        Type::Paren(paren) => boxed(&paren.elem),
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            match types(last).as_slice() {
                [inner] if last.ident == "Box" || last.ident == "Pin" => boxed(inner),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Returns the types among the arguments of a type.
fn types(segment: &PathSegment) -> Vec<&Type> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return Vec::new();
    };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    types.collect()
}

/// Returns the text of a type, for an error message.
fn text_of(ty: Option<&Type>) -> String {
    ty.map_or_else(|| "…".to_owned(), wire_type::text)
}

/// Finds the stream in a return type: the whole type, or the first part of a type whose name ends in `Result`. The compiler cannot be asked
/// for such a type, because it has no name.
pub(crate) fn in_output(output: &mut Type) -> Option<&mut Type> {
    if is_stream(output) {
        return Some(output);
    }
    let Type::Path(path) = output else {
        return None;
    };
    let last = path.path.segments.last_mut()?;
    let PathArguments::AngleBracketed(arguments) = &mut last.arguments else {
        return None;
    };
    if !last.ident.to_string().ends_with("Result") {
        return None;
    }
    match arguments.args.first_mut()? {
        GenericArgument::Type(first) if is_stream(first) => Some(first),
        _ => None,
    }
}

/// Returns a return type with another type in place of its stream.
pub(crate) fn replaced(output: &Type, replacement: Type) -> Type {
    let mut output = output.clone();
    if let Some(stream) = in_output(&mut output) {
        *stream = replacement;
    }
    output
}

/// Returns the type `()`.
pub(crate) fn unit() -> Type {
    parse_quote!(())
}

fn opaque(ty: &Type) -> Option<&TypeImplTrait> {
    match ty {
        Type::ImplTrait(opaque) => Some(opaque),
        Type::Paren(paren) => opaque(&paren.elem),
        Type::Group(group) => opaque(&group.elem),
        _ => None,
    }
}

/// Returns the arguments of a bound, by the name of its trait; the outer `None` if there is no such bound.
fn arguments<'a>(
    bounds: &'a Punctuated<TypeParamBound, Token![+]>,
    name: &str,
) -> Option<Option<&'a AngleBracketedGenericArguments>> {
    bounds.iter().find_map(|bound| {
        let TypeParamBound::Trait(bound) = bound else {
            return None;
        };
        let last = bound.path.segments.last()?;
        (last.ident == name).then_some(match &last.arguments {
            PathArguments::AngleBracketed(arguments) => Some(arguments),
            _ => None,
        })
    })
}

/// Returns the associated type of a bound.
fn associated<'a>(
    arguments: Option<&'a AngleBracketedGenericArguments>,
    name: &str,
) -> Option<&'a Type> {
    arguments?.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(associated) if associated.ident == name => Some(&associated.ty),
        _ => None,
    })
}
