//! Compiler messages about broken traits, and unusual valid traits that compile.
//!
//! After a change of messages: `TRYBUILD=overwrite cargo test --test ui`, then read every changed `.stderr` as a new user would.

#[test]
fn every_mistake_is_one_readable_error() {
    trybuild::TestCases::new().compile_fail("ui/fail/*.rs");
}

#[test]
fn hostile_names_and_surroundings_compile() {
    trybuild::TestCases::new().pass("ui/pass/*.rs");
}
