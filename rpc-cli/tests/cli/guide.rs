//! The incident in the guide's page on operating a service: every command runs, and prints the lines of the page.

use std::path::Path;
use std::time::Duration;

use regex_lite::Regex;
use rpc_core::{Client, QueueOptions, Server, ServerHandle, rpc};
use rpc_tests::eventually;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::stage::Stage;

/// Refusal of an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum OrderError {
    SoldOut { article: u64 },
}

/// Takes orders.
#[rpc(version = "3.2.0")]
pub(crate) trait Orders {
    /// Price of an article, in cents.
    #[rpc(idempotent)]
    async fn price(article: u64) -> u64;
    /// Orders pieces of an article. Returns the number of the order.
    async fn order(article: u64, pieces: u32) -> Result<u64, OrderError>;
    /// Forgets the prices that this server remembers. Returns their number.
    async fn clear_cache() -> u64;
}

/// A handler whose orders of the article 13 never end.
struct Desk;

impl Orders for Desk {
    async fn price(&self, article: u64) -> u64 {
        article * 100
    }

    async fn order(&self, article: u64, pieces: u32) -> Result<u64, OrderError> {
        match article {
            13 => std::future::pending().await,
            _ => Ok(1000 + u64::from(pieces)),
        }
    }

    async fn clear_cache(&self) -> u64 {
        12
    }
}

/// A service in trouble.
struct Incident {
    stage: Stage,
    client: Client,
    orders: OrdersClient,
    servers: Vec<ServerHandle>,
    /// Calls that take the only places of the first server, and calls that wait behind them.
    stuck: JoinSet<()>,
    /// Customers who order the article 13 again and again.
    customers: JoinSet<()>,
}

impl Incident {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let client = stage.connect("shop").await.client();
        let mut incident = Self {
            orders: OrdersClient::new(client.clone()),
            stage,
            client,
            servers: Vec::new(),
            stuck: JoinSet::new(),
            customers: JoinSet::new(),
        };
        // Two orders expire while no server runs.
        incident.start("orders-1").await.shutdown().await.unwrap();
        for pieces in [2, 3] {
            let order = incident.orders.order(7, pieces);
            order.timeout(Duration::from_millis(100)).await.unwrap_err();
        }
        incident.until_queue("rpc.Orders.dead", 2).await;

        let first = incident.start("orders-1").await;
        incident.servers.push(first);
        for _ in 0..5 {
            let order = incident.orders.order(13, 1);
            let order = order.timeout(Duration::from_secs(600));
            incident.stuck.spawn(async {
                let _ = order.await;
            });
        }
        incident.until_queue("rpc.Orders", 3).await;
        eventually("two orders run", async || {
            let stats = incident.client.stats("Orders").expect(1).await.unwrap();
            (stats[0].oldest.len() == 2).then_some(())
        })
        .await;
        incident
    }

    async fn start(&self, name: &str) -> ServerHandle {
        let options = QueueOptions::classic().dead_letter_queue("rpc.Orders.dead");
        let dispatcher = OrdersDispatcher::new(Desk).with_queue_options(options);
        let connection = self.stage.connect(name).await;
        let server = Server::builder(&connection).service(dispatcher).tap(true);
        let server = server.concurrency(2).prefetch(2).build();
        server.start().await.unwrap()
    }

    /// Waits until a queue has that number of messages.
    async fn until_queue(&self, queue: &str, messages: u32) {
        eventually("the queue has its messages", async || {
            let status = self.client.connection().queue_status(queue).await.unwrap();
            (status?.messages == messages).then_some(())
        })
        .await;
    }

    /// Moves the incident on to the state that a command of the page meets.
    async fn before(&mut self, command: &str) {
        match command {
            "rpc list Orders" => {
                let second = self.start("orders-2").await;
                self.servers.push(second);
                // The second server has its places taken, too, until the calls that wait are given up.
                self.until_queue("rpc.Orders", 1).await;
                self.stuck.shutdown().await;
                self.until_queue("rpc.Orders", 0).await;
            }
            "rpc tail Orders --outcome fault --take 2" => {
                let orders = self.orders.clone();
                self.customers.spawn(async move {
                    loop {
                        let order = orders.order(13, 1).timeout(Duration::from_millis(300));
                        let _ = order.await;
                    }
                });
            }
            "rpc call Orders order article=7 pieces=2" => self.customers.shutdown().await,
            _ => {}
        }
    }

    async fn run(&mut self, command: &str) -> String {
        self.before(command).await;
        let mut words: Vec<String> = command.split(' ').skip(1).map(str::to_owned).collect();
        if let Some(id) = words.iter_mut().find(|word| is_letter(word)) {
            let letters = ["dead", "Orders", "--json"];
            let letters = self.stage.rpc(&letters).run().await.exits(0).json();
            *id = letters[0]["id"].as_str().unwrap().to_owned();
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.stage.rpc(&words).run().await.exits(0).stdout
    }
}

/// Returns `true` for the id of a dead letter.
fn is_letter(word: &str) -> bool {
    word.len() == 12 && word.chars().all(|c| c.is_ascii_hexdigit())
}

/// Replaces everything that differs from run to run.
fn steady(text: &str) -> String {
    let parts = [
        ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[id]"),
        ("\\b[0-9a-f]{12}\\b", "[id]"),
        ("\\b[0-9a-f]{8}\\b", "[id]"),
        ("[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]+)?", "[time]"),
        ("[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]\\[time\\]Z?", "[date]"),
        (
            "\\b[0-9]+(\\.[0-9]+)? ?(ns|µs|ms|s|min|m|h|d)\\b( [0-9]+ ?(ms|s|min|m|h|d)\\b)*",
            "[time]",
        ),
        ("(?m) +$", ""),
        ("(\\S)  +", "$1  "),
    ];
    parts.iter().fold(text.to_owned(), |text, (part, name)| {
        let part = Regex::new(part).unwrap();
        part.replace_all(&text, *name).into_owned()
    })
}

/// The lines of an output without order: instances are sorted by their ids, which differ from run to run.
fn lines(output: &str) -> Vec<String> {
    let mut lines: Vec<_> = steady(output).lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// The commands of the page, each with its output.
fn commands() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rpc-core/src/guide/operating.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```console\n").skip(1);
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in blocks.flat_map(|block| block.split("```").next().unwrap().lines()) {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push((command.to_owned(), String::new())),
            None => {
                let (_, output) = commands.last_mut().expect("a command before its output");
                output.push_str(line);
                output.push('\n');
            }
        }
    }
    commands
}

#[tokio::test]
async fn the_commands_of_the_incident_print_the_lines_of_the_guide() {
    let mut incident = Incident::new().await;
    let commands = commands();
    assert!(commands.len() >= 10, "{commands:?}");
    let mut differences = String::new();
    for (command, expected) in commands {
        let printed = incident.run(&command).await;
        if lines(&printed) != lines(&expected) {
            differences += &format!("$ {command}\n{printed}");
        }
    }
    assert!(
        differences.is_empty(),
        "the guide differs from:\n{differences}"
    );
}
