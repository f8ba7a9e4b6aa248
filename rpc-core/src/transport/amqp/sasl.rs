//! SASL mechanisms, as lapin asks for them (<https://www.rabbitmq.com/docs/access-control#mechanisms>).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lapin::auth::AuthProvider;
use lapin::types::{LongString, ShortString};
use lapin::uri::{AMQPUserInfo, SASLMechanism};

use super::guard::Secrets;

/// Mechanisms that programs can choose.
pub(super) const MECHANISMS: [SASLMechanism; 4] = [
    SASLMechanism::Plain,
    SASLMechanism::AMQPlain,
    SASLMechanism::External,
    SASLMechanism::Anonymous,
];

/// Login of one attempt to connect.
pub(super) struct Sasl {
    mechanism: SASLMechanism,
    /// Bytes that lapin sends in place of the response.
    stand_in: Vec<u8>,
    greeted: Arc<AtomicBool>,
}

impl Sasl {
    /// Sets `greeted` once a broker has sent its greeting.
    pub(super) fn new(
        mechanism: SASLMechanism,
        user: &AMQPUserInfo,
        secrets: &Secrets,
        greeted: Arc<AtomicBool>,
    ) -> Self {
        Self {
            mechanism,
            stand_in: secrets.disguise(&response(mechanism, user)),
            greeted,
        }
    }
}

impl AuthProvider for Sasl {
    fn mechanism(&self) -> ShortString {
        self.mechanism.name().into()
    }

    fn auth_starter(&self) -> Result<LongString, String> {
        self.greeted.store(true, Ordering::Relaxed);
        Ok(self.stand_in.clone().into())
    }
}

fn response(mechanism: SASLMechanism, user: &AMQPUserInfo) -> Vec<u8> {
    let AMQPUserInfo { username, password } = user;
    match mechanism {
        SASLMechanism::AMQPlain => {
            // A table of AMQP, without its length.
            let field = |name: &[u8], value: &str| {
                let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
                [name, b"S", &length.to_be_bytes(), value.as_bytes()].concat()
            };
            [
                field(b"\x05LOGIN", username),
                field(b"\x08PASSWORD", password),
            ]
            .concat()
        }
        SASLMechanism::External | SASLMechanism::Anonymous => Vec::new(),
        _ => format!("\0{username}\0{password}").into_bytes(),
    }
}
