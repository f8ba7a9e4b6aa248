//! The types in a method's signature, as generated code names them, and the checks that they can be sent.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};

use crate::attributes;
use crate::expand::{generated_around, messages, parameters};
use crate::model::{Fallibility, Method, Service};

/// Returns the constants and functions for the types of each method.
pub(super) fn items(service: &Service) -> TokenStream {
    let methods = service.methods.iter().map(|method| {
        let fallible = fallible_constant(method);
        let check = check(service, method);
        quote!(#fallible #check)
    });
    quote!(#(#methods)*)
}

/// Returns the type whose functions call and run a method.
pub(super) fn signature_type(service: &Service, method: &Method) -> TokenStream {
    let (arguments, output, fallible) = (
        messages::arguments_type(service, method),
        &method.output,
        fallible(method),
    );
    quote!(__rpc::__private::Signature::<#arguments, #output, #fallible>)
}

/// Returns the output of a call.
pub(super) fn awaited(method: &Method) -> TokenStream {
    let output = &method.output;
    let (first, last) = generated_around(output);
    match method.fallibility {
        // Spelled out, because the type appears in the docs.
        Fallibility::Never => {
            let start = quote_spanned!(first=> ::core::result::Result);
            let end = quote_spanned!(last=> >);
            quote!(#start<#output, __rpc::RpcError #end)
        }
        Fallibility::Probed | Fallibility::ByName { .. } => {
            let fallible = fallible(method);
            let start = quote_spanned!(first=> <);
            let end = quote_spanned!(last=> ::Awaited);
            quote!(#start #output as __rpc::__private::Return<#fallible>> #end)
        }
    }
}

/// Returns the type of the values of replies.
pub(super) fn value(method: &Method) -> TokenStream {
    returned(method, &quote!(Value))
}

/// Returns the type of the service's own errors; `()` if the method has none.
pub(super) fn error(method: &Method) -> TokenStream {
    returned(method, &quote!(Error))
}

fn returned(method: &Method, part: &TokenStream) -> TokenStream {
    let (output, fallible) = (&method.output, fallible(method));
    let (first, last) = generated_around(output);
    let start = quote_spanned!(first=> <);
    let end = quote_spanned!(last=> ::#part);
    quote!(#start #output as __rpc::__private::Return<#fallible>> #end)
}

/// Returns an argument for a const parameter: `true` if the method returns a `Result`.
pub(super) fn fallible(method: &Method) -> TokenStream {
    match method.fallibility {
        Fallibility::Never => quote!(false),
        Fallibility::ByName { is_result } => is_result.to_token_stream(),
        Fallibility::Probed => fallible_ident(method).to_token_stream(),
    }
}

fn fallible_ident(method: &Method) -> Ident {
    format_ident!("__RPC_FALLIBLE_{}", method.ident)
}

/// Returns a constant that is `true` if the method returns a `Result`. The compiler evaluates it and resolves aliases.
fn fallible_constant(method: &Method) -> Option<TokenStream> {
    if method.fallibility != Fallibility::Probed {
        return None;
    }
    let hidden = attributes::for_hidden(&method.attributes);
    let ident = fallible_ident(method);
    let output = &method.output;
    Some(quote! {
        #(#hidden)*
        const #ident: bool = __rpc::__private::Probe::<#output>::IS_RESULT;
    })
}

/// Returns a function that is never called. It requires each type of the method to be sendable, so that the compiler
/// reports each type that is not, once and on its tokens.
fn check(service: &Service, method: &Method) -> TokenStream {
    let hidden = attributes::for_hidden(&method.attributes);
    let ident = format_ident!("__rpc_check_{}", method.ident);
    let generics = parameters::as_written(service);
    let (_, _, clause) = generics.split_for_impl();
    // `#[serde(with = "…")]` may send another type. Then only the whole struct can be checked.
    let (plain, special): (Vec<_>, Vec<_>) = method
        .sent()
        .partition(|argument| messages::serde_attributes(argument).is_empty());
    let mut arguments: Vec<_> = plain
        .into_iter()
        .map(|argument| {
            let ty = &argument.ty;
            match argument.is_called_context() {
                true => quote!(check_context::<#ty, _>),
                false => quote!(check_argument::<#ty, _>),
            }
        })
        .collect();
    if !special.is_empty() {
        let ty = messages::arguments_type(service, method);
        arguments.push(quote!(check_argument::<#ty, _>));
    }
    let output = &method.output;
    let fallible = fallible(method);
    let shape = (method.fallibility == Fallibility::ByName { is_result: false }).then(|| {
        let (first, last) = generated_around(output);
        let start = quote_spanned!(first=> __rpc::__private::Probe::);
        let end = quote_spanned!(last=> ::SHAPE);
        quote!(__rpc::__private::check_is_plain(#start <#output> #end);)
    });
    quote! {
        #(#hidden)*
        fn #ident #generics() #clause {
            #(__rpc::__private::#arguments(__rpc::__private::unnamed);)*
            __rpc::__private::check_return::<#fallible, #output, _>(__rpc::__private::unnamed);
            #shape
        }
    }
}
