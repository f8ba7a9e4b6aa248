//! The guard as a stream: the pieces in which bytes arrive and are read do not matter.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;
use futures_io::AsyncRead;

use super::super::{GuardedStream, clean};
use super::frames::{HEADERS, TYPE, frame, header, nested_arrays, random_header, short, table};

/// A stream of pieces, each after one pending poll.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    is_ready: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.is_ready = !this.is_ready;
        if this.is_ready {
            return Poll::Pending;
        }
        let Some(piece) = this.pieces.front_mut() else {
            return Poll::Ready(Ok(0));
        };
        let read = piece.len().min(buffer.len());
        buffer[..read].copy_from_slice(&piece[..read]);
        piece.drain(..read);
        if piece.is_empty() {
            this.pieces.pop_front();
        }
        Poll::Ready(Ok(read))
    }
}

/// Reads to the end or to an error, at most `at_once` bytes at a time, with the frame limit of the URL.
fn read_to_end(
    frame_max: Option<u32>,
    pieces: impl IntoIterator<Item = Vec<u8>>,
    at_once: usize,
) -> (Vec<u8>, io::Result<()>) {
    let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
    let stream = Pieces {
        pieces: pieces.collect(),
        is_ready: false,
    };
    let mut guarded = GuardedStream::new(stream, frame_max);
    let mut context = Context::from_waker(Waker::noop());
    let (mut output, mut buffer) = (Vec::new(), vec![0; at_once]);
    let mut poll = move |buffer: &mut [u8]| {
        let poll = Pin::new(&mut guarded).poll_read(&mut context, buffer);
        if let Poll::Ready(Ok(0)) = poll {
            assert!(guarded.stream.pieces.is_empty(), "not the end");
        }
        poll
    };
    loop {
        match poll(&mut buffer) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => return (output, Ok(())),
            Poll::Ready(Ok(read)) => output.extend(&buffer[..read]),
            Poll::Ready(Err(error)) => {
                assert!(matches!(poll(&mut buffer), Poll::Ready(Err(_))));
                return (output, Err(error));
            }
        }
    }
}

/// Reads to the end.
fn read(pieces: impl IntoIterator<Item = Vec<u8>>, at_once: usize) -> Vec<u8> {
    let (output, result) = read_to_end(None, pieces, at_once);
    result.unwrap();
    output
}

/// Frames of all kinds.
fn conversation() -> Vec<u8> {
    let deep = table(&[(b"deep", nested_arrays(40))]);
    [
        frame(1, 1, b"\0\x14\0\x0b\0\0\0\0"), // channel.open-ok
        header(1, 4, HEADERS | TYPE, &[table(&[]), short(b"add")]),
        frame(3, 1, b"body"),
        frame(8, 0, b""),
        header(2, 5, HEADERS | TYPE, &[deep, short(b"\xff")]),
        frame(3, 2, b"other"),
        frame(3, 2, b""),
        frame(1, 1, b"\0\x14\0\x29"), // channel.close-ok
    ]
    .concat()
}

#[test]
fn divided_frames_arrive_whole() {
    let sent = conversation();
    let cleaned = clean(&sent, sent.len()).unwrap();
    assert_ne!(cleaned, sent);
    for at in 0..=sent.len() {
        for at_once in [1, 3, 64, 100_000] {
            let pieces = [sent[..at].to_vec(), sent[at..].to_vec()];
            assert_eq!(read(pieces, at_once), cleaned, "{at} {at_once}");
        }
    }
    for length in 1..20 {
        let pieces = sent.chunks(length).map(<[u8]>::to_vec);
        assert_eq!(read(pieces, 7), cleaned, "{length}");
    }
}

#[test]
fn long_streams_arrive_whole_in_pieces_of_all_sizes() {
    let mut rng = Rng::with_seed(1);
    let (mut sent, mut cleaned) = (Vec::new(), Vec::new());
    for _ in 0..2_000 {
        let header = random_header(&mut rng);
        if header.len() < 20 {
            continue;
        }
        let body = frame(3, 1, &vec![rng.u8(..); rng.usize(..2_000)]);
        cleaned.extend(clean(&header, header.len()).unwrap());
        cleaned.extend(&body);
        sent.extend(header);
        sent.extend(body);
    }
    let mut pieces = Vec::new();
    let mut rest = &sent[..];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rng.usize(1..100_000).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    assert!(read(pieces, 30_000) == cleaned);
}

#[test]
fn frames_larger_than_the_buffers_arrive_whole() {
    let value = [
        b"S".to_vec(),
        120_000_u32.to_be_bytes().to_vec(),
        vec![7; 120_000],
    ]
    .concat();
    let sent = header(1, 0, HEADERS, &[table(&[(b"big", value)])]);
    for length in [10, 1_000, 65_536, 200_000] {
        let pieces = sent.chunks(length).map(<[u8]>::to_vec);
        assert!(read(pieces, 999) == sent);
    }
}

#[test]
fn a_stream_may_end_within_a_frame() {
    let whole = frame(8, 0, b"");
    for begun in [conversation(), frame(3, 1, b"body")] {
        for length in 0..10 {
            let sent = [&whole[..], &begun[..length]].concat();
            let read = read([sent], 100);
            // The beginning of a frame passes at once.
            assert!(read.starts_with(&whole) && read.len() <= whole.len() + length);
        }
    }
}

#[test]
fn frames_before_a_malformed_frame_are_read_before_the_error() {
    let whole = frame(8, 0, b"");
    for (broken, reason) in [
        (
            b"HTTP/1.1 400 Bad Request".to_vec(),
            "a frame of the type 72",
        ),
        (
            b"\x03\0\x01\0\0\0\x01xy".to_vec(),
            "a frame without its end",
        ),
        (
            b"\x02\0\x01\0\0\0\x01xy".to_vec(),
            "a frame without its end",
        ),
        (
            b"\x01\0\x01\0\0\0\x01x\xce".to_vec(),
            "a method frame that is too short",
        ),
        (
            b"\x03\0\x01\0\x02\0\0".to_vec(),
            "a frame with 131072 bytes",
        ),
        (
            b"\x02\0\x01\xff\xff\xff\xff".to_vec(),
            "a frame with 4294967295 bytes",
        ),
    ] {
        for at_once in [1, 100] {
            let sent = [&whole[..], &broken].concat();
            let (read, error) = read_to_end(None, [sent], at_once);
            // The beginning of a frame may have passed.
            assert!(read.starts_with(&whole), "{reason}");
            let error = error.expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}

#[test]
fn frames_may_be_as_long_as_agreed() {
    let tune = |frame_max: u32| {
        let payload = [b"\0\x0a\0\x1e\0\0", &frame_max.to_be_bytes()[..], b"\0\0"].concat();
        frame(1, 0, &payload)
    };
    let body = |length: usize| frame(3, 1, &vec![0; length - 8]);
    for (brokers, asked, agreed) in [
        (131_072, None, 131_072),
        (131_072, Some(0), 131_072),
        (131_072, Some(8_192), 8_192),
        (8_192, Some(131_072), 8_192),
        (0, Some(200_000), 200_000),
        (1_000_000, None, 1_000_000),
        (100, None, 4_096),
    ] {
        for (length, fits) in [(agreed, true), (agreed + 1, false)] {
            let sent = [tune(brokers), body(length)].concat();
            let pieces = sent.chunks(10_000).map(<[u8]>::to_vec);
            let (_, result) = read_to_end(asked, pieces, 20_000);
            assert_eq!(result.is_ok(), fits, "{brokers} {asked:?} {length}");
        }
    }
}

#[test]
fn protocol_headers_of_other_versions_pass() {
    let sent = b"AMQP\0\x01\x00\x00";
    for chunk in 1..9 {
        assert_eq!(clean(sent, chunk).unwrap(), sent);
    }
}
