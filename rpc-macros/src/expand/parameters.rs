//! Type parameters of generated items: the trait's, and an additional one.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::{GenericParam, Generics, TypeParam, parse_quote};

use crate::model::{Service, is_supertrait};

/// Returns the trait's parameters and bounds as the user wrote them.
pub(super) fn as_written(service: &Service) -> Generics {
    let mut generics = service.generics.clone();
    if let Some(clause) = &mut generics.where_clause {
        // Supertraits stay on the trait.
        clause.predicates = clause
            .predicates
            .iter()
            .filter(|predicate| !is_supertrait(predicate))
            .cloned()
            .collect();
    }
    without_defaults(generics)
}

/// Returns the trait's parameters and bounds for generated items. Clients and dispatchers are `'static`.
pub(super) fn of_trait(service: &Service) -> Generics {
    let mut generics = as_written(service);
    for parameter in service.generics.type_params() {
        let ident = &parameter.ident;
        let outlives = parse_quote!(#ident: 'static);
        generics.make_where_clause().predicates.push(outlives);
    }
    generics
}

/// Returns these parameters with an additional one at the end.
pub(super) fn with(service: &Service, parameter: &Ident) -> Generics {
    let mut generics = of_trait(service);
    generics
        .params
        .push(GenericParam::Type(TypeParam::from(parameter.clone())));
    generics
}

/// Removes default types. Only the definition of a type may have them, and only after parameters without defaults.
fn without_defaults(mut generics: Generics) -> Generics {
    for parameter in &mut generics.params {
        match parameter {
            GenericParam::Type(parameter) => parameter.default = None,
            GenericParam::Const(parameter) => parameter.default = None,
            GenericParam::Lifetime(_) => {}
        }
    }
    generics
}

/// Returns the `where` clause with an additional bound.
pub(super) fn bounded(generics: &Generics, bound: &TokenStream) -> TokenStream {
    let predicates = generics
        .where_clause
        .iter()
        .flat_map(|clause| &clause.predicates);
    quote!(where #(#predicates,)* #bound)
}

/// Returns the generic arguments of the trait.
pub(super) fn trait_arguments(service: &Service) -> TokenStream {
    let (_, arguments, _) = service.generics.split_for_impl();
    quote!(#arguments)
}

/// Returns the names of the trait's parameters, each followed by a comma.
pub(super) fn names(service: &Service) -> TokenStream {
    let names = service
        .generics
        .params
        .iter()
        .map(|parameter| match parameter {
            GenericParam::Lifetime(parameter) => parameter.lifetime.to_token_stream(),
            GenericParam::Type(parameter) => parameter.ident.to_token_stream(),
            GenericParam::Const(parameter) => parameter.ident.to_token_stream(),
        });
    quote!(#(#names,)*)
}

/// Returns the type of a field that uses all type parameters and owns no value of them.
pub(super) fn marker_type(service: &Service) -> TokenStream {
    let parameters = service
        .generics
        .type_params()
        .map(|parameter| &parameter.ident);
    quote!(::core::marker::PhantomData<fn() -> (#(*const #parameters,)*)>)
}

pub(super) fn is_generic(service: &Service) -> bool {
    !service.generics.params.is_empty()
}
