//! What is emitted beside errors.
//!
//! The user's other code implements the trait and uses the client and the dispatcher, and none of that is to be
//! reported as well. The compiler says nothing about a type that contains an error it has already reported, so such a
//! type is made of the first mistake: an array whose length is that `compile_error!`. The client and the dispatcher are
//! aliases of it, and so are the types of the methods that have mistakes. Whatever is done with them passes.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::visit::{self, Visit};
use syn::{
    FnArg, GenericParam, Generics, ItemTrait, Receiver, ReturnType, Safety, TraitItem, TraitItemFn,
    Type, parse_quote,
};

use crate::attributes;
use crate::expand::{handler_head, handler_method};
use crate::model::{Broken, Method, is_rewritten};

/// The errors, the trait as far as it goes, and a client and a dispatcher that nothing can be wrong with.
pub(crate) fn expand(broken: Broken) -> TokenStream {
    let Broken {
        mistakes,
        item,
        methods,
    } = broken;
    let mut errors = mistakes.into_compile_errors().into_iter();
    let first = errors.next();
    let mistake = format_ident!("__RPC_MISTAKE_{}", item.ident);
    let handler = handler(&item, &methods, &mistake);
    let client = alias(
        &item,
        &format_ident!("{}Client", item.ident),
        &quote!(__Service = ()),
        &mistake,
    );
    let dispatcher = alias(
        &item,
        &format_ident!("{}Dispatcher", item.ident),
        &quote!(__Handler),
        &mistake,
    );
    quote! {
        #[doc(hidden)]
        #[allow(dead_code, non_upper_case_globals)]
        const #mistake: usize = #first;
        #(#errors)*
        #handler
        #client
        #dispatcher
    }
}

/// The trait: what is right as it will be, the rest such that any implementation fits.
fn handler(item: &ItemTrait, methods: &[Option<Method>], mistake: &Ident) -> TokenStream {
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
    // The same will become of its methods as of those of the `impl`s.
    let becomes_async_trait = item.attrs.iter().any(attributes::is_async_trait);
    let mut seen: Vec<&Ident> = Vec::new();
    let items = item
        .items
        .iter()
        .zip(methods)
        .filter_map(|(inner, method)| match inner {
            TraitItem::Fn(function) => {
                // Of two functions of one name the compiler would complain too.
                let ident = &function.sig.ident;
                if seen.contains(&ident) && !attributes::is_conditional(&function.attrs) {
                    return None;
                }
                seen.push(ident);
                Some(match method {
                    Some(method) => handler_method(method),
                    None => lenient_method(function, becomes_async_trait, mistake),
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

/// A method with as many parameters as the user's, and with types that are equal to any other.
fn lenient_method(
    function: &TraitItemFn,
    becomes_async_trait: bool,
    mistake: &Ident,
) -> TokenStream {
    let signature = &function.sig;
    let asyncness = signature.asyncness.filter(|_| becomes_async_trait);
    let attributes = attributes::for_hidden(&function.attrs);
    let unsafety = match &signature.safety {
        Safety::Unsafe(token) => Some(token),
        Safety::Safe(_) | Safety::Default => None,
    };
    let (abi, ident, mut generics) = (&signature.abi, &signature.ident, signature.generics.clone());
    let receiver = match signature.receiver() {
        // `mut self` is a mistake that the compiler reports as well.
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
        ReturnType::Type(_, ty) if !Oddities::of(ty).is_opaque => lenient_type(ty, mistake),
        _ => quote!([(); #mistake]),
    };
    let arguments = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Receiver(_) => None,
        FnArg::Typed(argument) => {
            let conditions = attributes::conditions(&argument.attrs);
            let ty = lenient_type(&argument.ty, mistake);
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

/// A type alias that takes the parameters that the struct would have.
fn alias(
    item: &ItemTrait,
    ident: &Ident,
    own_parameter: &TokenStream,
    mistake: &Ident,
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
            [::core::marker::PhantomData<fn() -> (#(&#lifetimes (),)* #(*const #types,)* *const #own,)>; #mistake];
    }
}

/// The trait's parameters without their bounds, which mean nothing in an alias, and one more.
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

/// A type that is equal to any other, and names what the user's type does, so that no import counts as unused.
fn lenient_type(ty: &Type, mistake: &Ident) -> TokenStream {
    match Oddities::of(ty) {
        // `impl Trait` is a type parameter of the method, and those have to match.
        Oddities {
            is_opaque: true, ..
        } => ty.to_token_stream(),
        Oddities {
            is_unnameable: true,
            ..
        } => quote!([(); #mistake]),
        _ => quote!([fn(#ty); #mistake]),
    }
}

/// What in a type the compiler would complain of.
#[derive(Default)]
struct Oddities {
    is_opaque: bool,
    is_unnameable: bool,
}

impl Oddities {
    fn of(ty: &Type) -> Self {
        let mut oddities = Self::default();
        oddities.visit_type(ty);
        oddities
    }
}

impl<'ast> Visit<'ast> for Oddities {
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
