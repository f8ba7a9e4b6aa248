//! Answers to questions about the instance: the built-in methods `rpc.ping`, `rpc.describe` and `rpc.stats`.
//!
//! Questions come through the private queue, or as requests through the queue of a service. Questions bypass layers, telemetry and
//! statistics. Answers hold names, numbers, ages and correlation ids, never arguments, headers or reply addresses.

use std::sync::{Arc, Weak};
use std::time::Duration;

use smol_str::SmolStr;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

use super::instance::Instance;
use super::outbox::{Outbox, OutgoingReply};
use super::rate_limit::ANSWERS_PER_SECOND;
use super::received::ReceivedRequest;
use super::served::ServedQueue;
use crate::batching::{self, ReplyForm};
use crate::error::{ErrorKind, RpcError};
use crate::instances::{InstanceInfo, InstanceStats, ServiceInfo};
use crate::message::Response;
use crate::names::{
    ANNOUNCE, DESCRIBE, INSTANCE_HEADER, METHOD_PREFIX, PING, PROTOCOL_VERSION, STATS, TAP,
};
use crate::transport::{Message, Reply};
use crate::wire::{self, Execution};

/// Returns `true` for the type of a request for a built-in method, known or not.
pub(super) fn is_built_in(kind: &str) -> bool {
    kind.starts_with(METHOD_PREFIX)
}

/// The services that the address of a question selects.
#[derive(Clone, Copy)]
enum Scope<'a> {
    All,
    Named(&'a str),
    /// The service of a request queue.
    Of(&'a ServedQueue),
}

impl Scope<'_> {
    fn includes(self, served: &ServedQueue) -> bool {
        match self {
            Self::All => true,
            Self::Named(name) => served.service == name,
            Self::Of(other) => served.shares_service_with(other),
        }
    }
}

impl Instance {
    /// Answers the questions from the private queue, in their order, as long as the session lasts.
    pub(super) async fn answer_questions(
        self: Arc<Self>,
        mut questions: mpsc::Receiver<Message>,
        outbox: Weak<Outbox>,
    ) {
        let mut taps = JoinSet::new();
        loop {
            let question = tokio::select! {
                Some(_) = taps.join_next() => continue,
                question = questions.recv() => question,
            };
            let Some(mut question) = question else {
                return;
            };
            if question.kind.as_deref() == Some(ANNOUNCE) {
                // Limited apart from the answers: in a deployment many instances start at once.
                match self.announcements.take() {
                    true => self.take_announcement(&question),
                    false => self.count_dropped("an announcement"),
                }
                continue;
            }
            let Some(queue) = question.reply_to.take() else {
                continue;
            };
            if wire::is_expired(&question) {
                debug!("a question whose deadline has passed is not answered");
                continue;
            }
            if !self.may_reply_to(&queue) {
                debug!(reply_to = ?queue, "refusing a question: replies to its reply queue are not allowed");
                self.count_refused();
                continue;
            }
            if !self.answers.take() {
                self.count_dropped("a question");
                continue;
            }
            let refusal = match question.kind.as_deref() {
                Some(TAP) => match self.open_tap(&mut question, &queue) {
                    Ok(opening) => {
                        taps.spawn(opening.run(outbox.clone()));
                        continue;
                    }
                    Err(refusal) => Some(refusal),
                },
                _ => None,
            };
            // Not held while the task waits, because the session is over once only the session itself holds the outbox.
            let Some(outbox) = outbox.upgrade() else {
                return;
            };
            let result = match refusal {
                Some(error) => Err(error),
                None => {
                    let topic = question.topic.take();
                    let service = topic.as_deref().and_then(wire::service_of_instances_topic);
                    let scope = service.map_or(Scope::All, Scope::Named);
                    self.answer(&question, scope, &outbox)
                }
            };
            let reply = self.answer_message(queue, result, question);
            let form = ReplyForm::Alone;
            let token = None;
            let outgoing = OutgoingReply { reply, form, token };
            outbox.reply(outgoing).wait().await;
        }
    }

    fn answer(
        &self,
        question: &Message,
        scope: Scope<'_>,
        outbox: &Outbox,
    ) -> Result<Response, RpcError> {
        let content_type = wire::supported_content_type(question)?;
        let kind = question.kind.as_deref().unwrap_or_default();
        if kind == TAP {
            return Err(RpcError::new(
                ErrorKind::BadRequest,
                "'rpc.tap' opens a stream of one instance, so the request must go to the private queue of the instance",
            ));
        }
        if ![PING, DESCRIBE, STATS].contains(&kind) {
            let reason = format!("this server has no built-in method '{kind}'");
            return Err(RpcError::new(ErrorKind::UnknownMethod, reason));
        }
        let service = wire::service_in_question(&question.body, content_type);
        let service = service.map_err(|cause| {
            let reason = format!("the arguments of '{kind}' cannot be read: {cause}");
            RpcError::new(ErrorKind::BadRequest, reason)
        })?;
        let named = service.as_deref().map_or(Scope::All, Scope::Named);
        let services = self.services().filter(|served| {
            let served = *served;
            scope.includes(served) && named.includes(served)
        });
        let response = match kind {
            PING => {
                let infos: Vec<InstanceInfo> = services.map(|served| self.info(served)).collect();
                Response::result(content_type, &infos)
            }
            DESCRIBE => {
                let descriptions: Vec<&ServiceInfo> =
                    services.map(|served| &*served.description).collect();
                Response::result(content_type, &descriptions)
            }
            _ => {
                let statistics: Vec<InstanceStats> =
                    services.filter_map(|served| self.stats(served)).collect();
                Response::result(content_type, &statistics)
            }
        }?;
        let limit = self.connection.max_message_size();
        wire::check_reply(&response, limit, outbox.frame_max())?;
        self.answers.charge(response.body.len());
        Ok(response)
    }

    /// The first queue of each service.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServedQueue> {
        let queues = self.queues.iter().enumerate();
        queues
            .filter(|(index, served)| {
                let mut earlier = self.queues[..*index].iter();
                !earlier.any(|other| other.shares_service_with(served))
            })
            .map(|(_, served)| served)
    }

    /// Names of the queues of a service, sorted.
    pub(super) fn queues_of(&self, served: &ServedQueue) -> Vec<String> {
        let queues = self.queues.iter();
        let queues = queues.filter(|other| other.shares_service_with(served));
        let mut queues: Vec<String> = queues.map(|other| other.queue.to_string()).collect();
        queues.sort_unstable();
        queues
    }

    fn info(&self, served: &ServedQueue) -> InstanceInfo {
        let ServiceInfo {
            version, contract, ..
        } = &*served.description;
        InstanceInfo {
            id: self.id.to_string(),
            name: self.connection.name().to_owned(),
            service: served.service.to_owned(),
            version: version.clone(),
            queues: self.queues_of(served),
            started: self.started,
            crate_version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL_VERSION,
            contract: contract.clone(),
            round_trip: Duration::ZERO, // The client measures it.
        }
    }

    fn stats(&self, served: &ServedQueue) -> Option<InstanceStats> {
        let (statistics, in_flight) = (served.statistics.as_ref()?, self.in_flight.as_ref()?);
        let is_own = |queue: usize| self.queues[queue].shares_service_with(served);
        let (methods, oldest) = statistics.read(in_flight, is_own);
        Some(InstanceStats {
            id: self.id.to_string(),
            name: self.connection.name().to_owned(),
            service: served.service.to_owned(),
            since: self.started,
            methods,
            oldest,
        })
    }

    /// Returns the answer to a question as a message, which names the instance and its private queue.
    fn answer_message(
        &self,
        queue: SmolStr,
        result: Result<Response, RpcError>,
        question: Message,
    ) -> Reply {
        if let Err(error) = &result {
            debug!(kind = ?error.kind(), error = ?error.to_string(), "answering a question with a fault");
        }
        let app_id = self.connection.app_id();
        let mut message = wire::reply_from_result(result, question, Execution::NotStarted, app_id);
        // A server without introspection tells strangers nothing about itself.
        if self.options.introspection {
            message.headers.insert(INSTANCE_HEADER, &*self.id);
            message.reply_to = self.private_queue.lock().clone();
        }
        Reply { queue, message }
    }
}

impl ReceivedRequest {
    /// Returns `true` for a request for a built-in method.
    pub(super) fn is_question(&self) -> bool {
        // The method is checked first, because nearly all other requests have one.
        self.method.is_none()
            && !batching::is_batch(&self.message)
            && self.message.kind.as_deref().is_some_and(is_built_in)
    }

    /// Answers a question that came through the queue of a service, and settles it.
    pub(super) async fn answer(mut self) {
        if wire::is_expired(&self.message) {
            return self.ack();
        }
        let Some(queue) = self.message.reply_to.take() else {
            return self.ack();
        };
        let instance = &self.source.instance;
        let result = if !instance.options.introspection {
            Err(RpcError::new(
                ErrorKind::PermissionDenied,
                "introspection is switched off on this server",
            ))
        } else if !instance.answers.take() {
            Err(RpcError::new(
                ErrorKind::Overloaded,
                format!(
                    "the server answers at most {ANSWERS_PER_SECOND} questions in a second: ask again later"
                ),
            ))
        } else {
            let scope = Scope::Of(self.source.served());
            instance.answer(&self.message, scope, &self.source.outbox)
        };
        let reply = instance.answer_message(queue, result, self.message);
        let outgoing = OutgoingReply {
            reply,
            form: ReplyForm::Alone,
            token: self.token,
        };
        self.source.outbox.reply(outgoing).wait().await;
    }
}
