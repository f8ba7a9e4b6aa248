//! Questions to running servers: which there are, what they serve, and how they do.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::errors;
use super::gather::DEFAULT_WITHIN;
use super::repeat::once_connected;
use super::service::Client;
use crate::deadline;
use crate::error::{ErrorKind, RpcError};
use crate::instances::{
    self, Asking, Entry, InstanceInfo, InstanceStats, ServedContract, ServiceInfo, Told,
};
use crate::names::{PING, STATS};
use crate::requester::Requester;
use crate::task;
use crate::wire::Question;

/// Questions to running servers. They go past the layers around the client, in MessagePack, and take no place of
/// [`ClientBuilder::max_in_flight`](crate::ClientBuilder::max_in_flight).
///
/// Servers answer unless they switch introspection off, and if their users may bind queues to the exchange `amq.direct`. The client's user
/// needs the permission to write to that exchange.
impl Client {
    /// Asks for the running instances of a service, by its name. Gives them sorted by id; none if there is no instance.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // after the merge: `no_run` goes
    /// # use std::time::Duration;
    /// # use rpc_core::{Connection, Server, rpc};
    /// # #[rpc] trait Fib { async fn fib(n: u64) -> u64; }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = Connection::open("memory:").await?;
    /// # let server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
    /// let client = connection.client();
    /// // Without `expect`, the client waits for one second for further instances.
    /// let instances = client.instances("Fib").expect(1).await?;
    /// assert_eq!(instances[0].id, server.instance_id());
    /// println!("version {} answers in {:?}", instances[0].version, instances[0].round_trip);
    /// # Ok(())
    /// # }
    /// ```
    pub fn instances(&self, service: impl Into<String>) -> InstanceQuery<InstanceInfo> {
        InstanceQuery::new(self, PING, Some(service.into()))
    }

    /// Asks for the running instances of all services on this broker. Gives one entry for each service of an instance, sorted by service,
    /// then id.
    pub fn all_instances(&self) -> InstanceQuery<InstanceInfo> {
        InstanceQuery::new(self, PING, None)
    }

    /// Asks for the statistics of the running instances of a service. Gives them sorted by id; none if there is no instance.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // after the merge: `no_run` goes
    /// # use rpc_core::{Connection, RpcError};
    /// # async fn f(connection: Connection) -> Result<(), RpcError> {
    /// for instance in connection.client().stats("Fib").await? {
    ///     for method in instance.methods {
    ///         println!("{} {}: {} calls, p99 {:?}", instance.id, method.name, method.calls, method.p99);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self, service: impl Into<String>) -> InstanceQuery<InstanceStats> {
        InstanceQuery::new(self, STATS, Some(service.into()))
    }

    /// Asks for the description of a service: its methods with their arguments and types. If instances serve different contracts, gives
    /// the one that most of them serve; among equals, the one whose last instance started last.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // after the merge: `no_run` goes
    /// # use rpc_core::{Connection, RpcError};
    /// # async fn f(connection: Connection) -> Result<(), RpcError> {
    /// let service = connection.client().describe("Fib").await?;
    /// for method in service.methods {
    ///     println!("{} -> {}", method.name, method.result.rust);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn describe(&self, service: impl Into<String>) -> DescriptionQuery {
        DescriptionQuery {
            client: self.clone(),
            service: service.into(),
            within: DEFAULT_WITHIN,
        }
    }

    /// Returns the contracts of a service that are served, each with its instances; none if no instance answers. The contract with the
    /// most instances comes first. Finding the instances and asking for descriptions may take the time limit each.
    pub(crate) async fn contracts(
        &self,
        service: &str,
        within: Duration,
    ) -> Result<Vec<ServedContract>, RpcError> {
        let ping = Question {
            method: PING,
            service: Some(service),
        };
        let (requester, asking) = self.ask(ping, within, None).await?;
        let instances = asking.answers().await?;
        let until = deadline::after(within);
        Ok(instances::contracts(&requester, service, instances, until).await)
    }

    /// Publishes a question to instances. A question that was not sent waits for the connection.
    async fn ask(
        &self,
        question: Question<'_>,
        within: Duration,
        expected: Option<usize>,
    ) -> Result<(Arc<Requester>, Asking), RpcError> {
        if !task::in_runtime() {
            return Err(RpcError::no_runtime());
        }
        let until = deadline::after(within);
        if until <= Instant::now() {
            return Err(deadline::passed_before_the_call());
        }
        let publishing = once_connected(self.sender(), |requester| async move {
            let asking = Asking::publish(requester.clone(), question, until, expected).await?;
            Ok((requester, asking))
        });
        timeout_at(until, publishing).await.unwrap_or_else(|_| {
            let service = question.service.unwrap_or("any service");
            let error = errors::timed_out(self.connection(), service, within, false);
            Err(error)
        })
    }
}

/// Question to the instances of a service, see [`Client::instances`] and [`Client::stats`]. Awaiting it gives
/// `Result<Vec<T>, RpcError>`.
///
/// # Errors
///
/// Awaiting the question fails with [`ErrorKind::PermissionDenied`] if the user may not write to the exchange `amq.direct`, with
/// [`ErrorKind::Disconnected`] if the connection is lost meanwhile, and with [`ErrorKind::Timeout`] if the connection is down for
/// the whole time. Malformed answers are left out.
///
/// # Cancel safety
///
/// Dropping the future drops the answers that have arrived.
#[must_use = "a question is not asked until it is awaited"]
pub struct InstanceQuery<T> {
    client: Client,
    method: &'static str,
    service: Option<String>,
    within: Duration,
    expected: Option<usize>,
    entries: PhantomData<fn() -> T>,
}

impl<T> InstanceQuery<T> {
    fn new(client: &Client, method: &'static str, service: Option<String>) -> Self {
        Self {
            client: client.clone(),
            method,
            service,
            within: DEFAULT_WITHIN,
            expected: None,
            entries: PhantomData,
        }
    }

    /// Sets the time for which answers are gathered. Default: 1 second. With zero, the question fails with [`ErrorKind::Timeout`].
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Ends the gathering after this number of instances has answered, without waiting for the rest of the time. 0 counts as 1. Default:
    /// no limit except 4,096.
    pub fn expect(mut self, instances: usize) -> Self {
        self.expected = Some(instances.max(1));
        self
    }
}

/// Asks, and returns the answers sorted by service, then id.
async fn answers_to<T: Entry>(query: InstanceQuery<T>) -> Result<Vec<Told<T>>, RpcError> {
    let question = Question {
        method: query.method,
        service: query.service.as_deref(),
    };
    let asking = query.client.ask(question, query.within, query.expected);
    let (_, asking) = asking.await?;
    let mut told = asking.answers::<T>().await?;
    told.sort_by(|a, b| {
        let (a, b) = (&a.entry, &b.entry);
        (a.service(), a.id()).cmp(&(b.service(), b.id()))
    });
    Ok(told)
}

impl IntoFuture for InstanceQuery<InstanceInfo> {
    type Output = Result<Vec<InstanceInfo>, RpcError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let told = answers_to(self).await?.into_iter();
            let infos = told.map(|told| InstanceInfo {
                round_trip: told.round_trip,
                ..told.entry
            });
            Ok(infos.collect())
        }
        .boxed()
    }
}

impl IntoFuture for InstanceQuery<InstanceStats> {
    type Output = Result<Vec<InstanceStats>, RpcError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let told = answers_to(self).await?.into_iter();
            Ok(told.map(|told| told.entry).collect())
        }
        .boxed()
    }
}

impl<T> fmt::Debug for InstanceQuery<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceQuery")
            .field("method", &self.method)
            .field("service", &self.service)
            .field("within", &self.within)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// Question for the description of a service, see [`Client::describe`]. Awaiting it gives `Result<ServiceInfo, RpcError>`.
///
/// # Errors
///
/// Awaiting the question fails with [`ErrorKind::Unroutable`] if no instance answers, otherwise like an [`InstanceQuery`].
///
/// # Cancel safety
///
/// Dropping the future drops the answers that have arrived.
#[derive(Debug)]
#[must_use = "a question is not asked until it is awaited"]
pub struct DescriptionQuery {
    client: Client,
    service: String,
    within: Duration,
}

impl DescriptionQuery {
    /// Sets the time for which the instances of the service are gathered. The descriptions of their contracts may take the same time again.
    /// Default: 1 second. With zero, the question fails with [`ErrorKind::Timeout`].
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    async fn description(self) -> Result<ServiceInfo, RpcError> {
        let Self {
            client,
            service,
            within,
        } = self;
        let contracts = client.contracts(&service, within).await?;
        if contracts.len() > 1 {
            let instances: Vec<_> = contracts.iter().map(|c| c.instances.len()).collect();
            debug!(service, ?instances, "instances serve different contracts");
        }
        let mut failure = None;
        for contract in contracts {
            match contract.description {
                Ok(description) => return Ok(description),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| {
            let within = deadline::shown(within);
            RpcError::new(
                ErrorKind::Unroutable,
                format!(
                    "no instance of {service} answered within {within}: is a server of {service} running, with introspection, and may its \
                     user bind a queue to the exchange 'amq.direct'?"
                ),
            )
        }))
    }
}

impl IntoFuture for DescriptionQuery {
    type Output = Result<ServiceInfo, RpcError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        self.description().boxed()
    }
}
