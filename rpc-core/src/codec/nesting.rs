//! Limit of nesting, for both formats.

/// The maximum number of levels in a value, including the innermost value.
pub(super) const MAX_DEPTH: usize = 128;

/// The error text for a value that is nested deeper than [`MAX_DEPTH`].
pub(super) const TOO_DEEP: &str = "a value is nested deeper than 128 levels, the limit: send it flat, such as a list whose items name each other";

/// Counts bytes. The sum of a chunk fits into a byte, so that the compiler vectorizes the loop.
pub(super) fn count(body: &[u8], is_counted: impl Fn(u8) -> bool) -> usize {
    let of_chunk = |chunk: &[u8]| chunk.iter().map(|byte| u8::from(is_counted(*byte))).sum();
    let chunks = body.chunks(u8::MAX.into());
    chunks.map(of_chunk).map(|sum: u8| usize::from(sum)).sum()
}
