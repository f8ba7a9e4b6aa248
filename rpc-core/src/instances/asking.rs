//! Questions to running instances, asked with the requester of a connection.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use serde::de::DeserializeOwned;
use smol_str::SmolStr;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::info::{InstanceInfo, InstanceStats, ServiceInfo};
use crate::error::{ErrorKind, RpcError};
use crate::message::Response;
use crate::names::{DESCRIBE, INSTANCE_QUEUE_PREFIX};
use crate::requester::{Answer, GatherOptions, Gathering, Requester, not_sent};
use crate::wire::{self, Question};

/// Most contracts that are asked for at the same time.
const MAX_ASKED: usize = 16;

/// One of the structs in the answers of instances.
pub(crate) trait Entry: DeserializeOwned {
    /// Name of the service that the struct is about.
    fn service(&self) -> &str;

    /// Id of the instance, for the order of a list; empty if the struct does not name it.
    fn id(&self) -> &str;
}

impl Entry for InstanceInfo {
    fn service(&self) -> &str {
        &self.service
    }

    fn id(&self) -> &str {
        &self.id
    }
}

impl Entry for InstanceStats {
    fn service(&self) -> &str {
        &self.service
    }

    fn id(&self) -> &str {
        &self.id
    }
}

impl Entry for ServiceInfo {
    fn service(&self) -> &str {
        &self.name
    }

    fn id(&self) -> &str {
        ""
    }
}

/// A question that was published to instances, and their answers.
#[derive(Debug)]
pub(crate) struct Asking {
    /// `None` if there is no instance.
    gathering: Option<Gathering>,
    /// The service that was asked about; `None` for all services.
    service: Option<String>,
    published: Instant,
}

/// An entry in the answer of an instance.
#[derive(Debug)]
pub(crate) struct Told<T> {
    pub(crate) entry: T,
    /// The private queue of the instance.
    pub(crate) private_queue: Option<SmolStr>,
    /// Time from the question to the answer.
    pub(crate) round_trip: Duration,
}

impl Asking {
    /// Publishes a question. Its answers are gathered until a moment, or until the expected number has arrived.
    pub(crate) async fn publish(
        requester: Arc<Requester>,
        question: Question<'_>,
        until: Instant,
        expected: Option<usize>,
    ) -> Result<Self, RpcError> {
        let options = GatherOptions {
            until,
            expected,
            cancels: None,
        };
        let topic = wire::instances_topic(question.service);
        let mut published = Instant::now();
        let gathering = requester.gather(topic, options, |id, _| {
            published = Instant::now();
            Ok(question.message(id, until))
        });
        let mut gathering = gathering.await?;
        let gathering = match gathering.confirmed().await {
            Ok(()) => Some(gathering),
            Err(error) if error.kind() == ErrorKind::Unroutable => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            gathering,
            service: question.service.map(str::to_owned),
            published,
        })
    }

    /// Waits for the answers. Malformed ones are left out.
    pub(crate) async fn answers<T: Entry>(mut self) -> Result<Vec<Told<T>>, RpcError> {
        let mut told = Vec::new();
        while let Some(gathering) = &mut self.gathering
            && let Some(answer) = gathering.next().await
        {
            told.extend(self.entries(answer?));
        }
        Ok(told)
    }

    /// Returns the entries of an answer, those of other services excluded.
    fn entries<T: Entry>(&self, answer: Answer) -> impl Iterator<Item = Told<T>> + use<T> {
        let Answer {
            origin,
            result,
            arrived,
        } = answer;
        let instance = &origin.instance;
        let entries = read::<T>(result).unwrap_or_else(|error| {
            debug!(?instance, error = ?error.to_string(), "the answer of an instance is left out");
            Vec::new()
        });
        let prefix = format!("{INSTANCE_QUEUE_PREFIX}{instance}.");
        // A stranger must not have this client write to other queues.
        let private_queue = origin
            .private_queue
            .filter(|queue| queue.starts_with(&prefix));
        let round_trip = arrived.saturating_duration_since(self.published);
        let service = self.service.clone();
        let entries = entries.into_iter().filter(move |entry| {
            let service = service.as_deref();
            service.is_none_or(|service| service == entry.service())
        });
        entries.map(move |entry| Told {
            entry,
            private_queue: private_queue.clone(),
            round_trip,
        })
    }
}

/// Reads the entries of an answer.
fn read<T: Entry>(result: Result<Response, RpcError>) -> Result<Vec<T>, RpcError> {
    let response = result?;
    if response.is_error() {
        return Err(RpcError::new(
            ErrorKind::BadReply,
            "an instance answered with an error of a service",
        ));
    }
    response.decode()
}

/// A contract that is served, and its instances.
#[derive(Debug)]
pub(crate) struct ServedContract {
    /// The instances, the one that started last first.
    pub(crate) instances: Vec<InstanceInfo>,
    /// The description by one of the instances; an error if none of them gave it.
    pub(crate) description: Result<ServiceInfo, RpcError>,
}

/// Sorts instances of one service by their contracts, and asks one instance of each for the description. The contract with the most instances
/// comes first; among equals, the one whose last instance started last.
pub(crate) async fn contracts(
    requester: &Requester,
    service: &str,
    instances: Vec<Told<InstanceInfo>>,
    until: Instant,
) -> Vec<ServedContract> {
    let mut by_contract = BTreeMap::<String, Vec<Told<InstanceInfo>>>::new();
    for told in instances {
        let same = by_contract.entry(told.entry.contract.clone()).or_default();
        same.push(told);
    }
    let mut groups: Vec<_> = by_contract.into_values().collect();
    for group in &mut groups {
        group.sort_by_key(|told| Reverse(told.entry.started));
    }
    let rank = |group: &[Told<InstanceInfo>]| {
        let latest = group.first().map(|told| told.entry.started);
        (group.len(), latest)
    };
    groups.sort_by_key(|group| Reverse(rank(group)));
    let described = stream::iter(groups).map(async |group| ServedContract {
        description: describe(requester, service, &group, until).await,
        instances: group.into_iter().map(|told| told.entry).collect(),
    });
    described.buffered(MAX_ASKED).collect().await
}

/// Asks instances with one contract for its description, one after the other until one answers.
async fn describe(
    requester: &Requester,
    service: &str,
    instances: &[Told<InstanceInfo>],
    until: Instant,
) -> Result<ServiceInfo, RpcError> {
    let mut failure = RpcError::new(
        ErrorKind::Unroutable,
        format!("no instance of {service} with this contract can be asked by name"),
    );
    let mut queues = instances.iter().filter_map(|told| {
        let queue = told.private_queue.clone();
        queue.map(|queue| (queue, &told.entry.id))
    });
    let mut next = queues.next();
    while let Some((queue, instance)) = next {
        next = queues.next();
        // An instance that hangs leaves time for the next one.
        let left = until.saturating_duration_since(Instant::now());
        let limit = match next {
            Some(_) => Instant::now() + left / 2,
            None => until,
        };
        let asking = timeout_at(limit, ask_by_name(requester, queue, service, limit));
        failure = match asking.await {
            Ok(Ok(description)) => return Ok(description),
            Ok(Err(error)) => error,
            Err(_) => RpcError::new(
                ErrorKind::Timeout,
                format!("an instance of {service} did not describe itself in time"),
            ),
        };
        debug!(?instance, error = ?failure.to_string(), "an instance gave no description");
    }
    Err(failure)
}

/// Asks one instance for the description of a service.
async fn ask_by_name(
    requester: &Requester,
    queue: SmolStr,
    service: &str,
    until: Instant,
) -> Result<ServiceInfo, RpcError> {
    let question = Question {
        method: DESCRIBE,
        service: Some(service),
    };
    let mut waiter = requester.in_flight.register(None)?;
    let mut message = question.message(waiter.correlation_id(), until);
    requester.address(&mut message, true);
    let sending = requester.channel.publish(queue, message);
    sending.wait().await.map_err(not_sent)?;
    let descriptions = read::<ServiceInfo>(waiter.result().await)?;
    let mut descriptions = descriptions.into_iter();
    descriptions
        .find(|description| description.name == service)
        .ok_or_else(|| {
            let reason = format!("the instance does not describe {service}");
            RpcError::new(ErrorKind::BadReply, reason)
        })
}
