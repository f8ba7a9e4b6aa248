//! Comparison of JSON Schemas: can every value that one program writes be read by the other?
//!
//! The comparison knows the keywords that schemars writes for types with serde's derives, and the rules of serde: a reader ignores unknown
//! fields unless it denies them. Anything else cannot be decided, and counts as incompatible. Schemas come from other programs, so the work
//! is bounded.

#[cfg(feature = "schema")]
mod comparison;
mod finding;

#[cfg(feature = "schema")]
pub(super) use self::comparison::compare;
#[cfg(not(feature = "schema"))]
use self::finding::Finding;

/// Compares the schema of the values that are written with the schema of the values that can be read.
#[cfg(not(feature = "schema"))]
pub(super) fn compare(
    written: &str,
    read: &str,
    _is_renamed: bool,
    _steps: &mut u32,
) -> Vec<Finding> {
    if written == read {
        return Vec::new();
    }
    let reason = "schemas are compared only with the feature `schema`";
    vec![Finding::undecided(reason)]
}
