//! The frames of a broker, one after the other (AMQP 0-9-1, 2.3.5).
//!
//! Frames with bodies pass at once, as far as they have arrived. The others are small, and decided on when they are complete.

use std::collections::BTreeMap;
use std::io;

use super::method::{self, RETURN, TUNE};
use super::{content, malformed, plain};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// The beginning of the answer of a peer that wants another version of the protocol.
const PROTOCOL_HEADER: &[u8; 5] = b"AMQP\0";
const PROTOCOL_HEADER_LENGTH: usize = 8;

/// The type, the channel and the length of the payload.
const HEAD: usize = 7;
const END: u8 = 206;
/// The bytes of a frame besides its payload.
const FRAMING: usize = HEAD + 1;

/// The longest frame until the two sides agree on something else: lapin has no room for a longer one.
const FIRST_FRAME_MAX: u32 = 131_072;
/// The least that they may agree on.
const LEAST_FRAME_MAX: u32 = 4_096;

/// A reader of frames, and its knowledge of those that follow.
pub(super) struct Frames {
    ahead: Ahead,
    frame_max: u32,
    /// The limit that the URL asks for.
    asked: Option<u32>,
    /// The parts of returned messages that are still to come, by channel.
    returned: BTreeMap<u16, Returned>,
}

/// The bytes that come next.
#[derive(Clone, Copy)]
enum Ahead {
    Frame,
    /// The rest of a frame, of a known length.
    Passing(usize),
    Dropping(usize),
}

enum Returned {
    Header,
    Body(u64),
}

/// A decision on the first of some bytes.
#[derive(Default)]
pub(super) struct Checked {
    /// The number of bytes to be read as they are.
    pub(super) passed: usize,
    /// The number of bytes after those to be left out.
    pub(super) left_out: usize,
    /// The bytes to be read in their place.
    pub(super) instead: Vec<u8>,
}

/// A decision on a frame or on a part of it.
enum Fate {
    Pass(usize),
    Replace(usize, Vec<u8>),
}

impl Frames {
    /// Takes the limit of a frame that the URL asks for, if it does.
    pub(super) fn new(asked: Option<u32>) -> Self {
        Self {
            ahead: Ahead::Frame,
            frame_max: FIRST_FRAME_MAX,
            asked: asked.filter(|&asked| asked > 0),
            returned: BTreeMap::new(),
        }
    }

    /// Checks the bytes that have arrived, until some are not to be read as they are or more must arrive. Mends frames in place
    /// where that is possible.
    pub(super) fn check(&mut self, available: &mut [u8]) -> io::Result<Checked> {
        let mut checked = Checked::default();
        while checked.passed < available.len() {
            match self.next(&mut available[checked.passed..]) {
                Ok(Some(Fate::Pass(length))) => checked.passed += length,
                Ok(Some(Fate::Replace(length, instead))) => {
                    checked.left_out = length;
                    checked.instead = instead;
                    break;
                }
                Ok(None) => break,
                // In its turn: what comes before is read.
                Err(_) if checked.passed > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(checked)
    }

    /// Decides on the next frame, or on the part of it that has arrived; `None` if more must arrive.
    fn next(&mut self, available: &mut [u8]) -> io::Result<Option<Fate>> {
        if let Ahead::Frame = self.ahead
            && let Some(fate) = self.next_frame(available)?
        {
            return Ok(Some(fate));
        }
        self.next_part(available)
    }

    /// Decides on the next frame as a whole, unless its parts pass one by one.
    fn next_frame(&mut self, available: &mut [u8]) -> io::Result<Option<Fate>> {
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
            let frame = available.get_mut(..length);
            return frame
                .map(|frame| self.inspect(kind, channel, frame))
                .transpose();
        }
        self.ahead = if kind == BODY && self.is_returned(channel, payload) {
            Ahead::Dropping(length)
        } else {
            Ahead::Passing(length)
        };
        Ok(None)
    }

    /// Decides on the part that has arrived of a frame that is not held.
    fn next_part(&mut self, available: &[u8]) -> io::Result<Option<Fate>> {
        let (Ahead::Passing(rest) | Ahead::Dropping(rest)) = self.ahead else {
            return Ok(None);
        };
        let part = rest.min(available.len());
        if part == rest && available[part - 1] != END {
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
    fn inspect(&mut self, kind: u8, channel: u16, frame: &mut [u8]) -> io::Result<Fate> {
        let length = frame.len();
        if frame[length - 1] != END {
            return Err(unended());
        }
        let payload = &mut frame[HEAD..length - 1];
        let is_plain = match kind {
            METHOD => plain::is_delivery(payload),
            _ => plain::is_header(payload),
        };
        if is_plain && self.returned.is_empty() {
            return Ok(Fate::Pass(length));
        }
        let instead = if kind == METHOD {
            let instead = method::mend(payload)?;
            self.returned.remove(&channel); // A method ends the message before it.
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
            content::mend(payload, self.max_payload() as usize)?
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
