//! The types in a method's signature, as generated code names them, and the checks that they can be sent.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::Type;

use crate::attributes;
use crate::expand::{generated_around, messages, parameters};
use crate::model::{Fallibility, Method, Service, Streamed};

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
    let (inputs, output, fallible) = (
        messages::inputs_type(service, method),
        &method.output,
        fallible(method),
    );
    match &method.streamed {
        None => quote!(__rpc::__private::Signature::<#inputs, #output, #fallible>),
        Some(streamed) => {
            let (item, fallible_items) = (&streamed.stream.item, fallible_items(method, streamed));
            quote!(__rpc::__private::StreamSignature::<#inputs, #item, #fallible_items, #output, #fallible>)
        }
    }
}

/// Returns the output of a call.
pub(super) fn awaited(method: &Method) -> TokenStream {
    let output = &method.output;
    if let Some(streamed) = &method.streamed {
        let (value, failure) = match streamed.fallibility {
            // Spelled out, because the type appears in the docs.
            Fallibility::Never => {
                let item = &streamed.stream.item;
                (quote!(#item), quote!(__rpc::RpcError))
            }
            Fallibility::Probed | Fallibility::ByName { .. } => (
                part_of_items(method, streamed, "Value"),
                part_of_items(method, streamed, "Failure"),
            ),
        };
        let error = match method.fallibility {
            Fallibility::Never => quote!(__rpc::RpcError),
            _ => returned(output, &fallible(method), "Failure"),
        };
        return quote!(::core::result::Result<__rpc::Streaming<#value, #failure>, #error>);
    }
    match method.fallibility {
        // Spelled out, because the type appears in the docs.
        Fallibility::Never => {
            let (first, last) = generated_around(output);
            let start = quote_spanned!(first=> ::core::result::Result);
            let end = quote_spanned!(last=> >);
            quote!(#start<#output, __rpc::RpcError #end)
        }
        Fallibility::Probed | Fallibility::ByName { .. } => {
            returned(output, &fallible(method), "Awaited")
        }
    }
}

/// Returns the type of the values of replies, or of the items of a stream.
pub(super) fn value(method: &Method) -> TokenStream {
    match &method.streamed {
        None => returned(&method.output, &fallible(method), "Value"),
        Some(streamed) => part_of_items(method, streamed, "Value"),
    }
}

/// Returns the type of the service's own errors; `()` if the method has none.
pub(super) fn error(method: &Method) -> TokenStream {
    returned(&method.output, &fallible(method), "Error")
}

/// Returns the type of the errors that end a stream; `()` if the items are no `Result`s.
pub(super) fn item_error(method: &Method, streamed: &Streamed) -> TokenStream {
    part_of_items(method, streamed, "Error")
}

fn part_of_items(method: &Method, streamed: &Streamed, part: &str) -> TokenStream {
    let item = &streamed.stream.item;
    returned(item, &fallible_items(method, streamed), part)
}

fn returned(ty: &Type, fallible: &TokenStream, part: &str) -> TokenStream {
    let (first, last) = generated_around(ty);
    let part = Ident::new(part, last);
    let start = quote_spanned!(first=> <);
    let end = quote_spanned!(last=> ::#part);
    quote!(#start #ty as __rpc::__private::Return<#fallible>> #end)
}

/// Returns an argument for a const parameter: `true` if the method returns a `Result`.
pub(super) fn fallible(method: &Method) -> TokenStream {
    decided(method, method.fallibility)
}

/// Returns an argument for a const parameter: `true` if the items of a stream are `Result`s.
pub(super) fn fallible_items(method: &Method, streamed: &Streamed) -> TokenStream {
    decided(method, streamed.fallibility)
}

fn decided(method: &Method, fallibility: Fallibility) -> TokenStream {
    match fallibility {
        Fallibility::Never => quote!(false),
        Fallibility::ByName { is_result } => is_result.to_token_stream(),
        Fallibility::Probed => fallible_ident(method).to_token_stream(),
    }
}

fn fallible_ident(method: &Method) -> Ident {
    format_ident!("__RPC_FALLIBLE_{}", method.ident)
}

/// Returns the type that may be a `Result` under another name: of the reply, or of the items. The name alone decides about a `Result` around
/// a stream.
fn inferred(method: &Method) -> (&Type, Fallibility) {
    match &method.streamed {
        None => (&method.output, method.fallibility),
        Some(streamed) => (&streamed.stream.item, streamed.fallibility),
    }
}

/// Returns a constant that is `true` if the type is a `Result`. The compiler evaluates it and resolves aliases.
fn fallible_constant(method: &Method) -> Option<TokenStream> {
    let (ty, fallibility) = inferred(method);
    if fallibility != Fallibility::Probed {
        return None;
    }
    let hidden = attributes::for_hidden(&method.attributes);
    let ident = fallible_ident(method);
    Some(quote! {
        #(#hidden)*
        const #ident: bool = __rpc::__private::Probe::<#ty>::IS_RESULT;
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
    if let Some((_, stream)) = method.items() {
        let item = &stream.item;
        arguments.push(quote!(check_argument::<#item, _>));
    }
    let mut returned = vec![(&method.output, fallible(method))];
    if let Some(streamed) = &method.streamed {
        returned.push((&streamed.stream.item, fallible_items(method, streamed)));
    }
    let returned = returned.iter().map(|(ty, fallible)| {
        quote!(__rpc::__private::check_return::<#fallible, #ty, _>(__rpc::__private::unnamed);)
    });
    let (ty, fallibility) = inferred(method);
    let shape = (fallibility == Fallibility::ByName { is_result: false }).then(|| {
        let (first, last) = generated_around(ty);
        let start = quote_spanned!(first=> __rpc::__private::Probe::);
        let end = quote_spanned!(last=> ::SHAPE);
        quote!(__rpc::__private::check_is_plain(#start <#ty> #end);)
    });
    quote! {
        #(#hidden)*
        fn #ident #generics() #clause {
            #(__rpc::__private::#arguments(__rpc::__private::unnamed);)*
            #(#returned)*
            #shape
        }
    }
}
