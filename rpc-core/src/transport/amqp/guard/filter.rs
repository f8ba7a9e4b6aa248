//! The bytes of a broker, frame by frame (AMQP 0-9-1, 2.3.5), however they arrive.
//!
//! Frames with bodies pass at once, as far as they have arrived. The others are small: they are held until they are complete.

use std::collections::BTreeMap;
use std::io;

use super::method::{self, RETURN, TUNE};
use super::{content, malformed};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Of a peer that wants another version of the protocol, which it then names.
const PROTOCOL_HEADER: &[u8; 5] = b"AMQP\0";
const PROTOCOL_HEADER_LENGTH: usize = 8;

/// The type, the channel and the length of the payload.
const HEAD: usize = 7;
const END: u8 = 206;
/// All that a frame has besides its payload.
const FRAMING: usize = HEAD + 1;

/// What a frame may measure until the two sides agree on something else: what lapin has room for.
const FIRST_FRAME_MAX: u32 = 131_072;
/// The least that they may agree on.
const LEAST_FRAME_MAX: u32 = 4_096;

/// How much is received at once, unless a frame is longer.
const ROOM: usize = 65_536;

/// What was received and not handed out yet. All of it before `checked` is fit to be.
pub(super) struct Filter {
    input: Vec<u8>,
    start: usize,
    checked: usize,
    /// Where to go on after what was checked, and `instead` of what lies between.
    resume: usize,
    end: usize,
    instead: Vec<u8>,
    /// How much of it was handed out.
    handed: usize,
    ahead: Ahead,
    frame_max: u32,
    /// What the URL asks for.
    asked: Option<u32>,
    /// What is still to come of the message that a channel returns.
    returned: BTreeMap<u16, Returned>,
}

/// What lies behind what was checked.
#[derive(Clone, Copy)]
enum Ahead {
    Frame,
    /// The rest of a frame, that many bytes.
    Passing(usize),
    Dropping(usize),
}

enum Returned {
    Header,
    Body(u64),
}

/// What becomes of the bytes that follow.
enum Fate {
    Pass(usize),
    Replace(usize, Vec<u8>),
}

impl Filter {
    pub(super) fn new(asked: Option<u32>) -> Self {
        Self {
            input: vec![0; ROOM],
            start: 0,
            checked: 0,
            resume: 0,
            end: 0,
            instead: Vec::new(),
            handed: 0,
            ahead: Ahead::Frame,
            frame_max: FIRST_FRAME_MAX,
            asked: asked.filter(|&asked| asked > 0),
            returned: BTreeMap::new(),
        }
    }

    /// Hands out what it can; 0 if more must be received first.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.start < self.checked {
                let read = copy(&self.input[self.start..self.checked], buffer);
                self.start += read;
                return Ok(read);
            }
            if self.handed < self.instead.len() {
                let read = copy(&self.instead[self.handed..], buffer);
                self.handed += read;
                return Ok(read);
            }
            self.start = self.resume;
            self.checked = self.resume;
            self.instead = Vec::new();
            self.handed = 0;
            self.scan()?;
            if self.resume == self.start {
                return Ok(0);
            }
        }
    }

    /// Where to put what is received. Only after [`read`](Self::read) has nothing more to hand out.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let start = std::mem::take(&mut self.start);
        self.input.copy_within(start..self.end, 0);
        self.end -= start;
        self.checked = 0;
        self.resume = 0;
        if self.end == self.input.len() {
            // A frame that is longer; its length was looked at.
            self.input.resize(2 * self.end, 0);
        }
        &mut self.input[self.end..]
    }

    /// That much was put there.
    pub(super) fn received(&mut self, received: usize) {
        self.end += received;
    }

    /// Looks at what follows until something is not to be handed out as it is, or has not arrived.
    fn scan(&mut self) -> io::Result<()> {
        loop {
            match self.next() {
                // In its turn: what comes before is handed out.
                Err(_) if self.start < self.checked => return Ok(()),
                Err(error) => return Err(error),
                Ok(None) => return Ok(()),
                Ok(Some(Fate::Pass(length))) => {
                    self.checked += length;
                    self.resume = self.checked;
                }
                Ok(Some(Fate::Replace(length, instead))) => {
                    self.resume = self.checked + length;
                    self.instead = instead;
                    return Ok(());
                }
            }
        }
    }

    /// What becomes of what follows; `None` if it has not arrived.
    fn next(&mut self) -> io::Result<Option<Fate>> {
        if let Ahead::Frame = self.ahead
            && let Some(fate) = self.next_frame()?
        {
            return Ok(Some(fate));
        }
        self.next_part()
    }

    /// What becomes of the frame that follows, if it is to be decided for all of it at once.
    fn next_frame(&mut self) -> io::Result<Option<Fate>> {
        let available = &self.input[self.checked..self.end];
        let Some(&[kind, high, low, ref length @ ..]) = available.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        if available.starts_with(PROTOCOL_HEADER) {
            let is_complete = available.len() >= PROTOCOL_HEADER_LENGTH;
            return Ok(is_complete.then_some(Fate::Pass(PROTOCOL_HEADER_LENGTH)));
        }
        if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) {
            return Err(malformed(format!(
                "a frame of the type {kind}, which AMQP 0-9-1 does not have: is it a broker?"
            )));
        }
        let channel = u16::from_be_bytes([high, low]);
        let payload = u32::from_be_bytes(*length);
        if payload > self.max_payload() {
            let limit = self.max_payload();
            return Err(malformed(format!(
                "a frame with {payload} bytes, more than the {limit} that were agreed on"
            )));
        }
        let length = payload as usize + FRAMING;
        if let METHOD | HEADER = kind {
            let is_complete = available.len() >= length;
            return is_complete
                .then(|| self.inspect(kind, channel, length))
                .transpose();
        }
        self.ahead = if kind == BODY && self.is_returned(channel, payload) {
            Ahead::Dropping(length)
        } else {
            Ahead::Passing(length)
        };
        Ok(None)
    }

    /// What becomes of what has arrived of a frame that is not held.
    fn next_part(&mut self) -> io::Result<Option<Fate>> {
        let (Ahead::Passing(rest) | Ahead::Dropping(rest)) = self.ahead else {
            return Ok(None);
        };
        let part = rest.min(self.end - self.checked);
        if part == 0 {
            return Ok(None);
        }
        if part == rest && self.input[self.checked + part - 1] != END {
            return Err(unended());
        }
        let is_dropped = matches!(self.ahead, Ahead::Dropping(_));
        self.ahead = match rest - part {
            0 => Ahead::Frame,
            rest if is_dropped => Ahead::Dropping(rest),
            rest => Ahead::Passing(rest),
        };
        Ok(Some(match self.ahead {
            _ if !is_dropped => Fate::Pass(part),
            // A broker that sends frames sends no heartbeats, which lapin would miss.
            Ahead::Frame => Fate::Replace(part, frame(HEARTBEAT, 0, &[])),
            _ => Fate::Replace(part, Vec::new()),
        }))
    }

    /// Mends a method or header frame that has arrived.
    fn inspect(&mut self, kind: u8, channel: u16, length: usize) -> io::Result<Fate> {
        let max_payload = self.max_payload() as usize;
        let frame = &mut self.input[self.checked..self.checked + length];
        if frame[length - 1] != END {
            return Err(unended());
        }
        let payload = &mut frame[HEAD..length - 1];
        let instead = if kind == METHOD {
            let instead = method::mend(payload)?;
            self.returned.remove(&channel); // What came of it was all.
            match method::id(payload) {
                Some(RETURN) => drop(self.returned.insert(channel, Returned::Header)),
                Some(TUNE) => self.frame_max = agreed(method::frame_max(payload), self.asked),
                _ => {}
            }
            instead
        } else if let Some(Returned::Header) = self.returned.get(&channel) {
            let (blank, size) = content::blank(payload)?;
            if size == 0 {
                self.returned.remove(&channel);
            } else {
                self.returned.insert(channel, Returned::Body(size));
            }
            Some(blank)
        } else {
            content::mend(payload, max_payload)?
        };
        Ok(match instead {
            None => Fate::Pass(length),
            Some(payload) => Fate::Replace(length, self::frame(kind, channel, &payload)),
        })
    }

    /// Tells a body frame of a returned message, and takes note of it.
    fn is_returned(&mut self, channel: u16, payload: u32) -> bool {
        let Some(Returned::Body(rest)) = self.returned.get_mut(&channel) else {
            return false;
        };
        *rest = rest.saturating_sub(payload.into());
        if *rest == 0 {
            self.returned.remove(&channel);
        }
        true
    }

    fn max_payload(&self) -> u32 {
        self.frame_max - FRAMING as u32
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let length = from.len().min(to.len());
    to[..length].copy_from_slice(&from[..length]);
    length
}

/// As lapin decides; 0 of the broker's is no limit.
fn agreed(brokers: u32, asked: Option<u32>) -> u32 {
    let brokers = if brokers == 0 { u32::MAX } else { brokers };
    asked
        .map_or(brokers, |asked| asked.min(brokers))
        .max(LEAST_FRAME_MAX)
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend_from_slice(&channel.to_be_bytes());
    // Shorter than the limit of a frame, which has four bytes.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    frame.push(END);
    frame
}

fn unended() -> io::Error {
    malformed("a frame without its end")
}
