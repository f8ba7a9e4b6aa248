//! Items that are generated beside errors.
//!
//! The user's code implements the trait and uses the client and the dispatcher. These uses must not cause further errors.
//! The compiler accepts every use of a type that contains an error which it has reported. So the first error becomes the
//! length of an array type. The client, the dispatcher, and the types of methods with errors are aliases of this array.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::visit::{self, Visit};
use syn::{
    FnArg, GenericParam, Generics, ItemTrait, Path, Receiver, ReturnType, Safety, TraitItem,
    TraitItemFn, Type, parse_quote,
};

use crate::attributes;
use crate::expand::{handler_head, handler_method};
use crate::model::stream::is_stream;
use crate::model::{InvalidTrait, Method, is_rewritten};

/// Returns the errors, the trait, and a client and a dispatcher that accept every use.
pub(crate) fn expand(invalid: InvalidTrait) -> TokenStream {
    let InvalidTrait {
        diagnostics,
        item,
        krate,
        methods,
    } = invalid;
    let mut errors = diagnostics.into_compile_errors().into_iter();
    let first = errors.next();
    let error = format_ident!("__RPC_ERROR_{}", item.ident);
    let handler = handler(&item, &krate, &methods, &error);
    let client = alias(
        &item,
        &format_ident!("{}Client", item.ident),
        &quote!(__Service = ()),
        &error,
    );
    let dispatcher = alias(
        &item,
        &format_ident!("{}Dispatcher", item.ident),
        &quote!(__Handler),
        &error,
    );
    quote! {
        #[doc(hidden)]
        #[allow(dead_code, non_upper_case_globals)]
        const #error: usize = #first;
        #(#errors)*
        #handler
        #client
        #dispatcher
    }
}

/// Returns the trait. Methods without errors are as usual, the others accept every implementation.
fn handler(
    item: &ItemTrait,
    krate: &Path,
    methods: &[Option<Method>],
    error: &Ident,
) -> TokenStream {
    let ItemTrait {
        vis,
        unsafety,
        ident,
        generics,
        ..
    } = item;
    let attributes = attributes::without_rpc(&item.attrs);
    let head = handler_head(ident, &item.supertraits);
    let (_, _, clause) = generics.split_for_impl();
    // `#[async_trait]` will rewrite the methods of the trait like those of its `impl`s.
    let becomes_async_trait = item.attrs.iter().any(attributes::is_async_trait);
    let mut seen: Vec<&Ident> = Vec::new();
    let items = item
        .items
        .iter()
        .zip(methods)
        .filter_map(|(inner, method)| match inner {
            TraitItem::Fn(function) => {
                // The compiler would report two functions of one name as well.
                let ident = &function.sig.ident;
                if seen.contains(&ident) && !attributes::is_conditional(&function.attrs) {
                    return None;
                }
                seen.push(ident);
                Some(match method {
                    Some(method) => handler_method(method, krate),
                    None => lenient_method(function, becomes_async_trait, error),
                })
            }
            other => Some(other.to_token_stream()),
        });
    quote! {
        #(#attributes)*
        #[allow(dead_code)]
        #vis #unsafety trait #ident #generics: #head #clause {
            #(#items)*
        }
    }
}

/// Returns a method with as many parameters as the user's, and with types that equal all others.
fn lenient_method(function: &TraitItemFn, becomes_async_trait: bool, error: &Ident) -> TokenStream {
    let signature = &function.sig;
    let asyncness = signature.asyncness.filter(|_| becomes_async_trait);
    let attributes = attributes::for_hidden(&function.attrs);
    let unsafety = match &signature.safety {
        Safety::Unsafe(token) => Some(token),
        Safety::Safe(_) | Safety::Default => None,
    };
    let (abi, ident, mut generics) = (&signature.abi, &signature.ident, signature.generics.clone());
    let receiver = match signature.receiver() {
        // The compiler would report `mut self` as well.
        Some(receiver) => {
            let receiver = Receiver {
                mutability: None,
                ..receiver.clone()
            };
            receiver.into_token_stream()
        }
        // `#[async_trait]` gives the `&self` of the `impl` a lifetime.
        None if is_rewritten(signature) => {
            generics.params.push(parse_quote!('__rpc_self));
            let clause = generics.make_where_clause();
            clause
                .predicates
                .push(parse_quote!('__rpc_self: 'async_trait));
            clause.predicates.push(parse_quote!(Self: 'async_trait));
            quote!(&'__rpc_self self)
        }
        None => quote!(&self),
    };
    let (_, _, clause) = generics.split_for_impl();
    let output = match &signature.output {
        ReturnType::Type(_, ty) if !TypeFeatures::of(ty).is_opaque => lenient_type(ty, error),
        _ => quote!([(); #error]),
    };
    let arguments = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Receiver(_) => None,
        FnArg::Typed(argument) => {
            let conditions = attributes::conditions(&argument.attrs);
            let ty = lenient_type(&argument.ty, error);
            Some(quote!(#(#conditions)* _: #ty))
        }
    });
    let body = match function.default {
        Some(_) => quote!({ loop {} }),
        None => quote!(;),
    };
    quote! {
        #(#attributes)*
        #asyncness #unsafety #abi fn #ident #generics(#receiver, #(#arguments),*) -> #output #clause #body
    }
}

/// Returns a type alias with the parameters of the struct that it replaces.
fn alias(
    item: &ItemTrait,
    ident: &Ident,
    own_parameter: &TokenStream,
    error: &Ident,
) -> TokenStream {
    let attributes = attributes::for_hidden(&item.attrs);
    let visibility = &item.vis;
    let parameters = unbounded(&item.generics, own_parameter);
    let lifetimes = item
        .generics
        .lifetimes()
        .map(|parameter| &parameter.lifetime);
    let types = item
        .generics
        .type_params()
        .map(|parameter| &parameter.ident);
    let own = own_parameter.clone().into_iter().next();
    quote! {
        #[doc(hidden)]
        #(#attributes)*
        #[allow(dead_code)]
        #visibility type #ident<#parameters> =
            [::core::marker::PhantomData<fn() -> (#(&#lifetimes (),)* #(*const #types,)* *const #own,)>; #error];
    }
}

/// Returns the trait's parameters without bounds, which have no effect in an alias, and an additional one.
fn unbounded(generics: &Generics, own_parameter: &TokenStream) -> TokenStream {
    // A default cannot precede a parameter without one.
    let keeps_defaults = own_parameter.to_string().contains('=');
    let parameters = generics.params.iter().map(|parameter| match parameter {
        GenericParam::Lifetime(parameter) => parameter.lifetime.to_token_stream(),
        GenericParam::Type(parameter) => {
            let ident = &parameter.ident;
            match parameter.default.as_ref().filter(|_| keeps_defaults) {
                Some((equals, default)) => quote!(#ident #equals #default),
                None => quote!(#ident),
            }
        }
        GenericParam::Const(parameter) => {
            let mut parameter = parameter.clone();
            parameter.default = parameter.default.filter(|_| keeps_defaults);
            parameter.to_token_stream()
        }
    });
    quote!(#(#parameters,)* #own_parameter)
}

/// Returns a type that equals all others. It mentions the user's type, so that imports count as used.
fn lenient_type(ty: &Type, error: &Ident) -> TokenStream {
    match TypeFeatures::of(ty) {
        // The handler receives a stream as another type.
        _ if is_stream(ty) => quote!([(); #error]),
        // `impl Trait` is a type parameter of the method, and the parameters of an `impl` must match.
        TypeFeatures {
            is_opaque: true, ..
        } => ty.to_token_stream(),
        TypeFeatures {
            is_unnameable: true,
            ..
        } => quote!([(); #error]),
        _ => quote!([fn(#ty); #error]),
    }
}

/// Parts of a type that would cause further errors.
#[derive(Default)]
struct TypeFeatures {
    is_opaque: bool,
    is_unnameable: bool,
}

impl TypeFeatures {
    fn of(ty: &Type) -> Self {
        let mut features = Self::default();
        features.visit_type(ty);
        features
    }
}

impl<'ast> Visit<'ast> for TypeFeatures {
    fn visit_type(&mut self, ty: &'ast Type) {
        match ty {
            Type::ImplTrait(_) => self.is_opaque = true,
            Type::Infer(_) | Type::Never(_) => self.is_unnameable = true,
            _ => {}
        }
        visit::visit_type(self, ty);
    }

    fn visit_ident(&mut self, ident: &'ast Ident) {
        self.is_unnameable |= ident == "Self";
    }
}
