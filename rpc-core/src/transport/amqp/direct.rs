//! Replies to RabbitMQ's direct reply-to addresses (<https://www.rabbitmq.com/docs/direct-reply-to>).
//!
//! An address that RabbitMQ 3 cannot read, or of a node that it does not know, makes it close the whole connection of the one
//! that publishes to it, and any caller can put one into a request. (RabbitMQ 4.3 ignores it.) So these replies go through a connection
//! of their own and are confirmed, and what no broker can have made is dropped. An address names its node by a hash. The first
//! reply to a node goes alone, with nothing else on its connection. Once one has arrived, those to the same node share a connection.
//! Few nodes are tried at a time, and few fail before others have to wait, so that a flood of forged addresses neither holds up a
//! server nor keeps the broker busy with connections. Dropped replies are counted, and logged now and then.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;

use smol_str::SmolStr;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::channel::AmqpChannel;
use super::login::{Login, Session};
use crate::error::with_causes;
use crate::transport::{ChannelMode, Message, TransportError};

/// What all direct reply-to addresses begin with.
const PREFIX: &str = "amq.rabbitmq.reply-to";

/// The number of nodes that are waited for at a time, each by any number of replies. Replies to others are dropped.
const MAX_TRIED: usize = 8;

/// The number of nodes that may fail in [`FAILURES_COUNT`].
const MAX_FAILURES: usize = 8;

/// The time for which a failure counts. No reply goes to that node meanwhile.
const FAILURES_COUNT: Duration = Duration::from_secs(2);

/// The number of nodes that are remembered for having taken a reply: more than any cluster has.
const MAX_KNOWN: usize = 256;

/// The pause between two lines in the log about dropped replies.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// Whether a queue name is a direct reply-to address.
pub(super) fn is_direct(queue: &str) -> bool {
    queue.starts_with(PREFIX)
}

/// The hash by which an address names its node; `None` if no broker can have made it. After the prefix come an Erlang process id
/// in its external format (<https://www.erlang.org/doc/apps/erts/erl_ext_dist>), on a node that is called `reply@` and the hash, and
/// a key, both in Base64.
fn node_of(address: &str) -> Option<u32> {
    /// `NEW_PID_EXT`, behind the version of the format.
    const PROCESS: [u8; 2] = [131, 88];
    const ATOM: u8 = 118;
    const SMALL_ATOM: u8 = 119;
    /// The number of the process, its serial and the creation of its node, each of 32 bits.
    const NUMBERS: usize = 12;

    let (process, key) = address
        .strip_prefix(PREFIX)?
        .strip_prefix('.')?
        .split_once('.')?;
    base64(key).filter(|key| !key.is_empty())?;
    let process = base64(process)?;
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
    // Larger ones are not read by every version of Erlang.
    let has_numbers = numbers.len() == NUMBERS
        && u32::from_be_bytes([n0, n1, n2, n3]) < 1 << 28
        && u32::from_be_bytes([s0, s1, s2, s3]) < 1 << 13;
    let hash = std::str::from_utf8(name.strip_prefix(b"reply@")?).ok()?;
    let is_number = hash.bytes().all(|byte| byte.is_ascii_digit());
    (has_numbers && is_number)
        .then(|| hash.parse().ok())
        .flatten()
}

/// Decodes a text in Base64, if it is as short as can be.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits.bytes() {
        let digit = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

/// The connection for direct replies.
#[derive(Debug)]
pub(super) struct DirectReplies {
    login: Login,
    /// For the nodes that are known.
    shared: Mutex<Option<Arc<Dedicated>>>,
    /// For one node at a time that is not known. Held while it is tried.
    alone: Mutex<Option<Dedicated>>,
    nodes: SyncMutex<Nodes>,
    dropped: SyncMutex<Dropped>,
}

/// A connection with one channel for confirmed publishing.
#[derive(Debug)]
struct Dedicated {
    channel: AmqpChannel,
    /// After the channel, so that it is closed after it.
    session: Session,
}

impl DirectReplies {
    pub(super) fn new(login: Login) -> Self {
        Self {
            login,
            shared: Mutex::default(),
            alone: Mutex::default(),
            nodes: SyncMutex::default(),
            dropped: SyncMutex::default(),
        }
    }

    /// Publishes a reply and waits until the broker has it, or drops it. There is no telling whether the caller is still there.
    pub(super) async fn send(&self, address: SmolStr, reply: Message) {
        if let Err(error) = self.publish(address, reply).await {
            let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(dropped) = dropped.count() {
                let error = error.to_string();
                warn!(
                    dropped,
                    error,
                    "replies to direct reply-to addresses were dropped since the connection was opened; the last one for this \
                     reason"
                );
            }
        }
    }

    async fn publish(&self, address: SmolStr, reply: Message) -> Result<(), TransportError> {
        let node = node_of(&address).ok_or_else(|| invalid("no broker makes such an address"))?;
        if self.nodes().is_known(node) {
            match self.share(address.clone(), reply.clone()).await {
                Err(TransportError::Lost(_) | TransportError::Refused(_)) => {
                    self.nodes().forget(node);
                }
                published => return published,
            }
        }
        self.introduce(node, address, reply).await
    }

    /// Publishes a reply to a node that is not known, after those that wait for that already.
    async fn introduce(
        &self,
        node: u32,
        address: SmolStr,
        reply: Message,
    ) -> Result<(), TransportError> {
        let _trial = Trial::begin(&self.nodes, node)?;
        let mut alone = self.alone.lock().await;
        if self.nodes().is_known(node) {
            drop(alone);
            return self.share(address, reply).await;
        }
        self.nodes().may_try(node)?;
        let dedicated = match alone.take() {
            Some(dedicated) if dedicated.is_open() => dedicated,
            _ => self.open().await?,
        };
        let published = dedicated.publish(address, reply).await;
        if published.is_ok() {
            self.nodes().learn(node);
            *alone = self.offer(dedicated).await;
        } else {
            self.nodes().fail(node);
            dedicated.session.close().await;
        }
        published
    }

    async fn share(&self, address: SmolStr, reply: Message) -> Result<(), TransportError> {
        self.shared().await?.publish(address, reply).await
    }

    pub(super) async fn close(&self) {
        let shared = self.shared.lock().await.take();
        // Held by what may wait for the broker.
        let alone = self
            .alone
            .try_lock()
            .ok()
            .and_then(|mut alone| alone.take());
        for dedicated in [shared, alone.map(Arc::new)].into_iter().flatten() {
            dedicated.session.close().await;
        }
    }

    async fn shared(&self) -> Result<Arc<Dedicated>, TransportError> {
        let mut shared = self.shared.lock().await;
        match &*shared {
            Some(dedicated) if dedicated.is_open() => Ok(dedicated.clone()),
            _ => Ok(shared.insert(Arc::new(self.open().await?)).clone()),
        }
    }

    /// Has a connection shared, or gives it back if there is one already.
    async fn offer(&self, dedicated: Dedicated) -> Option<Dedicated> {
        let mut shared = self.shared.lock().await;
        if shared.as_ref().is_some_and(|shared| shared.is_open()) {
            return Some(dedicated);
        }
        *shared = Some(Arc::new(dedicated));
        None
    }

    async fn open(&self) -> Result<Dedicated, TransportError> {
        let intake = Arc::default(); // It has no consumers.
        let opening = async { self.login.connect(self.login.ask().await?, &intake).await };
        let session = opening
            .await
            .map_err(|error| TransportError::lost(with_causes(&error)))?;
        let connection = &session.connection;
        let channel = AmqpChannel::open(connection, ChannelMode::Confirm, intake, None).await?;
        Ok(Dedicated { channel, session })
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        locked(&self.nodes)
    }
}

impl Dedicated {
    fn is_open(&self) -> bool {
        use crate::transport::Channel;
        let is_connected = self.session.connection.status().connected();
        is_connected && !self.session.is_outdated() && self.channel.is_open()
    }

    async fn publish(&self, address: SmolStr, mut reply: Message) -> Result<(), TransportError> {
        // A server that states its user states the one of the connection that the request came through.
        if reply.user_id.is_some() {
            reply.user_id = self.session.user.clone();
        }
        // Not mandatory: some versions of RabbitMQ return direct replies even when they were delivered.
        self.channel
            .publish_confirmed(address, reply, false)
            .await?
            .wait()
            .await
    }
}

fn invalid(reason: &str) -> TransportError {
    TransportError::Invalid(reason.to_owned())
}

fn locked(nodes: &SyncMutex<Nodes>) -> MutexGuard<'_, Nodes> {
    // Nothing under the lock leaves it half changed.
    nodes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The nodes that addresses name, as far as they are known.
#[derive(Debug, Default)]
struct Nodes {
    /// Those that have taken a reply, the one that was asked for last first.
    known: Vec<u32>,
    /// Those that are tried or wait for that, and how many replies wait for each.
    tried: Vec<(u32, usize)>,
    /// Those that failed a short while ago.
    failed: VecDeque<(u32, Instant)>,
}

impl Nodes {
    fn is_known(&mut self, node: u32) -> bool {
        let place = self.known.iter().position(|known| *known == node);
        if let Some(place) = place {
            self.known[..=place].rotate_right(1);
        }
        place.is_some()
    }

    fn learn(&mut self, node: u32) {
        if !self.is_known(node) {
            self.known.truncate(MAX_KNOWN - 1);
            self.known.insert(0, node);
        }
    }

    fn forget(&mut self, node: u32) {
        self.known.retain(|known| *known != node);
    }

    fn fail(&mut self, node: u32) {
        self.failed.push_back((node, Instant::now()));
    }

    /// Refuses a node that failed, or any while many have failed.
    fn may_try(&mut self, node: u32) -> Result<(), TransportError> {
        let now = Instant::now();
        while self
            .failed
            .pop_front_if(|(_, failed)| now.duration_since(*failed) >= FAILURES_COUNT)
            .is_some()
        {}
        if self.failed.iter().any(|(failed, _)| *failed == node) {
            return Err(invalid("the broker does not know the address's node"));
        }
        if self.failed.len() >= MAX_FAILURES {
            return Err(invalid("many others were forged"));
        }
        Ok(())
    }
}

/// A reply that waits until its node is known. It waits no longer when this is dropped.
struct Trial<'a> {
    nodes: &'a SyncMutex<Nodes>,
    node: u32,
}

impl<'a> Trial<'a> {
    fn begin(nodes: &'a SyncMutex<Nodes>, node: u32) -> Result<Self, TransportError> {
        let mut table = locked(nodes);
        table.may_try(node)?;
        let is_full = table.tried.len() >= MAX_TRIED;
        match table.tried.iter_mut().find(|(tried, _)| *tried == node) {
            Some((_, waiting)) => *waiting += 1,
            None if is_full => return Err(invalid("too many others wait to be tried")),
            None => table.tried.push((node, 1)),
        }
        drop(table);
        Ok(Self { nodes, node })
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let node = self.node;
        locked(self.nodes).tried.retain_mut(|(tried, waiting)| {
            *waiting -= usize::from(*tried == node);
            *waiting > 0
        });
    }
}

/// Counts the replies that were dropped.
#[derive(Debug, Default)]
struct Dropped {
    count: u64,
    logged: Option<Instant>,
}

impl Dropped {
    /// Counts one; the number of all, if it is time to tell.
    fn count(&mut self) -> Option<u64> {
        self.count += 1;
        let now = Instant::now();
        let is_due = self
            .logged
            .is_none_or(|logged| now.duration_since(logged) >= LOG_PAUSE);
        is_due.then(|| {
            self.logged = Some(now);
            self.count
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address of a process, as it is in the external format.
    fn address(process: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = format!("{PREFIX}.");
        for three in process.chunks(3) {
            let bytes = [0, 1, 2].map(|at| three.get(at).copied().map_or(0, u32::from));
            let bits = bytes[0] << 16 | bytes[1] << 8 | bytes[2];
            for digit in 0..4 {
                let is_padding = digit > three.len();
                let value = (bits >> (18 - 6 * digit)) & 63;
                text.push(if is_padding {
                    '='
                } else {
                    DIGITS[value as usize].into()
                });
            }
        }
        text + ".VFh62l+5vmTerjpbfZl1nw=="
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
    fn the_node_of_an_address_is_read_from_it() {
        // Of RabbitMQ 3.10 and 4.3.
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
    fn what_no_broker_made_has_no_node() {
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
            // Less of the key may still be a key.
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

    #[tokio::test(start_paused = true)]
    async fn few_nodes_are_waited_for_each_by_any_number() {
        let nodes = SyncMutex::default();
        let mut waiting: Vec<_> = (0..MAX_TRIED)
            .map(|node| Trial::begin(&nodes, u32::try_from(node).unwrap()).unwrap())
            .collect();
        assert!(Trial::begin(&nodes, 99).is_err());
        waiting.extend((0..100).map(|_| Trial::begin(&nodes, 7).unwrap()));
        waiting.remove(7);
        assert!(Trial::begin(&nodes, 99).is_err());
        waiting.remove(0);
        waiting.push(Trial::begin(&nodes, 99).unwrap());
        assert!(Trial::begin(&nodes, 0).is_err());
        drop(waiting);
        assert!(locked(&nodes).tried.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn few_nodes_may_fail_in_a_while() {
        let mut nodes = Nodes::default();
        nodes.fail(0);
        assert!(nodes.may_try(0).is_err(), "not the same again");
        for node in 1..u32::try_from(MAX_FAILURES).unwrap() {
            nodes.may_try(node).unwrap();
            nodes.fail(node);
        }
        assert!(nodes.may_try(99).is_err());
        tokio::time::advance(FAILURES_COUNT).await;
        nodes.may_try(99).unwrap();
        nodes.may_try(0).unwrap();
        assert!(nodes.failed.is_empty());
    }

    #[test]
    fn the_nodes_that_are_known_are_bounded() {
        let mut nodes = Nodes::default();
        nodes.learn(7);
        for node in 1_000..2_000 {
            nodes.learn(node);
            nodes.learn(node);
            assert!(nodes.is_known(7), "it is asked for");
        }
        assert_eq!(nodes.known.len(), MAX_KNOWN);
        assert!(nodes.is_known(1_999) && !nodes.is_known(1_000));
        nodes.forget(1_999);
        assert!(!nodes.is_known(1_999));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_is_told_of_now_and_then() {
        let mut dropped = Dropped::default();
        assert_eq!(dropped.count(), Some(1));
        assert_eq!(dropped.count(), None);
        tokio::time::advance(LOG_PAUSE).await;
        assert_eq!(dropped.count(), Some(3));
    }
}
