//! The modules of rpc-macros without the macro, for the targets that run it.
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
#[path = "../../rpc-macros/src/mistakes.rs"]
mod mistakes;
#[path = "../../rpc-macros/src/model/mod.rs"]
mod model;
#[path = "../../rpc-macros/src/parse.rs"]
mod parse;
#[path = "../../rpc-macros/src/steps.rs"]
mod steps;

/// Runs the attribute on text.
pub fn macro_text(text: &[u8]) {
    fuzzing::macro_text(text);
}

/// Runs the attribute on tokens that the bytes pick.
pub fn macro_tokens(picks: &[u8]) {
    fuzzing::macro_tokens(picks);
}
