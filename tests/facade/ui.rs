//! Compiler messages for `#[rpc]` without the option `crate` in a crate that does not depend on `rpc_core`.

#[test]
fn a_missing_dependency_is_one_readable_error() {
    trybuild::TestCases::new().compile_fail("ui/*.rs");
}
