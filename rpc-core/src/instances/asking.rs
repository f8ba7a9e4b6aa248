//! Questions to running instances, asked with the requester of a connection.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use serde::de::DeserializeOwned;
use smol_str::SmolStr;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::contract::Difference;
use super::info::{InstanceInfo, InstanceStats, ServiceInfo};
use crate::error::{ErrorKind, RpcError};
use crate::message::Response;
use crate::names::DESCRIBE;
use crate::requester::{Answer, GatherOptions, Gathering, Requester, not_sent};
use crate::wire::{self, Question};

/// Most contracts that are asked for at the same time.
const MAX_ASKED: usize = 16;

/// Most contracts of a service whose descriptions are read. Any sender may name any number.
const MAX_CONTRACTS: usize = 64;

/// Longest description that is read, in bytes.
const MAX_DESCRIPTION: usize = 4 << 20;

/// Bytes of answers to one question that are read. Further answers are left out: any sender may answer as any number of instances, and
/// the structs take several times as much memory.
const MAX_TOLD: usize = 32 << 20;

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
        let mut len = 0;
        while let Some(gathering) = &mut self.gathering
            && let Some(answer) = gathering.next().await
        {
            let answer = answer?;
            len += answer.len();
            if len > MAX_TOLD {
                warn!(
                    service = self.service,
                    "the answers of some instances are left out: all answers together are longer than {MAX_TOLD} bytes"
                );
                break;
            }
            told.extend(self.entries(answer));
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
        let round_trip = arrived.saturating_duration_since(self.published);
        let service = self.service.clone();
        let entries = entries.into_iter().filter(move |entry| {
            let service = service.as_deref();
            service.is_none_or(|service| service == entry.service())
        });
        entries.map(move |entry| Told {
            entry,
            private_queue: origin.private_queue.clone(),
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

impl ServedContract {
    /// Returns the differences that a caller with the contract `expected` finds.
    pub(crate) fn differences_from(&self, expected: &ServiceInfo) -> Vec<Difference> {
        let is_same = |instance: &InstanceInfo| instance.contract == expected.contract;
        match &self.description {
            Ok(description) => expected.compare(description).differences().to_vec(),
            Err(_) if self.instances.iter().all(is_same) => Vec::new(),
            Err(error) => {
                let instances = self.instances.iter().map(|instance| &*instance.id);
                let instances = instances.collect::<Vec<_>>().join(", ");
                let what = format!(
                    "the contract is another one, and the difference cannot be decided, because no instance described it ({instances}): \
                     {error}"
                );
                vec![Difference {
                    method: None,
                    argument: None,
                    what,
                    compatible: false,
                }]
            }
        }
    }
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
    let groups = stream::iter(groups).enumerate();
    let described = groups.map(async |(rank, group)| ServedContract {
        description: match rank < MAX_CONTRACTS {
            true => describe(requester, service, &group, until).await,
            false => Err(RpcError::new(
                ErrorKind::Overloaded,
                format!("more than {MAX_CONTRACTS} contracts are served"),
            )),
        },
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
        queue.map(|queue| (queue, &told.entry))
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
        let asking = timeout_at(limit, ask_by_name(requester, queue, instance, limit));
        failure = match asking.await {
            Ok(Ok(description)) => return Ok(description),
            Ok(Err(error)) => error,
            Err(_) => RpcError::new(
                ErrorKind::Timeout,
                format!("an instance of {service} did not describe itself in time"),
            ),
        };
        debug!(instance = ?instance.id, error = ?failure.to_string(), "an instance gave no description");
    }
    Err(failure)
}

/// Asks an instance for the description of its contract. An instance may serve several contracts of one service, on different queues.
async fn ask_by_name(
    requester: &Requester,
    queue: SmolStr,
    instance: &InstanceInfo,
    until: Instant,
) -> Result<ServiceInfo, RpcError> {
    let InstanceInfo {
        service, contract, ..
    } = instance;
    let question = Question {
        method: DESCRIBE,
        service: Some(service),
    };
    let mut waiter = requester.in_flight.register(None)?;
    let mut message = question.message(waiter.correlation_id(), until);
    requester.address(&mut message, true);
    let sending = requester.channel.publish(queue, message);
    sending.wait().await.map_err(not_sent)?;
    let answer = waiter.result().await;
    if answer
        .as_ref()
        .is_ok_and(|answer| answer.body.len() > MAX_DESCRIPTION)
    {
        let reason = format!("the description is longer than {MAX_DESCRIPTION} bytes");
        return Err(RpcError::new(ErrorKind::TooLarge, reason));
    }
    let descriptions = read::<ServiceInfo>(answer)?;
    let mut descriptions = descriptions.into_iter();
    descriptions
        .find(|description| description.name == *service && description.contract == *contract)
        .ok_or_else(|| {
            let reason = format!("the instance does not describe this contract of {service}");
            RpcError::new(ErrorKind::BadReply, reason)
        })
}
