//! What goes over the wire: the arguments of each method as a struct, and the constants that describe the service.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};

use crate::attributes;
use crate::expand::parameters;
use crate::model::{Argument, Method, Role, Service};

pub(super) fn items(service: &Service) -> TokenStream {
    let methods = service.methods.iter().map(|method| {
        let arguments = arguments(service, method);
        let definition = method_constant(method);
        quote!(#arguments #definition)
    });
    let service = service_constant(service);
    quote!(#(#methods)* #service)
}

/// The constant that describes a method.
pub(super) fn method_ident(method: &Method) -> Ident {
    format_ident!("__RPC_METHOD_{}", method.ident)
}

/// What the docs of `with_queue` say of the queues that it leaves alone.
pub(super) fn about_own_queues(service: &Service) -> &'static str {
    if service.methods.iter().any(|method| method.queue.is_some()) {
        " Methods with a queue of their own keep theirs."
    } else {
        ""
    }
}

/// The constant that describes the service.
pub(super) fn service_ident() -> Ident {
    format_ident!("__RPC_SERVICE")
}

/// The type of a method's arguments.
pub(super) fn arguments_type(service: &Service, method: &Method) -> TokenStream {
    let ident = arguments_ident(method);
    let arguments = arguments_of_arguments(service, method);
    quote!(#ident<#arguments>)
}

/// The client's parameters as that type.
pub(super) fn arguments_value(service: &Service, method: &Method) -> TokenStream {
    let ident = arguments_ident(method);
    let arguments = arguments_of_arguments(service, method);
    let fields = method.sent().map(Argument::ident);
    let marker = names_trait_parameters(service, method)
        .then(|| quote!(__marker: ::core::marker::PhantomData));
    quote!(#ident::<#arguments> { #(#fields,)* #marker })
}

fn arguments_ident(method: &Method) -> Ident {
    format_ident!("__RpcArguments_{}", method.ident)
}

/// The struct of a method's arguments. Each field has a type parameter of its own, so that the struct itself is right
/// whatever the types are; but for those with `#[serde(…)]`, which may name functions that go with the type.
fn arguments(service: &Service, method: &Method) -> TokenStream {
    let hidden = attributes::for_hidden(&method.attributes);
    let ident = arguments_ident(method);
    let krate = &service.krate;
    let serde_path = quote!(#krate::__private::serde).to_string();
    let mut own_parameters = Vec::new();
    let fields: Vec<_> = method
        .sent()
        .map(|argument| {
            let serde = serde_attributes(argument);
            let ident = argument.ident();
            let ty = if serde.is_empty() {
                let parameter = format_ident!("__Rpc{}", own_parameters.len());
                own_parameters.push(parameter.clone());
                parameter.into_token_stream()
            } else {
                argument.ty.to_token_stream()
            };
            quote!(#(#serde)* #ident: #ty)
        })
        .collect();
    let (trait_parameters, clause, bound, marker) = if names_trait_parameters(service, method) {
        let generics = parameters::of_trait(service);
        let bound = serde_bound(&own_parameters, &serde_path);
        let marker = parameters::marker_type(service);
        (
            generics.params,
            generics.where_clause,
            bound,
            quote!(#[serde(skip)] __marker: #marker),
        )
    } else {
        Default::default()
    };
    let trait_parameters = trait_parameters.iter();
    quote! {
        #(#hidden)*
        #[::core::prelude::v1::derive(__rpc::__private::serde::Serialize, __rpc::__private::serde::Deserialize)]
        #[serde(crate = #serde_path)]
        #bound
        struct #ident<#(#trait_parameters,)* #(#own_parameters),*> #clause {
            #(#fields,)*
            #marker
        }
    }
}

/// Of the trait's parameters the user says what they are, and what serde would add to that makes it ambiguous.
fn serde_bound(own_parameters: &[Ident], serde_path: &str) -> TokenStream {
    let bounds = |bound: &str| {
        let bounds = own_parameters
            .iter()
            .map(|parameter| format!("{parameter}: {serde_path}::{bound}"));
        bounds.collect::<Vec<_>>().join(", ")
    };
    let (serialize, deserialize) = (bounds("Serialize"), bounds("Deserialize<'de>"));
    quote!(#[serde(bound(serialize = #serialize, deserialize = #deserialize))])
}

/// The generic arguments of the struct of arguments.
fn arguments_of_arguments(service: &Service, method: &Method) -> TokenStream {
    let own = method
        .sent()
        .filter(|argument| serde_attributes(argument).is_empty())
        .map(|argument| &argument.ty);
    let of_trait = names_trait_parameters(service, method).then(|| parameters::names(service));
    quote!(#of_trait #(#own),*)
}

/// Whether a field of the struct of arguments may be of a type that depends on the trait's parameters.
fn names_trait_parameters(service: &Service, method: &Method) -> bool {
    parameters::is_generic(service)
        && method
            .sent()
            .any(|argument| !serde_attributes(argument).is_empty())
}

/// The `#[serde(…)]` of an argument.
pub(super) fn serde_attributes(argument: &Argument) -> &[syn::Attribute] {
    match &argument.role {
        Role::Sent { serde, .. } => serde,
        Role::Context(_) => &[],
    }
}

fn method_constant(method: &Method) -> TokenStream {
    let hidden = attributes::for_hidden(&method.attributes);
    let ident = method_ident(method);
    let name = &method.name;
    let arguments = method
        .arguments
        .iter()
        .filter_map(|argument| match &argument.role {
            Role::Sent { name, .. } => Some(name),
            Role::Context(_) => None,
        });
    let options = &method.options;
    let queue = method.queue.as_ref().map(|queue| quote!(.queue(#queue)));
    let timeout = method
        .timeout_millis
        .map(|millis| quote!(.timeout_millis(#millis)));
    let oneway = options.oneway.is_some().then(|| quote!(.oneway()));
    let default = options.default.is_some().then(|| quote!(.default_method()));
    let idempotent = options.idempotent.is_some().then(|| quote!(.idempotent()));
    let at_most_once = options
        .at_most_once
        .is_some()
        .then(|| quote!(.at_most_once()));
    let persistent = options.persistent.is_some().then(|| quote!(.persistent()));
    let priority = options
        .priority
        .map(|priority| quote!(.priority(#priority)));
    quote! {
        #(#hidden)*
        const #ident: &__rpc::__private::Method =
            &__rpc::__private::Method::new(#name, &[#(#arguments),*]) #queue #timeout #oneway #default #idempotent #at_most_once #persistent #priority;
    }
}

fn service_constant(service: &Service) -> TokenStream {
    let Service {
        name,
        queue,
        methods,
        ..
    } = service;
    let ident = service_ident();
    let methods = methods.iter().map(|method| {
        let conditions = attributes::conditions(&method.attributes);
        let ident = method_ident(method);
        quote!(#(#conditions)* #ident)
    });
    quote! {
        const #ident: &__rpc::__private::Service =
            &__rpc::__private::Service::new(#name, #queue, &[#(#methods),*]);
    }
}
