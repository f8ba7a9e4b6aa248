//! The three steps one after the other, on tokens that need no compiler.

use proc_macro2::TokenStream;
use quote::quote;

use crate::{expand, fallback, model, parse};

/// The item with the attribute as it is expanded.
pub(crate) fn expanded(options: TokenStream, item: TokenStream) -> TokenStream {
    let parsed = match parse::item_trait(item.clone()) {
        Ok(parsed) => parsed,
        Err(error) => {
            // The item stays, for it may be right in all but the attribute.
            let error = error.into_compile_error();
            return quote!(#error #item);
        }
    };
    match model::Service::check(options, parsed) {
        Ok(service) => expand::expand(&service),
        Err(broken) => fallback::expand(*broken),
    }
}
