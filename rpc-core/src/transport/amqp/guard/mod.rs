//! A guard between a broker's bytes and lapin, for as long as lapin's parser cannot be trusted with them.
//!
//! Publishers decide on much of what a broker sends. The parser of lapin 4 recurses into nested headers until the stack of its
//! thread overflows, which aborts the process, and gives up the connection for a short string that is not UTF-8: one message
//! stops a service. It also logs returned messages with their headers and bodies. The guard gives lapin a stream that
//!
//! - has no table that is nested deeper, or has more values, than a client of this crate may send, and nothing else that lapin
//!   cannot read;
//! - has nothing of a returned message but its ids;
//! - is the broker's own in all other respects.
//!
//! In the other direction it puts passwords in, which lapin would log ([`secrets`]).
//!
//! A message whose headers are cut says so in its header `rpc-unreadable`. Nothing outside this folder knows more of the guard than
//! [`runtime`] and [`GuardedStream`]; without it, lapin takes the stream itself and `lapin::runtime::default_runtime`.

mod content;
mod filter;
mod frames;
mod method;
mod plain;
mod reactor;
mod secrets;
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

use self::filter::{Filter, ROOM};
use self::frames::Frames;
pub(super) use self::reactor::runtime;
pub(super) use self::secrets::Secrets;
use super::intake::{Intake, Reading};

/// A stream from a broker, and to it, that reads what lapin can.
pub(super) struct GuardedStream<S> {
    stream: S,
    filter: Filter,
    reading: Reading,
    secrets: Arc<Secrets>,
    /// Bytes with a secret that the stream has not taken yet. They go first.
    revealed: Vec<u8>,
}

impl<S> GuardedStream<S> {
    /// Takes the limit of a frame that the URL asks for, if it does.
    pub(super) fn new(stream: S, frame_max: Option<u32>) -> Self {
        Self {
            stream,
            filter: Filter::new(Frames::new(frame_max)),
            reading: Reading::default(),
            secrets: Arc::default(),
            revealed: Vec::new(),
        }
    }

    /// Reads no faster than consumers take what they get.
    pub(super) fn for_intake(mut self, intake: &Arc<Intake>) -> Self {
        self.reading = intake.reading();
        self
    }

    /// Sends these secrets in place of what lapin is given for them.
    pub(super) fn with_secrets(mut self, secrets: Arc<Secrets>) -> Self {
        self.secrets = secrets;
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
            ..
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
            let begun = filter.begin(buffer);
            let room = match begun {
                Some(begun) => &mut buffer[begun..],
                None => filter.room(),
            };
            let at_once = room.len().min(ROOM);
            let received = ready!(Pin::new(&mut *stream).poll_read(cx, &mut room[..at_once]))?;
            if received == 0 {
                return Poll::Ready(Ok(0)); // The end, and the beginning of a frame is of no use.
            }
            reading.add(received);
            let Some(begun) = begun else {
                filter.received(received);
                continue;
            };
            let read = filter.read_in_place(&mut buffer[..begun + received])?;
            if read > 0 {
                return Poll::Ready(Ok(read));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> GuardedStream<S> {
    /// Writes what has a secret in it.
    fn poll_revealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.revealed.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.revealed))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.revealed.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes all bytes, if a secret is to be put into them.
    fn take_secret(&mut self, bytes: &[IoSlice<'_>]) -> Option<usize> {
        if !self.secrets.is_waiting() {
            return None;
        }
        let mut bytes: Vec<u8> = bytes
            .iter()
            .flat_map(|bytes| bytes.iter())
            .copied()
            .collect();
        self.secrets.reveal(&mut bytes).then(|| {
            self.revealed = bytes;
            self.revealed.len()
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_revealed(cx))?;
        match this.take_secret(&[IoSlice::new(bytes)]) {
            // Written before what comes next, or with a flush.
            Some(taken) => Poll::Ready(Ok(taken)),
            None => Pin::new(&mut this.stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_revealed(cx))?;
        match this.take_secret(bytes) {
            Some(taken) => Poll::Ready(Ok(taken)),
            None => Pin::new(&mut this.stream).poll_write_vectored(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_revealed(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_revealed(cx))?;
        Pin::new(&mut this.stream).poll_close(cx)
    }
}

impl<S> fmt::Debug for GuardedStream<S> {
    /// Leaves out what was received.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedStream").finish_non_exhaustive()
    }
}

/// The error for bytes that no broker sends.
fn malformed(what: impl fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the broker sent {what}"),
    )
}

/// Gives the bytes that lapin gets of `input`, which arrives and is read in pieces of `chunk` bytes. For tests and fuzzers.
#[cfg(any(test, fuzzing))]
pub(crate) fn clean(input: &[u8], chunk: usize) -> io::Result<Vec<u8>> {
    /// Reads no more than a chunk at once.
    struct Chunks<'a>(&'a [u8], usize);

    impl AsyncRead for Chunks<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let length = self.0.len().min(self.1).min(buffer.len());
            let (chunk, rest) = self.0.split_at(length);
            buffer[..length].copy_from_slice(chunk);
            self.0 = rest;
            Poll::Ready(Ok(length))
        }
    }

    let chunk = chunk.max(1);
    let mut guarded = GuardedStream::new(Chunks(input, chunk), None);
    let mut context = Context::from_waker(std::task::Waker::noop());
    let (mut output, mut buffer) = (Vec::new(), vec![0; chunk]);
    while let Poll::Ready(read) = Pin::new(&mut guarded).poll_read(&mut context, &mut buffer) {
        match read? {
            0 => break,
            read => output.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(output)
}
