//! The trait that handlers implement.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::{Path, Token, Type, TypeParamBound, parse_quote};

use crate::expand::{generated_around, generated_at};
use crate::model::{Argument, Execution, Method, Role, Service, stream};

pub(super) fn item(service: &Service) -> TokenStream {
    let Service {
        attributes,
        visibility,
        ident,
        generics,
        ..
    } = service;
    let head = head(ident, &service.supertraits);
    let (_, _, clause) = generics.split_for_impl();
    let methods = service
        .methods
        .iter()
        .map(|inner| method(inner, &service.krate));
    quote! {
        #(#attributes)*
        #visibility trait #ident #generics: #head #clause {
            #(#methods)*
        }
    }
}

/// Returns the supertraits: the user's, and those that allow concurrent calls to share a handler.
pub(crate) fn head(
    ident: &Ident,
    supertraits: &Punctuated<TypeParamBound, Token![+]>,
) -> TokenStream {
    let supertraits = supertraits.iter();
    let shared = quote_spanned!(generated_at(ident.span())=> ::core::marker::Send + ::core::marker::Sync + 'static);
    quote!(#(#supertraits +)* #shared)
}

/// Returns a method as handlers implement it: with a plain `async fn`, or a plain `fn` if it is blocking.
pub(crate) fn method(method: &Method, krate: &Path) -> TokenStream {
    let Method {
        attributes, ident, ..
    } = method;
    let span = generated_at(ident.span());
    let receiver = match &method.receiver {
        Some(receiver) => receiver.self_token.to_token_stream(),
        None => quote_spanned!(span=> self),
    };
    // A handler may implement a blocking method with `async fn` by mistake. The compiler's error then shows both signatures,
    // and the name of this lifetime explains the difference.
    let lifetime = (method.execution == Execution::Blocking)
        .then(|| quote_spanned!(span=> 'blocking_without_async));
    let parameters = lifetime
        .as_ref()
        .map(|lifetime| quote_spanned!(span=> <#lifetime>));
    let arguments = method.arguments.iter().map(
        |Argument {
             attributes,
             pattern,
             ty,
             role,
         }| {
            let ty = match role {
                Role::Items { stream, .. } => incoming(stream, krate),
                _ => ty.to_token_stream(),
            };
            quote!(#(#attributes)* #pattern: #ty)
        },
    );
    let output = returned(method, |stream| {
        stream.with_bounds(&[parse_quote!(::core::marker::Send)])
    });
    let output = match method.execution {
        Execution::Async => quote_spanned! {span=>
            -> impl ::core::future::Future<Output = #output> + ::core::marker::Send
        },
        Execution::Blocking if method.returns_unit() => TokenStream::new(),
        Execution::Blocking => quote_spanned!(span=> -> #output),
    };
    let body = match (&method.default_body, method.execution) {
        (None, _) => quote_spanned!(span=> ;),
        (Some(body), Execution::Blocking) => quote!(#body),
        (Some(body), Execution::Async) => async_body(method, &body.stmts),
    };
    quote_spanned! {span=>
        #(#attributes)*
        fn #ident #parameters(&#lifetime #receiver, #(#arguments),*) #output #body
    }
}

/// Returns the type of the argument through which the handler receives a stream.
fn incoming(stream: &stream::Stream, krate: &Path) -> TokenStream {
    let item = &stream.item;
    let (first, last) = generated_around(&stream.written);
    let start = quote_spanned!(first=> #krate::Incoming);
    let end = quote_spanned!(last=> >);
    quote!(#start<#item #end)
}

/// Returns the return type of a method, with a stream in another form.
fn returned(method: &Method, form: impl FnOnce(&stream::Stream) -> Type) -> Type {
    match &method.streamed {
        None => method.output.clone(),
        Some(streamed) => stream::replaced(&streamed.output, form(&streamed.stream)),
    }
}

/// Returns the user's default body as an `async` block. Its type is known to inference, as in the body of an `async fn`.
fn async_body(method: &Method, statements: &[syn::Stmt]) -> TokenStream {
    // The compiler infers the type of a stream.
    let output = returned(method, |_| parse_quote!(_));
    let typed = if method.streamed.is_none() && method.returns_unit() {
        TokenStream::new()
    } else {
        quote_spanned! {generated_at(method.ident.span())=>
            if let ::core::option::Option::Some(__output) = ::core::option::Option::None::<#output> {
                return __output;
            }
        }
    };
    quote! {
        {
            async move {
                #typed
                #(#statements)*
            }
        }
    }
}
