//! Questions to running servers: the instances, their contracts and their statistics.

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
    self, Asking, Contract, Difference, Entry, InstanceInfo, InstanceStats, ServedContract,
    ServiceClient, ServiceInfo, Told,
};
use crate::names::{PING, STATS};
use crate::requester::Requester;
use crate::task;
use crate::wire::Question;

/// Questions to running servers. Questions do not pass the layers around the client, and take no place of
/// [`ClientBuilder::max_in_flight`](crate::ClientBuilder::max_in_flight). A client cannot know the number of instances: a question gathers
/// answers for 1 second, unless `within` or `expect` sets another end. The page [operating a service](crate::guide::operating) of the guide shows all of them.
///
/// A server answers if its user may bind queues to the exchange `amq.direct`, unless [`introspection`](crate::ServerBuilder::introspection)
/// is switched off. The client's user needs the permission to write to that exchange.
impl Client {
    /// Asks for the running instances of a service, by its name. Gives them sorted by id; none if there is no instance. [`InstanceQuery`]
    /// describes the time limit, the errors and cancellation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Connection, Server, rpc};
    /// # #[rpc] trait Fib { async fn fib(n: u64) -> u64; }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = Connection::open("memory:").await?;
    /// # let server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
    /// let client = connection.client();
    /// // Without `expect`, the client waits 1 second for further instances.
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
    /// then id. [`InstanceQuery`] describes the time limit, the errors and cancellation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Connection, Server, rpc};
    /// # #[rpc] trait Fib { async fn fib(n: u64) -> u64; }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = Connection::open("memory:").await?;
    /// # let server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
    /// for instance in connection.client().all_instances().expect(1).await? {
    ///     println!("{} {} on {}", instance.service, instance.version, instance.name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn all_instances(&self) -> InstanceQuery<InstanceInfo> {
        InstanceQuery::new(self, PING, None)
    }

    /// Asks for the statistics of the running instances of a service. Gives them sorted by id; none if there is no instance. Instances count
    /// from their start, and answering resets nothing. [`InstanceQuery`] describes the time limit, the errors and cancellation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Connection, Server, rpc};
    /// # #[rpc] trait Fib { async fn fib(n: u64) -> u64; }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = Connection::open("memory:").await?;
    /// # let server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
    /// for instance in connection.client().stats("Fib").expect(1).await? {
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
    /// the one that most of them serve; among equals, the one whose last instance started last. [`DescriptionQuery`] describes the time limit,
    /// the errors and cancellation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Connection, Server, rpc};
    /// # #[rpc] trait Fib { async fn fib(n: u64) -> u64; }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = Connection::open("memory:").await?;
    /// # let server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
    /// let service = connection.client().describe("Fib").await?;
    /// for method in service.methods {
    ///     println!("{} -> {}", method.name, method.result.rust);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn describe(&self, service: impl Into<String>) -> DescriptionQuery {
        DescriptionQuery(Search::new(self, service.into()))
    }

    /// Compares the contract that a generated client was compiled with to every contract that the instances of its service serve.
    ///
    /// Gives all differences, the incompatible ones first: see [`ServiceInfo::compare`]. Check it when a program starts, or before a
    /// deployment. The result holds for the instances that answer at this moment. [`ContractQuery`] describes the time limit, the errors and
    /// cancellation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Connection, Server, rpc};
    /// use rpc_core::instances::Contract;
    ///
    /// # #[rpc] trait Fib { async fn fib(n: u64) -> u64; }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = Connection::open("memory:").await?;
    /// # let server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
    /// match connection.client().check_contract::<FibClient>().await? {
    ///     Contract::Same => println!("all servers serve this contract"),
    ///     Contract::Compatible(differences) => println!("{} differences", differences.len()),
    ///     Contract::Incompatible(differences) => {
    ///         for difference in differences {
    ///             eprintln!("{difference}");
    ///         }
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn check_contract<C: ServiceClient>(&self) -> ContractQuery {
        let own = C::service_info();
        ContractQuery {
            search: Search::new(self, own.name.clone()),
            own,
        }
    }

    /// Publishes a question to instances. A question that was not sent waits for the connection.
    pub(super) async fn ask(
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

/// Question to instances, see [`Client::instances`], [`Client::all_instances`] and [`Client::stats`]. Awaiting the question gives
/// `Result<Vec<T>, RpcError>`. Without any instance, the broker says so, and the list is empty at once.
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
        self.expected = Some(instances);
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

/// Search for the contracts of a service that are served.
#[derive(Debug)]
struct Search {
    client: Client,
    service: String,
    within: Duration,
    expected: Option<usize>,
    /// The queue that the instances read; any without it.
    queue: Option<String>,
    /// The contract that the instances serve; any without it.
    contract: Option<String>,
    /// The only instance that counts; all without it.
    instance: Option<String>,
}

impl Search {
    fn new(client: &Client, service: String) -> Self {
        Self {
            client: client.clone(),
            service,
            within: DEFAULT_WITHIN,
            expected: None,
            queue: None,
            contract: None,
            instance: None,
        }
    }

    /// Returns `true` for an instance whose contract counts.
    fn counts(&self, instance: &InstanceInfo) -> bool {
        let Self {
            queue,
            contract,
            instance: id,
            ..
        } = self;
        queue.as_ref().is_none_or(|it| instance.queues.contains(it))
            && contract.as_ref().is_none_or(|it| *it == instance.contract)
            && id.as_ref().is_none_or(|it| *it == instance.id)
    }

    /// Returns the contracts, each with its instances; [`ErrorKind::Unroutable`] if no instance answers. The contract with the most
    /// instances comes first. Finding the instances and asking for descriptions may take the time limit each.
    async fn contracts(&self) -> Result<Vec<ServedContract>, RpcError> {
        let service = &*self.service;
        let ping = Question {
            method: PING,
            service: Some(service),
        };
        let (requester, asking) = self.client.ask(ping, self.within, self.expected).await?;
        let mut instances = asking.answers::<InstanceInfo>().await?;
        instances.retain(|told| self.counts(&told.entry));
        if instances.is_empty() {
            return Err(self.no_instance());
        }
        let until = deadline::after(self.within);
        Ok(instances::contracts(&requester, service, instances, until).await)
    }

    fn no_instance(&self) -> RpcError {
        let queue = self.queue.as_ref();
        let queue = queue.map(|queue| format!(" that reads the queue '{queue}'"));
        let queue = queue.unwrap_or_default();
        let contract = self.contract.as_ref();
        let contract = contract.map(|contract| format!(" with the contract '{contract}'"));
        let contract = contract.unwrap_or_default();
        let id = self.instance.as_ref();
        let id = id.map(|id| format!(" with the id '{id}'"));
        let id = id.unwrap_or_default();
        no_instance(&self.service, &format!("{queue}{contract}{id}"))
    }
}

/// The error that no instance of a service answers. The condition says which instances are meant; empty for all of them.
pub(super) fn no_instance(service: &str, condition: &str) -> RpcError {
    RpcError::new(
        ErrorKind::Unroutable,
        format!(
            "no instance of {service}{condition} answers: is a server of {service} running, with introspection, and may its user bind \
             a queue to the exchange 'amq.direct'?"
        ),
    )
}

/// Setters of a question about the contracts of a service, whose search is `self.$search`.
macro_rules! search_setters {
    ($search:tt) => {
        /// Sets the time for which the instances of the service are gathered. The descriptions of their contracts may take the same time
        /// again. Without any instance the question fails at once. Default: 1 second. With zero, the question fails with
        /// [`ErrorKind::Timeout`].
        pub fn within(mut self, within: Duration) -> Self {
            self.$search.within = within;
            self
        }

        /// Ends the gathering after this number of instances has answered, those on other queues included, without waiting for the rest of
        /// the time. 0 counts as 1. Default: no limit except 4,096.
        pub fn expect(mut self, instances: usize) -> Self {
            self.$search.expected = Some(instances);
            self
        }

        /// Counts only instances that read this queue, such as `staging.rpc.Fib` for servers with the prefix `staging.`. Default: all
        /// instances of the service, on any queue.
        pub fn on_queue(mut self, queue: impl Into<String>) -> Self {
            self.$search.queue = Some(queue.into());
            self
        }
    };
}

/// Question for the description of a service, see [`Client::describe`]. Awaiting the question gives `Result<ServiceInfo, RpcError>`.
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
pub struct DescriptionQuery(Search);

impl DescriptionQuery {
    search_setters!(0);

    /// Asks for the contract with this hash, see [`InstanceInfo::contract`](crate::instances::InstanceInfo::contract). Default: the contract that
    /// most instances serve.
    pub fn contract(mut self, hash: impl Into<String>) -> Self {
        self.0.contract = Some(hash.into());
        self
    }

    /// Asks for the contract that the instance with this id serves. An [`InstanceInfo`] has the id. Default: the contract
    /// that most instances serve.
    pub fn instance(mut self, id: impl Into<String>) -> Self {
        self.0.instance = Some(id.into());
        self
    }

    async fn description(self) -> Result<ServiceInfo, RpcError> {
        let contracts = self.0.contracts().await?;
        if contracts.len() > 1 {
            let service = &*self.0.service;
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
        Err(failure.unwrap_or_else(|| self.0.no_instance()))
    }
}

impl IntoFuture for DescriptionQuery {
    type Output = Result<ServiceInfo, RpcError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        self.description().boxed()
    }
}

/// Comparison of a client's contract with those of the instances, see [`Client::check_contract`]. Awaiting the comparison gives
/// `Result<Contract, RpcError>`.
///
/// # Errors
///
/// Like those of a [`DescriptionQuery`]. An instance that answers, and does not describe its contract, is no error: its contract counts as
/// incompatible unless it has the hash of the client's.
///
/// # Cancel safety
///
/// Dropping the future drops the answers that have arrived.
#[derive(Debug)]
#[must_use = "contracts are not compared until the question is awaited"]
pub struct ContractQuery {
    search: Search,
    /// The client's contract.
    own: ServiceInfo,
}

impl ContractQuery {
    search_setters!(search);

    async fn contract(self) -> Result<Contract, RpcError> {
        let mut differences: Vec<Difference> = Vec::new();
        for contract in self.search.contracts().await? {
            for difference in contract.differences_from(&self.own) {
                // Several contracts may differ in the same way.
                if !differences.contains(&difference) {
                    differences.push(difference);
                }
            }
        }
        Ok(differences.into())
    }
}

impl IntoFuture for ContractQuery {
    type Output = Result<Contract, RpcError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        self.contract().boxed()
    }
}
