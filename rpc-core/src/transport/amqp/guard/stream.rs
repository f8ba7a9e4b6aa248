//! Guarded streams.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncRead, AsyncWrite};

use super::filter::{Filter, ROOM};
use super::frames::Frames;
use super::secrets::Secrets;
use crate::transport::amqp::backpressure::{Backpressure, ReadThrottle};

/// A stream from and to a broker, from which lapin reads only bytes that its parser can handle.
pub(crate) struct GuardedStream<S> {
    pub(super) stream: S,
    filter: Filter,
    throttle: ReadThrottle,
    secrets: Arc<Secrets>,
    /// Bytes with a secret that the stream has not taken yet. They are written first.
    revealed: Vec<u8>,
}

impl<S> GuardedStream<S> {
    /// Creates a guarded stream. `frame_max` is the frame limit of the URL, if there is one.
    pub(crate) fn new(stream: S, frame_max: Option<u32>) -> Self {
        Self {
            stream,
            filter: Filter::new(Frames::new(frame_max)),
            throttle: ReadThrottle::default(),
            secrets: Arc::default(),
            revealed: Vec::new(),
        }
    }

    /// Reads no faster than the consumers take their deliveries.
    pub(crate) fn with_backpressure(mut self, backpressure: &Arc<Backpressure>) -> Self {
        self.throttle = backpressure.throttle();
        self
    }

    /// Sends these secrets in place of their stand-ins.
    pub(crate) fn with_secrets(mut self, secrets: Arc<Secrets>) -> Self {
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
            throttle,
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
            ready!(throttle.poll_ready(cx));
            let begun = filter.begin(buffer);
            let room = match begun {
                Some(begun) => &mut buffer[begun..],
                None => filter.room(),
            };
            let at_once = room.len().min(ROOM);
            let received = ready!(Pin::new(&mut *stream).poll_read(cx, &mut room[..at_once]))?;
            if received == 0 {
                return Poll::Ready(Ok(0)); // The end. An incomplete frame is of no use.
            }
            throttle.add(received);
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
    /// Writes the bytes with a secret.
    fn poll_revealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.revealed.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.revealed))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.revealed.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes all bytes, if a secret has to be put into them.
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
            // Written before the next bytes, or with a flush.
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
    /// Leaves out received bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedStream").finish_non_exhaustive()
    }
}

/// Returns the bytes that lapin gets of `input`, if `input` arrives and is read in pieces of `chunk` bytes. For tests and fuzzers.
#[cfg(any(test, fuzzing))]
pub(crate) fn clean(input: &[u8], chunk: usize) -> io::Result<Vec<u8>> {
    /// Reads at most a chunk at once.
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
