//! The whole expansion of `#[rpc]`, on tokens that do not need a running compiler.

use proc_macro2::TokenStream;
use quote::quote;

use crate::{expand, fallback, model, parse};

/// Expands `#[rpc(options)]` on an item.
pub(crate) fn run(options: TokenStream, item: TokenStream) -> TokenStream {
    let parsed = match parse::item_trait(item.clone()) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Other code may use the item, so it stays.
            let error = error.into_compile_error();
            return quote!(#error #item);
        }
    };
    match model::Service::check(options, parsed) {
        Ok(service) => expand::expand(&service),
        Err(invalid) => fallback::expand(*invalid),
    }
}
