//! Memory into which bodies are written.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};

use crate::error::BoxError;

/// The maximum size of a body that is copied into a chunk with others, which costs less than an allocation.
const SMALL: usize = 256;

/// The size of a chunk. A body keeps its whole chunk allocated.
pub(super) const CHUNK: usize = 1 << 10;

thread_local! {
    static BUFFER: Cell<Buffer> = Cell::default();
}

/// Memory for the next bodies of a thread.
#[derive(Default)]
struct Buffer {
    body: Vec<u8>,
    /// Holds small bodies.
    chunk: BytesMut,
}

/// Returns the body that `write` writes.
pub(super) fn write(
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), BoxError>,
) -> Result<Bytes, BoxError> {
    // Taken out of the cell, because `write` runs user code, which may encode another body.
    let mut buffer = BUFFER.take();
    buffer.body.reserve(SMALL);
    write(&mut buffer.body)?;
    let len = buffer.body.len();
    let body = if len > SMALL {
        std::mem::take(&mut buffer.body).into()
    } else {
        if buffer.chunk.capacity() < len {
            buffer.chunk.reserve(CHUNK);
        }
        buffer.chunk.extend_from_slice(&buffer.body);
        buffer.body.clear();
        buffer.chunk.split().freeze()
    };
    BUFFER.set(buffer);
    Ok(body)
}
