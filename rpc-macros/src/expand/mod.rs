//! Model to tokens: what a checked [`Service`] expands to. Nothing here can fail.
//!
//! The trait and the two structs stand beside each other; everything else is inside one `const _`, where its names meet
//! nobody. Paths are absolute, associated functions are named by their type and not by method syntax, and type
//! parameters have names that the trait does not use: so it does not matter what the user's names are.

mod client;
mod exchange;
mod handler;
mod messages;
mod parameters;
mod server;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};

use crate::attributes;
use crate::model::{Alternatives, Service};

pub(crate) use handler::{head as handler_head, method as handler_method};

/// The trait, the client and the dispatcher.
pub(crate) fn expand(service: &Service) -> TokenStream {
    let handler = handler::item(service);
    let client = client::item(service);
    let dispatcher = server::item(service);
    let hidden = attributes::for_hidden(&service.attributes);
    let messages = messages::items(service);
    let exchanges = exchange::items(service);
    let client_impls = client::impls(service);
    let dispatcher_impls = server::impls(service);
    let collisions = service.alternatives.iter().map(collision);
    let krate = &service.krate;
    let (_, last) = generated_around(krate);
    let import = quote_spanned!(last=> use #krate as __rpc;);
    quote! {
        #handler
        #client
        #dispatcher

        #(#hidden)*
        // The lints that look at names, or at what the user's own items are and do; the trait has been warned of already.
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
            // These stand in where nothing better applies.
            #[allow(unused_imports)]
            use #krate::__private::{NotResult as _, Unsendable as _};

            #(#collisions)*
            #messages
            #exchanges
            #client_impls
            #dispatcher_impls
        };
    }
}

/// An error if both of two methods are there that should not be.
fn collision(alternatives: &Alternatives) -> TokenStream {
    let conditions = &alternatives.conditions;
    let error = alternatives.mistake.to_compile_error();
    quote!(#(#conditions)* #error)
}

/// A span for generated tokens that are about something of the user's: errors point there, lints still see a macro.
fn generated_at(span: Span) -> Span {
    Span::call_site().located_at(span)
}

/// Such spans for the first and the last generated token around those of the user, so that all of them are pointed at.
fn generated_around(tokens: impl ToTokens) -> (Span, Span) {
    let mut spans = tokens
        .to_token_stream()
        .into_iter()
        .map(|token| token.span());
    let first = spans.next().unwrap_or_else(Span::call_site);
    let last = spans.last().unwrap_or(first);
    (generated_at(first), generated_at(last))
}
