//! Model to tokens: the expansion of a checked [`Service`]. It cannot fail.
//!
//! The trait, the client and the dispatcher stand beside each other. Everything else is inside one `const _`, so its names
//! cannot collide with the user's. Paths are absolute, associated functions are called by their type and not by method
//! syntax, and type parameters have names that the trait does not use. So the user's names do not matter.

mod client;
mod description;
mod handler;
mod messages;
mod parameters;
mod server;
mod signature;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};

use crate::attributes;
use crate::model::{Conflict, Service};

pub(crate) use handler::{head as handler_head, method as handler_method};

/// Returns the trait, the client and the dispatcher.
pub(crate) fn expand(service: &Service) -> TokenStream {
    let handler = handler::item(service);
    let client = client::item(service);
    let dispatcher = server::item(service);
    let hidden = attributes::for_hidden(&service.attributes);
    let messages = messages::items(service);
    let signatures = signature::items(service);
    let types = description::item(service);
    let client_impls = client::impls(service);
    let dispatcher_impls = server::impls(service);
    let conflicts = service.conflicts.iter().map(compile_error);
    let krate = &service.krate;
    let (_, last) = generated_around(krate);
    let import = quote_spanned!(last=> use #krate as __rpc;);
    quote! {
        #handler
        #client
        #dispatcher

        #(#hidden)*
        // These lints concern names, or the user's items, which the compiler checks in the trait.
        #[allow(
            dead_code,
            deprecated,
            non_camel_case_types,
            non_snake_case,
            non_upper_case_globals,
            private_interfaces,
            unreachable_pub,
            clippy::multiple_bound_locations,
            clippy::too_many_arguments
        )]
        const _: () = {
            #import
            // These traits provide defaults. Inherent items of the same names take precedence.
            #[allow(unused_imports)]
            use #krate::__private::{NotResult as _, Undescribed as _, Unsendable as _};

            #(#conflicts)*
            #messages
            #signatures
            #types
            #client_impls
            #dispatcher_impls
        };
    }
}

/// Returns a compile error that applies if both methods of a conflict exist.
fn compile_error(conflict: &Conflict) -> TokenStream {
    let conditions = &conflict.conditions;
    let error = conflict.error.to_compile_error();
    quote!(#(#conditions)* #error)
}

/// Returns a span for generated tokens that concern a part of the user's code: errors point to that part, and lints still
/// recognise generated code.
fn generated_at(span: Span) -> Span {
    Span::call_site().located_at(span)
}

/// Returns such spans for the first and the last generated token around the user's tokens, so that errors mark all of them.
fn generated_around(tokens: impl ToTokens) -> (Span, Span) {
    let mut spans = tokens
        .to_token_stream()
        .into_iter()
        .map(|token| token.span());
    let first = spans.next().unwrap_or_else(Span::call_site);
    let last = spans.last().unwrap_or(first);
    (generated_at(first), generated_at(last))
}
