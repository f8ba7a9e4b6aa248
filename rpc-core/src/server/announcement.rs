//! Announcements of instances, and warnings about other contracts on the same queue.
//!
//! Clients cannot choose the instance that gets their request. So an instance announces its contract when it starts, and the instances that
//! read the same queue warn if their own clients would fail there.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::instance::Instance;
use super::served::ServedQueue;
use crate::codec::{self, ContentType};
use crate::instances::{Contract, Difference, ServiceInfo};
use crate::names::ANNOUNCE;
use crate::transport::{ChannelMode, Content, Link, Message, TransportError};
use crate::wire;

/// Longest body of an announcement, in bytes.
pub(super) const MAX_LEN: usize = 64 << 10;

/// Time for the announcements of a server that starts.
const LIMIT: Duration = Duration::from_secs(10);

/// Number of descriptions that a server compares with its own over its life. Strangers can announce any number.
const MAX_COMPARED: usize = 256;

/// Number of contracts that a server warns about over its life.
const MAX_WARNINGS: usize = 32;

/// Number of differences in a warning.
const SHOWN: usize = 5;

/// Longest text of another instance in a warning, in characters.
const MAX_TEXT: usize = 300;

/// Cuts a text of another instance for the log.
fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Contract of an instance that has started.
#[derive(Debug, Serialize, Deserialize)]
struct Announcement {
    /// Id of the instance.
    instance: String,
    /// The queues of the service that the instance reads.
    queues: Vec<String>,
    service: ServiceInfo,
}

impl Announcement {
    /// Encodes the announcement, without schemas if it is too long with them.
    fn encode(mut self) -> Option<Vec<u8>> {
        let encode = |it: &Self| codec::encode(it, ContentType::MessagePack).ok();
        let mut body = encode(&self)?;
        if body.len() > MAX_LEN {
            self.service.remove_schemas();
            body = encode(&self)?;
        }
        (body.len() <= MAX_LEN).then(|| body.into())
    }
}

/// The contracts of other instances that a server knows.
#[derive(Debug, Default)]
pub(super) struct KnownContracts {
    hasher: RandomState,
    /// The descriptions that were compared, by hashes that no stranger can foresee. The instances of a deployment send the same one.
    compared: BTreeSet<u64>,
    /// The contracts that the log has a warning about, by the hashes in their descriptions.
    reported: BTreeSet<String>,
}

impl KnownContracts {
    /// Returns `true` if a description is to be compared: no equal one came before.
    fn is_news(&mut self, service: &ServiceInfo) -> bool {
        self.compared.len() < MAX_COMPARED && self.compared.insert(self.hasher.hash_one(service))
    }

    /// Returns `true` if a warning about the contract is due.
    fn report(&mut self, hash: &str) -> bool {
        self.reported.len() < MAX_WARNINGS && self.reported.insert(hash.to_owned())
    }
}

impl Instance {
    /// Announces the services of the instance to their other instances. A failure is no reason to serve less.
    pub(super) async fn announce(self: Arc<Self>, link: Arc<dyn Link>) {
        if !self.options.introspection {
            return;
        }
        let announcing = timeout(LIMIT, self.try_announce(&*link));
        match announcing.await {
            Ok(Ok(())) => {}
            Ok(Err(error @ TransportError::Forbidden(_))) => {
                let error = error.to_string();
                warn!(
                    ?error,
                    "other servers cannot compare their contracts with this server's: grant the server's user the permission to write to \
                     the exchange 'amq.direct'"
                );
            }
            Ok(Err(error)) => debug!(error = ?error.to_string(), "the server was not announced"),
            Err(_) => debug!("the server was not announced: the broker does not answer"),
        }
    }

    async fn try_announce(&self, link: &dyn Link) -> Result<(), TransportError> {
        // A channel of its own, because a refusal closes the channel.
        let channel = link.open_channel(ChannelMode::Confirm).await?;
        for served in self.services() {
            let announcement = Announcement {
                instance: self.id.to_string(),
                queues: self.queues_of(served),
                service: (*served.description).clone(),
            };
            let Some(body) = announcement.encode() else {
                debug!(
                    service = served.service,
                    "the contract is too long to be announced"
                );
                continue;
            };
            let message = Message::from(Content {
                kind: Some(SmolStr::new_static(ANNOUNCE)),
                content_type: ContentType::MessagePack
                    .as_property()
                    .map(SmolStr::new_static),
                app_id: Some(self.connection.app_id()),
                user_id: self.connection.user_id_on(link),
                body: body.into(),
                ..Content::default()
            });
            let topic = wire::instances_topic(Some(served.service));
            let confirm = channel.publish_to_topic(topic, message).await?;
            confirm.wait().await?;
        }
        Ok(())
    }

    /// Warns if clients with this server's contract would fail at an instance that has started.
    pub(super) fn take_announcement(&self, message: &Message) {
        let Ok(announcement) = codec::decode_own::<Announcement>(&message.body) else {
            debug!("a malformed announcement was ignored");
            return;
        };
        let Announcement {
            instance,
            queues,
            service,
        } = announcement;
        if *instance == *self.id {
            return;
        }
        let is_shared = |served: &&ServedQueue| {
            served.service == service.name && queues.iter().any(|queue| **queue == *served.queue)
        };
        let Some(served) = self.queues.iter().find(is_shared) else {
            return;
        };
        if !self.known_contracts.lock().is_news(&service) {
            return;
        }
        let Contract::Incompatible(differences) = served.client_description.compare(&service)
        else {
            return;
        };
        if !self.known_contracts.lock().report(&service.contract) {
            debug!(
                instance = ?cut(&instance),
                "another instance with an incompatible contract has started"
            );
            return;
        }
        let differences = differences.iter().take(SHOWN).map(Difference::to_string);
        let differences: Vec<String> = differences.map(|text| cut(&text)).collect();
        let (instance, version) = (cut(&instance), cut(&service.version));
        warn!(
            service = served.service,
            queue = &*served.queue,
            ?instance,
            ?version,
            ?differences,
            "an instance with an incompatible contract reads the same queue: calls that it gets may fail. Give it another queue or another \
             name, or replace the servers of one contract"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_warnings_is_limited() {
        let mut known = KnownContracts::default();
        assert!(known.report("a"));
        assert!(!known.report("a"));
        let more = (0..2 * MAX_WARNINGS).filter(|n| known.report(&n.to_string()));
        assert_eq!(more.count(), MAX_WARNINGS - 1);
    }

    #[test]
    fn equal_descriptions_are_compared_once_and_the_number_of_others_is_limited() {
        let described = |version: usize| -> ServiceInfo {
            let service = serde_json::json!({
                "name": "Fib", "version": version.to_string(), "docs": null, "queue": "rpc.Fib", "contract": "same", "methods": [],
            });
            serde_json::from_value(service).unwrap()
        };
        let mut known = KnownContracts::default();
        assert!(known.is_news(&described(0)));
        assert!(!known.is_news(&described(0)));
        let more = (0..2 * MAX_COMPARED).filter(|version| known.is_news(&described(*version)));
        assert_eq!(more.count(), MAX_COMPARED - 1);
    }

    #[test]
    fn texts_of_other_instances_are_short_in_the_log() {
        assert_eq!(cut("id"), "id");
        assert_eq!(cut(&"ü".repeat(MAX_LEN)).chars().count(), MAX_TEXT);
    }

    #[test]
    fn a_long_contract_is_announced_without_schemas_or_not_at_all() {
        let announcement = |schema: usize, docs: usize| {
            let service = serde_json::json!({
                "name": "Fib", "version": "1", "docs": "x".repeat(docs), "queue": "rpc.Fib", "contract": "",
                "methods": [{
                    "name": "fib", "docs": null, "kind": "Unary", "queue": null, "arguments": [],
                    "result": { "rust": "u64", "schema": "x".repeat(schema) }, "error": null, "item_error": null,
                    "idempotent": false, "at_most_once": false, "persistent": false, "default": false,
                    "priority": null, "timeout": null,
                }],
            });
            let announcement = Announcement {
                instance: "id".to_owned(),
                queues: Vec::new(),
                service: serde_json::from_value(service).unwrap(),
            };
            let body = announcement.encode()?;
            let read: Announcement = codec::decode_own(&body).unwrap();
            Some(read.service.methods[0].result.schema.is_some())
        };
        assert_eq!(announcement(10, 0), Some(true));
        assert_eq!(announcement(MAX_LEN, 0), Some(false));
        assert_eq!(announcement(0, MAX_LEN), None);
    }
}
