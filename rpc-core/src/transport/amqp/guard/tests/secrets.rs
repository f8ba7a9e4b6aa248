//! Passwords on their way to the broker.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_io::AsyncWrite;

use super::super::{GuardedStream, Secrets};

/// A stream that takes a few bytes at a time, and is pending every second time.
#[derive(Default)]
struct Slow {
    written: Vec<u8>,
    at_once: usize,
    waits: bool,
}

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.waits = !self.waits;
        if self.waits {
            return Poll::Pending;
        }
        let taken = bytes.len().min(self.at_once);
        self.written.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Writes as lapin does: bytes that were not taken are offered again, then all are flushed.
fn write(stream: &mut GuardedStream<Slow>, mut bytes: &[u8]) {
    let mut context = Context::from_waker(Waker::noop());
    while !bytes.is_empty() {
        if let Poll::Ready(taken) = Pin::new(&mut *stream).poll_write(&mut context, bytes) {
            bytes = &bytes[taken.unwrap()..];
        }
    }
    while Pin::new(&mut *stream).poll_flush(&mut context).is_pending() {}
}

fn long_string(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [&length.to_be_bytes(), text].concat()
}

#[test]
fn secrets_replace_their_stand_in_once() {
    for at_once in [1, 3, 1000] {
        let secrets = Arc::new(Secrets::default());
        let slow = Slow {
            at_once,
            ..Slow::default()
        };
        let mut stream = GuardedStream::new(slow, None).with_secrets(secrets.clone());
        let stand_in = secrets.disguise(b"s3cret-of-ada");
        assert_eq!(stand_in.len(), 13);
        let method = |secret: &[u8]| [b"before", &long_string(secret)[..], b"behind"].concat();
        write(&mut stream, b"something else");
        write(&mut stream, &method(&stand_in));
        // A later message with the same bytes stays as it is.
        write(&mut stream, &method(&stand_in));
        let expected = [
            &b"something else"[..],
            &method(b"s3cret-of-ada"),
            &method(&stand_in),
        ];
        assert_eq!(stream.stream.written, expected.concat());
    }
}

#[test]
fn empty_secrets_replace_nothing() {
    let secrets = Arc::new(Secrets::default());
    let slow = Slow {
        at_once: 5,
        ..Slow::default()
    };
    let mut stream = GuardedStream::new(slow, None).with_secrets(secrets.clone());
    assert!(secrets.disguise(b"").is_empty());
    write(&mut stream, b"some\0\0\0\0thing");
    assert_eq!(stream.stream.written, b"some\0\0\0\0thing");
}
