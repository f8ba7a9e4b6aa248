//! The types in a method's signature, for descriptions of the service.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::GenericParam;

use crate::attributes;
use crate::expand::{parameters, signature};
use crate::model::{Argument, Method, Role, SerdeForm, Service};

/// Returns the function that lists the types of all methods. A function, because statics cannot name the trait's parameters.
pub(super) fn item(service: &Service) -> TokenStream {
    let ident = function_ident();
    let generics = parameters::of_trait(service);
    let clause = &generics.where_clause;
    let methods = service.methods.iter().map(method);
    quote! {
        fn #ident #generics() -> __rpc::__private::Vec<__rpc::__private::DescribedMethod> #clause {
            ::core::convert::From::from([#(#methods),*])
        }
    }
}

/// Returns a call of this function.
pub(super) fn types(service: &Service) -> TokenStream {
    let ident = function_ident();
    let parameters = service
        .generics
        .params
        .iter()
        .filter_map(|parameter| match parameter {
            GenericParam::Type(parameter) => Some(&parameter.ident),
            GenericParam::Const(parameter) => Some(&parameter.ident),
            GenericParam::Lifetime(_) => None,
        });
    quote!(#ident::<#(#parameters),*>())
}

/// Returns the client's answer to the question which contract it was compiled with.
pub(super) fn client_impl(service: &Service, definition: &Ident) -> TokenStream {
    let client = &service.client;
    let generics = parameters::with(service, &service.service_parameter);
    let (introduced, arguments, clause) = generics.split_for_impl();
    let types = types(service);
    quote! {
        impl #introduced __rpc::instances::ServiceClient for #client #arguments #clause {
            fn service_info() -> __rpc::instances::ServiceInfo {
                __rpc::__private::describe_client(#definition, #types)
            }

            fn served_info() -> __rpc::instances::ServiceInfo {
                __rpc::__private::describe_server(#definition, #types)
            }
        }
    }
}

fn function_ident() -> Ident {
    format_ident!("__rpc_types")
}

fn method(method: &Method) -> TokenStream {
    let conditions = attributes::conditions(&method.attributes);
    let arguments = method.arguments.iter().filter_map(argument);
    let (result, error) = (
        described(&signature::value(method), true),
        described(&signature::error(method), true),
    );
    let fallible = signature::fallible(method);
    let item_error = method.streamed.as_ref().map(|streamed| {
        let fallible = signature::fallible_items(method, streamed);
        let error = described(&signature::item_error(method, streamed), true);
        quote!(.item_error(#fallible, #error))
    });
    quote! {
        #(#conditions)*
        __rpc::__private::DescribedMethod::new([#(#arguments),*], #result, #fallible, #error) #item_error
    }
}

fn argument(argument: &Argument) -> Option<TokenStream> {
    let ty = match &argument.role {
        Role::Sent { .. } => &argument.ty,
        Role::Items { stream, .. } => {
            let item = described(&stream.item, true);
            return Some(quote!(__rpc::__private::DescribedArgument::stream(#item)));
        }
        Role::Context(_) => return None,
    };
    let SerdeForm {
        has_default,
        has_own_form,
        is_read_by_function,
    } = argument.serde_form();
    let described = described(ty, !has_own_form);
    let probe = probe(ty, !is_read_by_function);
    Some(
        quote!(__rpc::__private::DescribedArgument::new(#described, #has_default, #probe::accepts_missing)),
    )
}

fn described(ty: &impl ToTokens, has_schema: bool) -> TokenStream {
    let probe = probe(ty, has_schema);
    quote!(__rpc::__private::DescribedType::new(::core::any::type_name::<#ty>, #probe::schema))
}

/// Returns a path to the answers of a type, or to those of a type without answers.
fn probe(ty: &impl ToTokens, is_described: bool) -> TokenStream {
    match is_described {
        true => quote!(__rpc::__private::Probe::<#ty>),
        false => quote!(<__rpc::__private::Probe<#ty> as __rpc::__private::Undescribed>),
    }
}
