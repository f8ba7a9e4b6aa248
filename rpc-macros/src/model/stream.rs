//! Streams in signatures: `impl Stream<Item = T>`.

use quote::ToTokens;
use syn::{
    AngleBracketedGenericArguments, GenericArgument, PathArguments, Type, TypeImplTrait,
    TypeParamBound, parse_quote,
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
        let arguments = arguments(written)?;
        let item = item(arguments);
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
    opaque(ty).is_some_and(|opaque| arguments(opaque).is_some())
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

/// Returns the arguments of the bound `Stream`; the outer `None` if there is no such bound.
fn arguments(opaque: &TypeImplTrait) -> Option<Option<&AngleBracketedGenericArguments>> {
    opaque.bounds.iter().find_map(|bound| {
        let TypeParamBound::Trait(bound) = bound else {
            return None;
        };
        let last = bound.path.segments.last()?;
        (last.ident == "Stream").then_some(match &last.arguments {
            PathArguments::AngleBracketed(arguments) => Some(arguments),
            _ => None,
        })
    })
}

fn item(arguments: Option<&AngleBracketedGenericArguments>) -> Option<&Type> {
    arguments?.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(item) if item.ident == "Item" => Some(&item.ty),
        _ => None,
    })
}
