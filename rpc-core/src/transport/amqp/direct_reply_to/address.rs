//! Direct reply-to addresses.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::names::DIRECT_REPLY_TO;

/// Returns `true` if a queue name is a direct reply-to address.
pub(crate) fn is_direct_reply_to(queue: &str) -> bool {
    queue.starts_with(DIRECT_REPLY_TO)
}

/// Returns the hash by which an address names its node, or `None` if no broker can have made the address.
///
/// The prefix is followed by an Erlang process id in its external format (<https://www.erlang.org/doc/apps/erts/erl_ext_dist>), on
/// a node whose name is `reply@` and the hash, and by a key, both in Base64.
pub(super) fn node_of(address: &str) -> Option<u32> {
    /// `NEW_PID_EXT`, behind the version of the format.
    const PROCESS: [u8; 2] = [131, 88];
    const ATOM: u8 = 118;
    const SMALL_ATOM: u8 = 119;
    /// Number of the process, its serial and the creation of its node, each of 32 bits.
    const NUMBERS: usize = 12;

    let (process, key) = address
        .strip_prefix(DIRECT_REPLY_TO)?
        .strip_prefix('.')?
        .split_once('.')?;
    STANDARD.decode(key).ok().filter(|key| !key.is_empty())?;
    let process = STANDARD.decode(process).ok()?;
    let (name, numbers) = match process.strip_prefix(&PROCESS)? {
        [ATOM, high, low, rest @ ..] => {
            rest.split_at_checked(u16::from_be_bytes([*high, *low]).into())?
        }
        [SMALL_ATOM, len, rest @ ..] => rest.split_at_checked((*len).into())?,
        _ => return None,
    };
    let [n0, n1, n2, n3, s0, s1, s2, s3, ..] = *numbers else {
        return None;
    };
    // Not every version of Erlang reads larger numbers.
    let has_numbers = numbers.len() == NUMBERS
        && u32::from_be_bytes([n0, n1, n2, n3]) < 1 << 28
        && u32::from_be_bytes([s0, s1, s2, s3]) < 1 << 13;
    let hash = std::str::from_utf8(name.strip_prefix(b"reply@")?).ok()?;
    let is_number = hash.bytes().all(|byte| byte.is_ascii_digit());
    (has_numbers && is_number)
        .then(|| hash.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of a process in the external format.
    fn address(process: &[u8]) -> String {
        let process = STANDARD.encode(process);
        format!("{DIRECT_REPLY_TO}.{process}.VFh62l+5vmTerjpbfZl1nw==")
    }

    fn process(node: &[u8], number: u32, serial: u32) -> Vec<u8> {
        let mut process = vec![131, 88, 118, 0, u8::try_from(node.len()).unwrap()];
        process.extend(node);
        for part in [number, serial, u32::MAX] {
            process.extend(part.to_be_bytes());
        }
        process
    }

    #[test]
    fn addresses_name_their_node() {
        // Addresses made by RabbitMQ 3.10 and 4.3.
        for (made, node) in [
            (
                "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxOTM3NTYwNAAABhUAAAAAawNeOQ==.tudCZS3y8NhPS5peXZIqhg==",
                19_375_604,
            ),
            (
                "amq.rabbitmq.reply-to.g1h2AA9yZXBseUAxMDQ1MDY4NjgAAAYAAAAAAGsDXpI=.VFh62l+5vmTerjpbfZl1nw==",
                104_506_868,
            ),
        ] {
            assert_eq!(node_of(made), Some(node), "{made}");
        }
        let made = address(&process(b"reply@7", (1 << 28) - 1, (1 << 13) - 1));
        assert_eq!(node_of(&made), Some(7));
        let mut small = vec![131, 88, 119, 7];
        small.extend(b"reply@7");
        small.extend([0; 12]);
        assert_eq!(node_of(&address(&small)), Some(7));
    }

    #[test]
    fn forged_addresses_have_no_node() {
        for forged in [
            "amq.rabbitmq.reply-to",
            "amq.rabbitmq.reply-to.QUJD.QUJD",
            "amq.rabbitmq.reply-to..",
            "amq.rabbitmq.reply-to.g1h.",
            "amq.rabbitmq.reply-to.g1h.ä",
            "amq.rabbitmq.reply-toXg1h.QUJD",
        ] {
            assert_eq!(node_of(forged), None, "{forged}");
        }
        let made = process(b"reply@7", 1, 0);
        let whole = address(&made);
        assert_eq!(node_of(&whole), Some(7));
        for end in 0..whole.len() {
            // A shorter key may still be a key.
            let is_key = matches!(whole.len() - end, 4 | 8 | 12 | 16 | 20);
            assert!(is_key || node_of(&whole[..end]).is_none(), "{end}");
        }
        for len in 0..made.len() {
            assert_eq!(node_of(&address(&made[..len])), None, "{len}");
        }
        let forged = [
            process(b"reply@7", 1 << 28, 0),
            process(b"reply@7", 1, 1 << 13),
            process(b"reply@", 1, 0),
            process(b"reply@+7", 1, 0),
            process(b"reply@-7", 1, 0),
            process(b"reply@7x", 1, 0),
            process(b"reply@4294967296", 1, 0),
            process(b"rabbit@7", 1, 0),
            process(b"reply@\xff", 1, 0),
            process(b"reply", 1, 0),
            [&made[..], b"\0"].concat(),
            vec![131, 97, 1],
            vec![131, 106],
        ];
        for forged in forged {
            assert_eq!(node_of(&address(&forged)), None, "{forged:?}");
        }
        let mut old = vec![131, 103];
        old.extend(&made[2..]);
        assert_eq!(node_of(&address(&old)), None);
    }
}
