//! Bytes that were received and not read yet.
//!
//! Nearly all bytes are checked in the reader's own buffer and stay there. A filter keeps the others: the beginning of a frame,
//! bytes behind a frame that is replaced, and its replacement.

use std::io;

use super::frames::Frames;

/// The most bytes that are received at once.
pub(super) const ROOM: usize = 262_144;

/// The longest beginning of a frame that is put into the reader's buffer, to look at it there with what follows; and the least that
/// there is room for here.
const SHORT: usize = 4_096;

pub(super) struct Filter {
    frames: Frames,
    /// Holds the bytes that are kept, from `start` to `end`.
    input: Vec<u8>,
    start: usize,
    /// The end of those that can be read as they are.
    checked: usize,
    /// The place to go on after those. What lies between is left out, and `instead` is read in its place.
    resume: usize,
    end: usize,
    instead: Vec<u8>,
    /// The number of its bytes that were read.
    read_instead: usize,
}

impl Filter {
    pub(super) fn new(frames: Frames) -> Self {
        Self {
            frames,
            input: Vec::new(),
            start: 0,
            checked: 0,
            resume: 0,
            end: 0,
            instead: Vec::new(),
            read_instead: 0,
        }
    }

    /// Reads bytes that are kept; 0 if more must be received first.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.start < self.checked {
                let read = copy(&self.input[self.start..self.checked], buffer);
                self.start += read;
                return Ok(read);
            }
            if self.read_instead < self.instead.len() {
                let read = copy(&self.instead[self.read_instead..], buffer);
                self.read_instead += read;
                return Ok(read);
            }
            self.read_instead = 0;
            self.start = self.resume;
            let checked = self.frames.check(&mut self.input[self.start..self.end])?;
            self.checked = self.start + checked.passed;
            self.resume = self.checked + checked.left_out;
            self.instead = checked.instead;
            if self.resume == self.start {
                return Ok(0);
            }
        }
    }

    /// Puts the bytes that are kept into the reader's buffer, before those that are to be received. `None` if they are too many.
    ///
    /// This and [`room`](Self::room) are for when there is nothing to [`read`](Self::read).
    pub(super) fn begin(&self, buffer: &mut [u8]) -> Option<usize> {
        let kept = &self.input[self.start..self.end];
        (kept.len() <= SHORT.min(buffer.len() / 2)).then(|| copy(kept, buffer))
    }

    /// Checks the reader's buffer, with the bytes that were put and received there. Reads the first ones, and keeps the rest.
    pub(super) fn read_in_place(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let checked = self.frames.check(buffer);
        let (read, gone) = match &checked {
            Ok(checked) => (checked.passed, checked.passed + checked.left_out),
            Err(_) => (0, 0),
        };
        self.start = 0;
        self.checked = 0;
        self.resume = 0;
        self.end = buffer.len() - gone;
        if self.end > self.input.len() {
            self.input.resize(self.end, 0);
        }
        self.input[..self.end].copy_from_slice(&buffer[gone..]);
        self.instead = checked?.instead;
        Ok(read)
    }

    /// Room for bytes that are to be received, if the reader's buffer is too small.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.input.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.checked = 0;
        self.resume = 0;
        if self.end == self.input.len() {
            // A frame is longer, as long as the two sides have agreed on at most.
            self.input.resize((2 * self.end).max(SHORT), 0);
        }
        &mut self.input[self.end..]
    }

    /// Takes note of bytes that were received there.
    pub(super) fn received(&mut self, received: usize) {
        self.end += received;
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let length = from.len().min(to.len());
    to[..length].copy_from_slice(&from[..length]);
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_a_frame_and_what_is_received_at_once() {
        let mut filter = Filter::new(Frames::new(None));
        let mut frame = vec![1, 0, 0, 0, 1, 0xff, 0xf8];
        frame.resize(131_071, 0);
        let mut rest = &frame[..];
        while !rest.is_empty() {
            assert_eq!(filter.read(&mut [0]).unwrap(), 0);
            let received = copy(rest, filter.room());
            filter.received(received);
            rest = &rest[received..];
        }
        assert_eq!(filter.input.len(), 131_072);
    }
}
