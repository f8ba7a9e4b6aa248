//! What stands between a broker's bytes and lapin, until lapin's parser can be trusted with them.
//!
//! Publishers decide on much of what a broker sends. The parser of lapin 4 recurses into nested headers until the stack of its
//! thread overflows, which aborts the process, and gives up the connection for a short string that is not UTF-8: one message
//! stops a service. It also logs returned messages with their headers and bodies. The guard gives lapin a stream that
//!
//! - has no table that is nested deeper, or has more values, than a client of this crate may send, and nothing else that lapin cannot read;
//! - has nothing of a returned message but its ids;
//! - is the broker's own in all other respects.
//!
//! A message whose headers are cut says so in its header `rpc-unreadable`. Nothing outside this folder knows more of the guard than
//! [`runtime`] and [`GuardedStream`]; without it, lapin takes the stream itself and `lapin::runtime::default_runtime`.

mod content;
mod filter;
mod method;
mod reactor;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncRead, AsyncWrite};

use self::filter::Filter;
pub(super) use self::reactor::runtime;
use super::intake::{Intake, Reading};

/// A stream from a broker, and to it, that reads what lapin can.
pub(super) struct GuardedStream<S> {
    stream: S,
    filter: Filter,
    reading: Reading,
}

impl<S> GuardedStream<S> {
    /// Takes the limit of a frame that the URL asks for, if it does.
    pub(super) fn new(stream: S, frame_max: Option<u32>) -> Self {
        Self {
            stream,
            filter: Filter::new(frame_max),
            reading: Reading::default(),
        }
    }

    /// Reads no faster than consumers take what they get.
    pub(super) fn for_intake(mut self, intake: &Arc<Intake>) -> Self {
        self.reading = intake.reading();
        self
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self {
            stream,
            filter,
            reading,
        } = self.get_mut();
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let read = filter.read(buffer)?;
            if read > 0 {
                return Poll::Ready(Ok(read));
            }
            ready!(reading.poll_room(cx));
            let received = ready!(Pin::new(&mut *stream).poll_read(cx, filter.room()))?;
            if received == 0 {
                return Poll::Ready(Ok(0)); // The end, and the beginning of a frame is of no use.
            }
            filter.received(received);
            reading.add(received);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

impl<S> fmt::Debug for GuardedStream<S> {
    /// Leaves out what was received.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedStream").finish_non_exhaustive()
    }
}

/// The error for what no broker sends.
fn malformed(what: impl fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the broker sent {what}"),
    )
}

/// What lapin gets of `input`, which arrives in pieces of `chunk` bytes. For tests.
#[cfg(test)]
pub(crate) fn clean(input: &[u8], chunk: usize) -> io::Result<Vec<u8>> {
    let mut filter = Filter::new(None);
    let mut output = Vec::new();
    let mut buffer = vec![0; chunk.max(1)];
    for mut piece in input.chunks(chunk.max(1)) {
        while !piece.is_empty() {
            let room = filter.room();
            let received = piece.len().min(room.len());
            room[..received].copy_from_slice(&piece[..received]);
            filter.received(received);
            piece = &piece[received..];
            loop {
                let read = filter.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                output.extend_from_slice(&buffer[..read]);
            }
        }
    }
    Ok(output)
}
