//! What the compiler says to broken traits, and that hostile but right ones pass.
//!
//! After a change of messages: `TRYBUILD=overwrite cargo test --test ui`, then read every changed `.stderr` as somebody
//! who sees it for the first time.

#[test]
fn every_mistake_is_one_readable_error() {
    trybuild::TestCases::new().compile_fail("ui/fail/*.rs");
}

#[test]
fn hostile_names_and_surroundings_compile() {
    trybuild::TestCases::new().pass("ui/pass/*.rs");
}
