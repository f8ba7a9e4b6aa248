//! The modules of rpc-macros, for the targets that run the macro.
#![allow(unreachable_pub, unused_qualifications)]

#[path = "../../rpc-macros/src/attributes.rs"]
mod attributes;
#[path = "../../rpc-macros/src/dependency.rs"]
mod dependency;
#[path = "../../rpc-macros/src/expand/mod.rs"]
mod expand;
#[path = "../../rpc-macros/src/fallback.rs"]
mod fallback;
#[path = "../../rpc-macros/src/fuzzing.rs"]
mod fuzzing;
#[path = "../../rpc-macros/src/diagnostics.rs"]
mod diagnostics;
#[path = "../../rpc-macros/src/model/mod.rs"]
mod model;
#[path = "../../rpc-macros/src/names.rs"]
mod names;
#[path = "../../rpc-macros/src/parse.rs"]
mod parse;
#[path = "../../rpc-macros/src/pipeline.rs"]
mod pipeline;

/// Runs the attribute on text.
pub fn macro_text(text: &[u8]) {
    fuzzing::macro_text(text);
}

/// Runs the attribute on tokens. Each byte picks a token.
pub fn macro_tokens(picks: &[u8]) {
    fuzzing::macro_tokens(picks);
}
