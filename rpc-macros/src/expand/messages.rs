//! The struct of each method's arguments, and the constants that describe the service.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::Attribute;

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

/// Returns the name of the constant that describes a method.
pub(super) fn method_ident(method: &Method) -> Ident {
    format_ident!("__RPC_METHOD_{}", method.ident)
}

/// Returns the sentence in the docs of `with_queue` about methods that it does not affect.
pub(super) fn about_own_queues(service: &Service) -> &'static str {
    if service.methods.iter().any(|method| method.queue.is_some()) {
        " Methods with a separate queue keep their queue."
    } else {
        ""
    }
}

/// Returns the name of the constant that describes the service.
pub(super) fn service_ident() -> Ident {
    format_ident!("__RPC_SERVICE")
}

/// Returns the type of a method's arguments.
pub(super) fn arguments_type(service: &Service, method: &Method) -> TokenStream {
    let ident = arguments_ident(method);
    let arguments = arguments_of_arguments(service, method);
    quote!(#ident<#arguments>)
}

/// Returns an expression of all inputs with the values of the client's parameters.
pub(super) fn arguments_value(service: &Service, method: &Method) -> TokenStream {
    let ident = arguments_ident(method);
    let arguments = arguments_of_arguments(service, method);
    let fields = method.sent().map(Argument::ident);
    let marker = depends_on_trait_parameters(service, method)
        .then(|| quote!(__marker: ::core::marker::PhantomData));
    let value = quote!(#ident::<#arguments> { #(#fields,)* #marker });
    match method.items() {
        None => value,
        Some((argument, _)) => {
            let items = argument.ident();
            quote!(__rpc::__private::WithItems::new(#value, #items))
        }
    }
}

/// Returns the type of a method's arguments, with the caller's stream.
pub(super) fn inputs_type(service: &Service, method: &Method) -> TokenStream {
    let arguments = arguments_type(service, method);
    match method.items() {
        None => arguments,
        Some((_, stream)) => {
            let item = &stream.item;
            quote!(__rpc::__private::WithItems<#arguments, #item>)
        }
    }
}

fn arguments_ident(method: &Method) -> Ident {
    format_ident!("__RpcArguments_{}", method.ident)
}

/// Returns the struct of a method's arguments. The type of each field is a type parameter, so that the struct compiles with
/// all types. Fields with `#[serde(…)]` have the argument's type, because the attribute may name functions for this type.
fn arguments(service: &Service, method: &Method) -> TokenStream {
    let hidden = attributes::for_hidden(&method.attributes);
    let ident = arguments_ident(method);
    let krate = &service.krate;
    let serde_path = quote!(#krate::__private::serde).to_string();
    let expected = format!("a map or an array of the arguments of `{}`", method.name);
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
    let (trait_parameters, clause, bound, marker) = if depends_on_trait_parameters(service, method)
    {
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
        #[serde(crate = #serde_path, expecting = #expected)]
        #bound
        struct #ident<#(#trait_parameters,)* #(#own_parameters),*> #clause {
            #(#fields,)*
            #marker
        }
    }
}

/// Returns serde's bounds for the struct's own parameters. The user writes the bounds of the trait's parameters, and bounds that
/// serde adds to them would be ambiguous.
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

/// Returns the generic arguments of the struct of arguments.
fn arguments_of_arguments(service: &Service, method: &Method) -> TokenStream {
    let own = method
        .sent()
        .filter(|argument| serde_attributes(argument).is_empty())
        .map(|argument| &argument.ty);
    let of_trait = depends_on_trait_parameters(service, method).then(|| parameters::names(service));
    quote!(#of_trait #(#own),*)
}

/// Returns `true` if the type of a field may depend on the trait's parameters.
fn depends_on_trait_parameters(service: &Service, method: &Method) -> bool {
    parameters::is_generic(service)
        && method
            .sent()
            .any(|argument| !serde_attributes(argument).is_empty())
}

/// Returns the `#[serde(…)]` attributes of an argument.
pub(super) fn serde_attributes(argument: &Argument) -> &[Attribute] {
    match &argument.role {
        Role::Sent { serde, .. } => serde,
        Role::Items { .. } | Role::Context(_) => &[],
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
            Role::Items { .. } | Role::Context(_) => None,
        });
    let stream_argument = method
        .arguments
        .iter()
        .find_map(|argument| match &argument.role {
            Role::Items { name, .. } => Some(quote!(.stream_argument(#name))),
            _ => None,
        });
    let streams_items = method.streamed.is_some().then(|| quote!(.streams_items()));
    let options = &method.options;
    let docs = docs(&method.attributes);
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
        const #ident: &__rpc::__private::Method = {
            // A static, because methods are compared by address.
            static METHOD: __rpc::__private::Method =
                __rpc::__private::Method::new(#name, &[#(#arguments),*]) #docs #queue #timeout #oneway #default #idempotent #at_most_once #persistent #priority #streams_items #stream_argument;
            &METHOD
        };
    }
}

fn service_constant(service: &Service) -> TokenStream {
    let Service {
        name,
        queue,
        methods,
        version,
        ..
    } = service;
    let ident = service_ident();
    let docs = docs(&service.attributes);
    let version = match version {
        Some(version) => quote!(::core::option::Option::Some(#version)),
        // The crate that is compiled: the trait's.
        None => quote!(::core::option_env!("CARGO_PKG_VERSION")),
    };
    let methods = methods.iter().map(|method| {
        let conditions = attributes::conditions(&method.attributes);
        let ident = method_ident(method);
        quote!(#(#conditions)* #ident)
    });
    quote! {
        const #ident: &__rpc::__private::Service =
            &__rpc::__private::Service::new(#name, #queue, &[#(#methods),*]).version(#version) #docs;
    }
}

/// Returns the doc comment as a part of a definition.
fn docs(attributes: &[Attribute]) -> Option<TokenStream> {
    let texts = attributes::texts(attributes);
    (!texts.is_empty()).then(|| quote!(.docs(&[#(#texts),*])))
}
