//! Frames of a broker (AMQP 0-9-1, 2.3.5).
//!
//! Body frames pass as far as they have arrived. The others are small, and checked when they are complete.

use std::collections::BTreeMap;
use std::io;

use super::malformed::malformed;
use super::method::{self, RETURN, TUNE};
use super::{content, fast_path};
use crate::transport::limits::{DEFAULT_FRAME_MAX, MIN_FRAME_MAX};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Beginning of the answer of a peer that requires another version of the protocol.
const PROTOCOL_HEADER: &[u8; 5] = b"AMQP\0";
const PROTOCOL_HEADER_LENGTH: usize = 8;

/// Length of type, channel and the length of the payload.
const HEAD: usize = 7;
const END: u8 = 206;
/// Length of a frame beside its payload.
const FRAMING: usize = HEAD + 1;

/// A reader of frames, and its state between them.
pub(super) struct Frames {
    ahead: Ahead,
    frame_max: u32,
    /// Frame limit of the URL.
    asked: Option<u32>,
    /// Outstanding parts of returned messages, by channel.
    returned: BTreeMap<u16, Returned>,
}

/// Kind of the next bytes.
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

/// Result of checking bytes.
#[derive(Default)]
pub(super) struct Checked {
    /// Number of bytes that are read unchanged.
    pub(super) passed: usize,
    /// Number of bytes after those that are left out.
    pub(super) left_out: usize,
    /// Bytes that are read in their place.
    pub(super) replacement: Vec<u8>,
}

/// Action on a frame or on a part of it.
enum Action {
    Pass(usize),
    Replace(usize, Vec<u8>),
}

impl Frames {
    /// Creates a reader. `asked` is the frame limit of the URL, if there is one.
    pub(super) fn new(asked: Option<u32>) -> Self {
        Self {
            ahead: Ahead::Frame,
            // Until the two sides agree on another limit. lapin has no room for a longer frame.
            frame_max: DEFAULT_FRAME_MAX as u32,
            asked: asked.filter(|&asked| asked > 0),
            returned: BTreeMap::new(),
        }
    }

    /// Checks the bytes that have arrived, up to the first that are replaced or incomplete. Repairs frames in place where possible.
    pub(super) fn check(&mut self, available: &mut [u8]) -> io::Result<Checked> {
        let mut checked = Checked::default();
        while checked.passed < available.len() {
            match self.next(&mut available[checked.passed..]) {
                Ok(Some(Action::Pass(length))) => checked.passed += length,
                Ok(Some(Action::Replace(length, replacement))) => {
                    checked.left_out = length;
                    checked.replacement = replacement;
                    break;
                }
                Ok(None) => break,
                // Reported later: the bytes before it are read first.
                Err(_) if checked.passed > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(checked)
    }

    /// Chooses the action on the next frame, or on the part of it that has arrived; `None` if more has to arrive.
    fn next(&mut self, available: &mut [u8]) -> io::Result<Option<Action>> {
        if let Ahead::Frame = self.ahead
            && let Some(action) = self.next_frame(available)?
        {
            return Ok(Some(action));
        }
        self.next_part(available)
    }

    /// Chooses the action on the next frame as a whole, unless its parts pass one by one.
    fn next_frame(&mut self, available: &mut [u8]) -> io::Result<Option<Action>> {
        let Some(&[kind, high, low, ref length @ ..]) = available.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        if available.starts_with(PROTOCOL_HEADER) {
            let is_complete = available.len() >= PROTOCOL_HEADER_LENGTH;
            return Ok(is_complete.then_some(Action::Pass(PROTOCOL_HEADER_LENGTH)));
        }
        if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) {
            return Err(malformed(format!(
                "a frame of the type {kind}, which AMQP 0-9-1 does not have: check that the peer is an AMQP broker"
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

    /// Chooses the action on the part that has arrived of a frame that passes in parts.
    fn next_part(&mut self, available: &[u8]) -> io::Result<Option<Action>> {
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
            _ if !is_dropped => Action::Pass(part),
            // lapin must receive something: a broker that sends frames sends no heartbeats.
            Ahead::Frame => Action::Replace(part, frame(HEARTBEAT, 0, &[])),
            _ => Action::Replace(part, Vec::new()),
        }))
    }

    /// Repairs a method or header frame that has arrived.
    fn inspect(&mut self, kind: u8, channel: u16, frame: &mut [u8]) -> io::Result<Action> {
        let length = frame.len();
        if frame[length - 1] != END {
            return Err(unended());
        }
        let payload = &mut frame[HEAD..length - 1];
        let is_plain = match kind {
            METHOD => fast_path::is_delivery(payload),
            _ => fast_path::is_header(payload),
        };
        if is_plain && self.returned.is_empty() {
            return Ok(Action::Pass(length));
        }
        let replacement = if kind == METHOD {
            let replacement = method::repair(payload)?;
            self.returned.remove(&channel); // A method ends the message before it.
            match method::id(payload) {
                Some(RETURN) => drop(self.returned.insert(channel, Returned::Header)),
                Some(TUNE) => self.frame_max = agreed(method::frame_max(payload), self.asked),
                _ => {}
            }
            replacement
        } else if let Some(Returned::Header) = self.returned.get(&channel) {
            let (blank, size) = content::blank(payload)?;
            if size == 0 {
                self.returned.remove(&channel);
            } else {
                self.returned.insert(channel, Returned::Body(size));
            }
            Some(blank)
        } else {
            content::repair(payload, self.max_payload() as usize)?
        };
        Ok(match replacement {
            None => Action::Pass(length),
            Some(payload) => Action::Replace(length, self::frame(kind, channel, &payload)),
        })
    }

    /// Recognizes a body frame of a returned message, and counts its bytes.
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

/// Returns the limit that lapin chooses. 0 from the broker means no limit.
fn agreed(brokers: u32, asked: Option<u32>) -> u32 {
    let brokers = if brokers == 0 { u32::MAX } else { brokers };
    asked
        .map_or(brokers, |asked| asked.min(brokers))
        .max(MIN_FRAME_MAX)
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend_from_slice(&channel.to_be_bytes());
    // Shorter than the frame limit, which has four bytes.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    frame.push(END);
    frame
}

fn unended() -> io::Error {
    malformed("a frame without its end")
}
