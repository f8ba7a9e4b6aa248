//! Servers and clients of a scenario on a queue of their own, from the first call to the checks after the last.

use std::time::Duration;

use rpc_core::{Connection, ConnectionBuilder, ConnectionState, QueueOptions, ServerHandle};
use rpc_tests::broker::{Census, Node, QueueCount};
use rpc_tests::program::Program;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::batches::Batched;
use super::introspection::Trickle;
use super::load::{Load, PATIENT};
use super::service::{Ledger, Queue, Sharing};
use super::streams::Streams;
use super::verdict::{Expected, Verdict};

/// Options of a connection: the heartbeat is short, so that silent connections are detected soon, but long enough for a busy
/// machine.
const HEARTBEAT: &str = "?heartbeat=2&connection_timeout=2000";

/// The participants of a scenario and their brokers.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Servers in this process, each on a connection of its own.
    pub(crate) servers: usize,
    /// Clients, each on a connection of its own. They [share](Sharing::of) messages in different ways.
    pub(crate) clients: usize,
    /// The URLs of the servers' broker, one for each node.
    pub(crate) server_urls: Vec<String>,
    /// The URLs of the clients' broker, one for each node.
    pub(crate) client_urls: Vec<String>,
    /// Options of the queue.
    pub(crate) queue: QueueOptions,
    /// The timeout of most calls.
    pub(crate) patience: Duration,
}

impl Plan {
    /// Two servers and three clients, all on one node or proxy.
    pub(crate) fn on(url: impl Into<String>) -> Self {
        Self::on_urls(vec![url.into()])
    }

    /// Two servers and three clients, spread over the nodes of a cluster.
    pub(crate) fn on_nodes(nodes: &[Node]) -> Self {
        Self::on_urls(nodes.iter().map(Node::url).collect())
    }

    fn on_urls(urls: Vec<String>) -> Self {
        Self {
            servers: 2,
            clients: 3,
            server_urls: urls.clone(),
            client_urls: urls,
            queue: QueueOptions::default(),
            patience: PATIENT,
        }
    }

    pub(crate) fn servers(mut self, servers: usize) -> Self {
        self.servers = servers;
        self
    }

    pub(crate) fn queue(mut self, options: QueueOptions) -> Self {
        self.queue = options;
        self
    }

    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(crate) fn server_url(mut self, url: impl Into<String>) -> Self {
        self.server_urls = vec![url.into()];
        self
    }
}

/// The servers, clients and load of a scenario.
pub(crate) struct Deployment {
    pub(crate) queue: Queue,
    pub(crate) ledger: Ledger,
    pub(crate) load: Load,
    servers: Vec<(Connection, ServerHandle)>,
    /// Servers in other processes. `finish` ends them, too.
    pub(crate) programs: Vec<Program>,
    clients: Vec<Connection>,
    /// Questions of the first client to the servers.
    trickle: Option<Trickle>,
    /// Streams of all clients.
    streams: Option<Streams>,
    /// Number of tasks in this process before the scenario.
    tasks: usize,
}

impl Deployment {
    /// Starts servers, clients and load, and returns when every client gets responses. If the plan has no servers, others must
    /// run already.
    pub(crate) async fn start(plan: Plan) -> Self {
        let mut deployment = Self::prepare(&plan).await;
        deployment.begin(&plan).await;
        deployment
    }

    /// Prepares everything but clients and load, for scenarios that start servers elsewhere first.
    pub(crate) async fn prepare(plan: &Plan) -> Self {
        let tasks = Handle::current().metrics().num_alive_tasks();
        Batched::take();
        let queue = Queue::unique(plan.queue.clone());
        let ledger = Ledger::create();
        let mut servers = Vec::new();
        for number in 0..plan.servers {
            let connection = connect(&plan.server_urls, number, "server").await;
            let server = queue.server(&connection, ledger.path());
            let handle = server.start().await.expect("the server starts");
            servers.push((connection, handle));
        }
        Self {
            queue,
            ledger,
            load: Load::start(Vec::new(), 0, plan.patience),
            servers,
            programs: Vec::new(),
            clients: Vec::new(),
            trickle: None,
            streams: None,
            tasks,
        }
    }

    pub(crate) async fn begin(&mut self, plan: &Plan) {
        for number in 0..plan.clients {
            let connection = connect(&plan.client_urls, number, "client").await;
            self.clients.push(connection);
        }
        let clients = self.clients.iter().enumerate();
        let clients =
            clients.map(|(number, client)| self.queue.client(client, Sharing::of(number)));
        let clients: Vec<_> = clients.collect();
        self.streams = Some(Streams::start(&clients));
        self.load = Load::start(clients, 0, plan.patience);
        self.trickle = self.clients.first().map(Trickle::start);
        self.load.recovers().await;
    }

    /// Waits until all connections of servers and clients have been in such a state, the present one included.
    pub(crate) async fn until_all(&self, what: &str, is_so: impl Fn(&ConnectionState) -> bool) {
        self.until(what, self.connections(), is_so).await;
    }

    /// Waits until all connections of clients have been in such a state, the present one included.
    pub(crate) async fn until_clients(&self, what: &str, is_so: impl Fn(&ConnectionState) -> bool) {
        self.until(what, self.clients.iter(), is_so).await;
    }

    /// Waits until all connections of servers have been in such a state, the present one included.
    pub(crate) async fn until_servers(&self, what: &str, is_so: impl Fn(&ConnectionState) -> bool) {
        let servers = self.servers.iter().map(|(connection, _)| connection);
        self.until(what, servers, is_so).await;
    }

    pub(crate) fn clients(&self) -> &[Connection] {
        &self.clients
    }

    async fn until(
        &self,
        what: &str,
        connections: impl Iterator<Item = &Connection>,
        is_so: impl Fn(&ConnectionState) -> bool,
    ) {
        const LIMIT: Duration = Duration::from_secs(30);
        for connection in connections {
            let mut state = connection.state();
            let reached = timeout(LIMIT, async {
                while !is_so(&state.current()) {
                    state.changed().await;
                }
            });
            assert!(
                reached.await.is_ok(),
                "{} is not {what} after {LIMIT:?} but {:?}",
                connection.name(),
                state.current()
            );
        }
    }

    fn connections(&self) -> impl Iterator<Item = &Connection> {
        let servers = self.servers.iter().map(|(connection, _)| connection);
        servers.chain(&self.clients)
    }

    /// Ends the load, the clients and the servers, checks that nothing is left, and compares the outcomes with the expected ones.
    ///
    /// `node` must be running and know all queues.
    pub(crate) async fn finish(self, node: &Node, expected: Expected) -> Verdict {
        let (records, mut problems) = self.load.finish().await;
        if let Some(trickle) = self.trickle {
            let mut report = trickle.end().await;
            problems.append(&mut report.problems);
            if report.answered == 0 {
                problems.push("no question to the servers was answered".to_owned());
            }
        }

        let streams = match self.streams {
            Some(streams) => streams.end().await,
            None => Vec::new(),
        };

        // All participants are still connected, and idle.
        let dead = format!("{}.dead", self.queue.name);
        let participants = self.servers.len() + self.programs.len() + self.clients.len();
        let (servers, clients) = (self.servers.len(), self.clients.len());
        let programs = self.programs.len();
        let idle = |census: &Census| {
            let named = |prefix: &str| {
                let queues = census.queues.iter();
                queues
                    .filter(|queue| queue.name.starts_with(prefix))
                    .count()
            };
            let holds =
                |queue: &QueueCount| queue.name != dead && queue.ready + queue.unacknowledged > 0;
            // A server may keep one more connection, for direct reply-to.
            let connections = participants..=participants + servers + programs;
            connections.contains(&census.connections)
                && census.channels <= 3 * participants
                && !census.queues.iter().any(holds)
                && named("rpc.reply.") == clients
        };
        let census = settles(node, idle).await.unwrap_or_else(|census| {
            problems.push(format!("not idle after the last call: {census:?}"));
            census
        });
        let queues = || census.iter().flat_map(|census| &census.queues);
        let dead_letters = queues().find(|queue| queue.name == dead);
        let dead_letters = dead_letters.map_or(0, |queue| queue.ready);

        for (connection, server) in self.servers {
            if let Err(error) = server.shutdown().await {
                problems.push(format!("a server failed to shut down: {error}"));
            }
            connection.close().await;
        }
        for program in self.programs {
            program.terminate().await;
            let (status, printed) = program.end().await;
            if !status.success() {
                problems.push(format!("a server ended with {status}: {printed:?}"));
            }
        }
        for connection in self.clients {
            connection.close().await;
        }
        // The request queue and its dead-letter queues.
        let own = queues().filter(|queue| queue.name.starts_with(&self.queue.name));
        delete(node, own).await;
        let nothing = |census: &Census| {
            census.queues.is_empty() && census.connections == 0 && census.channels == 0
        };
        if let Err(census) = settles(node, nothing).await {
            problems.push(format!("left on the broker at the end: {census:?}"));
        }
        let tasks_left = || {
            let tasks = Handle::current().metrics().num_alive_tasks();
            tasks.saturating_sub(self.tasks)
        };
        let limit = Instant::now() + Duration::from_secs(5);
        while tasks_left() > 0 && Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // lapin leaks two tasks for each failed connection attempt.
        if tasks_left() > 0 && !expected.loses_connections() {
            problems.push(format!("{} tasks are left", tasks_left()));
        }

        let batched = Batched::take();
        // Replies are counted by servers, which may all be in other processes.
        if batched.requests == 0 || (batched.replies == 0 && servers > 0) {
            problems.push(format!("no messages were shared: {batched:?}"));
        }
        if dead_letters > 0 && !expected.gives_up() {
            problems.push(format!("{dead_letters} requests were given up"));
        }

        // Reads the ledger when nothing runs any more, so that late executions are seen.
        let mut verdict = Verdict::of(&records, &self.ledger.read(), clients, &expected);
        verdict.counts.batched = batched;
        verdict.counts.dead_letters = dead_letters;
        verdict.counts.tasks_left = tasks_left();
        for ended in streams {
            ended.judge(&mut verdict, &expected);
        }
        // These problems come first: they may explain the others.
        problems.append(&mut verdict.problems);
        verdict.problems = problems;
        verdict
    }
}

/// Connects as the participant of that role and number to any of the nodes, beginning with a different node for each number.
pub(crate) async fn connect(urls: &[String], number: usize, role: &str) -> Connection {
    let turned = urls.iter().cycle().skip(number % urls.len());
    let mut urls = turned
        .take(urls.len())
        .map(|url| format!("{url}{HEARTBEAT}"));
    let builder = Connection::builder(urls.next().expect("a URL")).name(format!("{role} {number}"));
    let builder = urls.fold(builder, ConnectionBuilder::endpoint);
    let opened = builder.open().await;
    opened.expect("the broker accepts a connection")
}

/// Takes censuses until one satisfies the condition. After the limit, returns the last one as an error.
async fn settles(
    node: &Node,
    is_so: impl Fn(&Census) -> bool,
) -> Result<Option<Census>, Option<Census>> {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let census = node.census().await;
        if census.as_ref().is_some_and(&is_so) {
            return Ok(census);
        }
        if Instant::now() > limit {
            return Err(census);
        }
    }
}

async fn delete(node: &Node, queues: impl Iterator<Item = &QueueCount>) {
    let connection = node.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    for queue in queues {
        let deleted = channel.queue_delete(queue.name.as_str().into(), Default::default());
        deleted.await.expect("the broker deletes the queue");
    }
    let closed = connection.close(200, "done".into()).await;
    closed.expect("an open connection");
}
