//! Bytes that were received and not read yet.
//!
//! Nearly all bytes are checked in the reader's own buffer and stay there. A filter keeps the others: the beginning of a frame, the
//! bytes after a frame that is replaced, and the replacement.

use std::io;

use super::frames::Frames;

/// Limit of bytes that are received at once.
pub(super) const ROOM: usize = 262_144;

/// Longest beginning of a frame that is copied into the reader's buffer, to be checked there with the bytes that follow; and the
/// least room for bytes in the filter.
const SHORT: usize = 4_096;

pub(super) struct Filter {
    frames: Frames,
    /// Buffer of the kept bytes, from `start` to `end`.
    input: Vec<u8>,
    start: usize,
    /// End of the bytes that can be read unchanged.
    checked: usize,
    /// Position after the bytes that are left out, which follow `checked`. `replacement` is read in their place.
    resume: usize,
    end: usize,
    replacement: Vec<u8>,
    /// Number of bytes of the replacement that were read.
    read_of_replacement: usize,
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
            replacement: Vec::new(),
            read_of_replacement: 0,
        }
    }

    /// Reads kept bytes; 0 if more have to be received first.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.start < self.checked {
                let read = copy(&self.input[self.start..self.checked], buffer);
                self.start += read;
                return Ok(read);
            }
            if self.read_of_replacement < self.replacement.len() {
                let read = copy(&self.replacement[self.read_of_replacement..], buffer);
                self.read_of_replacement += read;
                return Ok(read);
            }
            self.read_of_replacement = 0;
            self.start = self.resume;
            let checked = self.frames.check(&mut self.input[self.start..self.end])?;
            self.checked = self.start + checked.passed;
            self.resume = self.checked + checked.left_out;
            self.replacement = checked.replacement;
            if self.resume == self.start {
                return Ok(0);
            }
        }
    }

    /// Copies the kept bytes to the beginning of the reader's buffer. Returns `None` if there are too many.
    ///
    /// This method and [`room`](Self::room) are for a filter that has nothing to [`read`](Self::read).
    pub(super) fn begin(&self, buffer: &mut [u8]) -> Option<usize> {
        let kept = &self.input[self.start..self.end];
        (kept.len() <= SHORT.min(buffer.len() / 2)).then(|| copy(kept, buffer))
    }

    /// Checks the reader's buffer, with the bytes that were copied and received there. Reads the first bytes, and keeps the rest.
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
        self.replacement = checked?.replacement;
        Ok(read)
    }

    /// Room for received bytes, if the reader's buffer is too small.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.input.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.checked = 0;
        self.resume = 0;
        if self.end == self.input.len() {
            // The frame is longer, up to the limit on which the two sides have agreed.
            self.input.resize((2 * self.end).max(SHORT), 0);
        }
        &mut self.input[self.end..]
    }

    /// Records bytes that were received in [`room`](Self::room).
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
    fn a_filter_keeps_at_most_one_frame_and_one_read() {
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
