//! The trait itself, for handlers to implement.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::{Token, TypeParamBound};

use crate::expand::generated_at;
use crate::model::{Argument, Method, Running, Service};

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
    let methods = service.methods.iter().map(method);
    quote! {
        #(#attributes)*
        #visibility trait #ident #generics: #head #clause {
            #(#methods)*
        }
    }
}

/// The supertraits: the user's, and what a server needs to share a handler between the calls.
pub(crate) fn head(
    ident: &Ident,
    supertraits: &Punctuated<TypeParamBound, Token![+]>,
) -> TokenStream {
    let supertraits = supertraits.iter();
    let shared = quote_spanned!(generated_at(ident.span())=> ::core::marker::Send + ::core::marker::Sync + 'static);
    quote!(#(#supertraits +)* #shared)
}

/// A method as handlers implement it, with a plain `async fn` or, if it is blocking, a plain `fn`.
pub(crate) fn method(method: &Method) -> TokenStream {
    let Method {
        attributes,
        ident,
        output,
        ..
    } = method;
    let span = generated_at(ident.span());
    let receiver = match &method.receiver {
        Some(receiver) => receiver.self_token.to_token_stream(),
        None => quote_spanned!(span=> self),
    };
    // The handler of a blocking method is easily `async` like those of the others. The compiler's error then shows the two
    // signatures, and nothing but the name of a lifetime can say why they differ.
    let lifetime = (method.running == Running::Blocking)
        .then(|| quote_spanned!(span=> 'blocking_without_async));
    let parameters = lifetime
        .as_ref()
        .map(|lifetime| quote_spanned!(span=> <#lifetime>));
    let arguments = method.arguments.iter().map(
        |Argument {
             attributes,
             pattern,
             ty,
             ..
         }| { quote!(#(#attributes)* #pattern: #ty) },
    );
    let output = match method.running {
        Running::Async => quote_spanned! {span=>
            -> impl ::core::future::Future<Output = #output> + ::core::marker::Send
        },
        Running::Blocking if method.returns_unit() => TokenStream::new(),
        Running::Blocking => quote_spanned!(span=> -> #output),
    };
    let body = match (&method.default_body, method.running) {
        (None, _) => quote_spanned!(span=> ;),
        (Some(body), Running::Blocking) => quote!(#body),
        (Some(body), Running::Async) => async_body(method, &body.stmts),
    };
    quote_spanned! {span=>
        #(#attributes)*
        fn #ident #parameters(&#lifetime #receiver, #(#arguments),*) #output #body
    }
}

/// The user's default body as an `async` block that knows its type, as the body of an `async fn` does.
fn async_body(method: &Method, statements: &[syn::Stmt]) -> TokenStream {
    let output = &method.output;
    let typed = if method.returns_unit() {
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
