//! Method frames. A broker's own methods are well formed, but repeat names from publishers: exchanges, routing keys, consumers.

use std::io;

use super::malformed::malformed;
use super::table;
use super::text;

/// Argument of a method.
enum Argument {
    Octets(usize),
    Short,
    Long,
    Table,
}

use Argument::{Long, Octets, Short, Table};

/// `connection.tune`
pub(super) const TUNE: (u16, u16) = (10, 30);
/// `basic.return`
pub(super) const RETURN: (u16, u16) = (60, 50);

/// Arguments of the methods that a broker may send (<https://www.rabbitmq.com/amqp-0-9-1-reference>).
fn arguments(method: (u16, u16)) -> Option<&'static [Argument]> {
    Some(match method {
        // connection: start, secure, tune, open-ok, close, close-ok, blocked, unblocked, update-secret-ok
        (10, 10) => &[Octets(2), Table, Long, Long],
        (10, 20) => &[Long],
        TUNE => &[Octets(8)],
        (10, 41 | 60) => &[Short],
        (10, 50) => &[Octets(2), Short, Octets(4)],
        (10, 51 | 61 | 71) => &[],
        // channel: open-ok, flow, flow-ok, close, close-ok
        (20, 11) => &[Long],
        (20, 20 | 21) => &[Octets(1)],
        (20, 40) => &[Octets(2), Short, Octets(4)],
        (20, 41) => &[],
        // access: request-ok
        (30, 11) => &[Octets(2)],
        // exchange: declare-ok, delete-ok, bind-ok, unbind-ok
        (40, 11 | 21 | 31 | 51) => &[],
        // queue: declare-ok, bind-ok, unbind-ok, purge-ok, delete-ok
        (50, 11) => &[Short, Octets(8)],
        (50, 21 | 51) => &[],
        (50, 31 | 41) => &[Octets(4)],
        // basic: qos-ok, recover-ok; consume-ok, cancel-ok, get-empty; cancel
        (60, 11 | 111) => &[],
        (60, 21 | 31 | 72) => &[Short],
        (60, 30) => &[Short, Octets(1)],
        // basic: return, deliver, get-ok; ack, nack
        RETURN => &[Octets(2), Short, Short, Short],
        (60, 60) => &[Short, Octets(9), Short, Short],
        (60, 71) => &[Octets(9), Short, Short, Octets(4)],
        (60, 80 | 120) => &[Octets(9)],
        // confirm: select-ok; tx: select-ok, commit-ok, rollback-ok
        (85, 11) | (90, 11 | 21 | 31) => &[],
        _ => return None,
    })
}

/// The class and the method of a method frame.
pub(super) fn id(payload: &[u8]) -> Option<(u16, u16)> {
    let &[class_high, class_low, method_high, method_low] = payload.first_chunk()?;
    let class = u16::from_be_bytes([class_high, class_low]);
    Some((class, u16::from_be_bytes([method_high, method_low])))
}

/// The `frame_max` of a `connection.tune`.
pub(super) fn frame_max(tune: &[u8]) -> u32 {
    let frame_max = tune.get(6..).and_then(<[u8]>::first_chunk);
    frame_max.copied().map_or(0, u32::from_be_bytes)
}

/// Repairs a method in place. Returns a replacement if that is not enough.
pub(super) fn repair(payload: &mut [u8]) -> io::Result<Option<Vec<u8>>> {
    let id = id(payload).ok_or_else(|| malformed("a method frame that is too short"))?;
    let arguments = arguments(id).ok_or_else(|| {
        let (class, method) = id;
        malformed(format!(
            "the method {method} of class {class}, which no broker sends"
        ))
    })?;
    let unreadable = || {
        let (class, method) = id;
        malformed(format!(
            "a frame of the method {method} of class {class} that cannot be read"
        ))
    };
    let mut rewritten = None;
    let mut at = 4;
    for argument in arguments {
        let rest = &mut payload[at..];
        let length = match argument {
            Octets(octets) => *octets,
            Short => {
                let length = 1 + usize::from(*rest.first().ok_or_else(unreadable)?);
                text::repair(rest.get_mut(1..length).ok_or_else(unreadable)?);
                length
            }
            Long | Table => {
                let length = rest.first_chunk().ok_or_else(unreadable)?;
                4_usize.saturating_add(u32::from_be_bytes(*length) as usize)
            }
        };
        let end = at.saturating_add(length);
        if end > payload.len() {
            return Err(unreadable());
        }
        // No method has two tables.
        if let Table = argument
            && table::check(&mut payload[at + 4..end]).is_err()
        {
            let mut out = payload[..at].to_vec();
            table::rewrite(&mut payload[at + 4..end], None, &mut out);
            rewritten = Some((out, end));
        }
        at = end;
    }
    if at < payload.len() {
        return Err(unreadable());
    }
    Ok(rewritten.map(|(mut out, end)| {
        out.extend_from_slice(&payload[end..]);
        out
    }))
}
