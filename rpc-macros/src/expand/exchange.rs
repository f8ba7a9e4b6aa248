//! The types that a method exchanges, as generated code names them, and the checks that they can be sent.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};

use crate::attributes;
use crate::expand::{generated_around, messages, parameters};
use crate::model::{Answer, Method, Service};

/// For each method the constants and functions that are about its types.
pub(super) fn items(service: &Service) -> TokenStream {
    let methods = service.methods.iter().map(|method| {
        let fallible = fallible_constant(method);
        let check = check(service, method);
        quote!(#fallible #check)
    });
    quote!(#(#methods)*)
}

/// What a method exchanges, as a type that has everything to do with it.
pub(super) fn exchange_type(service: &Service, method: &Method) -> TokenStream {
    let (arguments, output, fallible) = (
        messages::arguments_type(service, method),
        &method.output,
        fallible(method),
    );
    quote!(__rpc::__private::Exchange::<#arguments, #output, #fallible>)
}

/// What awaiting a call gives.
pub(super) fn awaited(method: &Method) -> TokenStream {
    let output = &method.output;
    let (first, last) = generated_around(output);
    match method.answer {
        // Written out, for it reads better in the docs.
        Answer::Plain => {
            let start = quote_spanned!(first=> ::core::result::Result);
            let end = quote_spanned!(last=> >);
            quote!(#start<#output, __rpc::RpcError #end)
        }
        Answer::Asked | Answer::Named { .. } => {
            let fallible = fallible(method);
            let start = quote_spanned!(first=> <);
            let end = quote_spanned!(last=> ::Awaited);
            quote!(#start #output as __rpc::__private::Answer<#fallible>> #end)
        }
    }
}

/// Whether the method answers with a `Result`, as an argument for a const parameter.
fn fallible(method: &Method) -> TokenStream {
    match method.answer {
        Answer::Plain => quote!(false),
        Answer::Named { result } => result.to_token_stream(),
        Answer::Asked => fallible_ident(method).to_token_stream(),
    }
}

fn fallible_ident(method: &Method) -> Ident {
    format_ident!("__RPC_FALLIBLE_{}", method.ident)
}

/// Asks the compiler, which sees through aliases, whether the method's type is a `Result`.
fn fallible_constant(method: &Method) -> Option<TokenStream> {
    if method.answer != Answer::Asked {
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

/// A function that is never called: it states of every type of the method that it can be sent, so that the compiler says
/// of those that cannot, once and on the exact tokens.
fn check(service: &Service, method: &Method) -> TokenStream {
    let hidden = attributes::for_hidden(&method.attributes);
    let ident = format_ident!("__rpc_check_{}", method.ident);
    let generics = parameters::as_written(service);
    let (_, _, clause) = generics.split_for_impl();
    // What `#[serde(with = "…")]` sends of a type is another; then only the whole can be checked.
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
    let shape = (method.answer == Answer::Named { result: false }).then(|| {
        let (first, last) = generated_around(output);
        let start = quote_spanned!(first=> __rpc::__private::Probe::);
        let end = quote_spanned!(last=> ::SHAPE);
        quote!(__rpc::__private::check_is_plain(#start <#output> #end);)
    });
    quote! {
        #(#hidden)*
        fn #ident #generics() #clause {
            #(__rpc::__private::#arguments(__rpc::__private::unnamed);)*
            __rpc::__private::check_answer::<#fallible, #output, _>(__rpc::__private::unnamed);
            #shape
        }
    }
}
