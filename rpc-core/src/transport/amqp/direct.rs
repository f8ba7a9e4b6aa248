//! Replies to RabbitMQ's direct reply-to addresses (<https://www.rabbitmq.com/docs/direct-reply-to>).
//!
//! An address that does not parse makes RabbitMQ close the whole connection of whoever publishes to it, and any caller can
//! put one into a request. So these replies go through a connection of their own, opened by the first of them, and are
//! confirmed. When that connection is lost, each of its unconfirmed replies is sent once more, alone on a fresh
//! connection: only the one that is to blame fails again.

use std::sync::Arc;

use smol_str::SmolStr;
use tokio::sync::Mutex;

use super::channel::AmqpChannel;
use super::connection::{self, Login};
use crate::transport::{ChannelMode, Message, TransportError};

/// What all direct reply-to addresses begin with.
const PREFIX: &str = "amq.rabbitmq.reply-to";

/// Whether a queue name is a direct reply-to address.
pub(super) fn is_direct(queue: &str) -> bool {
    queue.starts_with(PREFIX)
}

/// Whether it may be one that a broker made: after the prefix come an Erlang process id in its external format, whose first
/// byte is 131, and a key, both in Base64. Most forged ones fail this, and cost nothing then.
fn is_well_formed(address: &str) -> bool {
    let parts = address
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.split_once('.'));
    let Some((process, key)) = parts else {
        return false;
    };
    let is_base64 = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
    };
    // 131 in Base64: `g`, and a digit whose first two bits are set.
    let begins_with_131 = matches!(
        process.as_bytes(),
        [b'g', b'w'..=b'z' | b'0'..=b'9' | b'+' | b'/', ..]
    );
    begins_with_131 && is_base64(process) && is_base64(key)
}

/// The connection for direct replies.
#[derive(Debug)]
pub(super) struct DirectReplies {
    login: Login,
    shared: Mutex<Option<Arc<Dedicated>>>,
    /// Held while a reply is tried alone, so that hostile callers cannot make it many connections at a time.
    alone: Mutex<()>,
}

/// A connection with one channel for confirmed publishing.
#[derive(Debug)]
struct Dedicated {
    channel: AmqpChannel,
    /// After the channel, so that it is closed after it.
    connection: lapin::Connection,
}

impl DirectReplies {
    pub(super) fn new(login: Login) -> Self {
        Self {
            login,
            shared: Mutex::default(),
            alone: Mutex::default(),
        }
    }

    /// Publishes a reply and waits until the broker has it. Nobody can tell whether the caller is still there.
    pub(super) async fn publish(
        &self,
        address: SmolStr,
        reply: Message,
    ) -> Result<(), TransportError> {
        if !is_well_formed(&address) {
            let reason = format!("'{address}' is no direct reply-to address of this broker");
            return Err(TransportError::Invalid(reason));
        }
        let shared = self.shared().await?;
        match shared.publish(address.clone(), reply.clone()).await {
            Err(TransportError::Lost(_) | TransportError::Refused(_)) => {}
            published => return published,
        }
        let _alone = self.alone.lock().await;
        let dedicated = self.open().await?;
        let published = dedicated.publish(address, reply).await;
        connection::close(&dedicated.connection).await;
        published
    }

    pub(super) async fn close(&self) {
        if let Some(dedicated) = self.shared.lock().await.take() {
            connection::close(&dedicated.connection).await;
        }
    }

    async fn shared(&self) -> Result<Arc<Dedicated>, TransportError> {
        let mut shared = self.shared.lock().await;
        match &*shared {
            Some(dedicated) if dedicated.connection.status().connected() => Ok(dedicated.clone()),
            _ => Ok(shared.insert(Arc::new(self.open().await?)).clone()),
        }
    }

    async fn open(&self) -> Result<Dedicated, TransportError> {
        let connection = self.login.connect().await.map_err(TransportError::lost)?;
        let channel =
            AmqpChannel::open(&connection, ChannelMode::Confirm, Arc::default(), None).await?;
        Ok(Dedicated {
            channel,
            connection,
        })
    }
}

impl Dedicated {
    async fn publish(&self, address: SmolStr, reply: Message) -> Result<(), TransportError> {
        // Not mandatory: some versions of RabbitMQ return direct replies even when they were delivered.
        self.channel
            .publish_confirmed(address, reply, false)
            .await?
            .wait()
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::is_well_formed;

    #[test]
    fn what_no_broker_made_is_told_from_what_one_may_have_made() {
        // Of RabbitMQ 3.10 and 4.3.
        for made in [
            "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxOTM3NTYwNAAABhUAAAAAawNeOQ==.tudCZS3y8NhPS5peXZIqhg==",
            "amq.rabbitmq.reply-to.g1h2AA9yZXBseUAxMDQ1MDY4NjgAAAYAAAAAAGsDXpI=.VFh62l+5vmTerjpbfZl1nw==",
        ] {
            assert!(is_well_formed(made), "{made}");
        }
        for forged in [
            "amq.rabbitmq.reply-to",
            "amq.rabbitmq.reply-to.QUJD.QUJD",
            "amq.rabbitmq.reply-to..",
            "amq.rabbitmq.reply-to.g1h.",
            "amq.rabbitmq.reply-to.g1h.ä",
            "amq.rabbitmq.reply-toXg1h.QUJD",
        ] {
            assert!(!is_well_formed(forged), "{forged}");
        }
    }
}
