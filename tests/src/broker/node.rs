//! A RabbitMQ node: its start, its end and its addresses.

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, io, process};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::installation::Installation;
use super::ports::free_port;
use super::settings::{LOG, Ports, environment, full_name, make_folders, write_settings};
use super::watchdog::Watchdog;
use super::{BrokerError, NodeBuilder, certificates};

/// Maximum time of a start. A node may share two slow cores with a compiler.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Interval of readiness checks during a start.
const POLL: Duration = Duration::from_millis(50);

/// A private RabbitMQ node. Dropping it kills the node and removes all its files, see the [module](super).
///
/// Methods panic if the node does not obey, which fails the test.
#[derive(Debug)]
pub struct Node {
    name: String,
    /// The name of the node, or of its cluster, in every handshake.
    greeting: String,
    folder: PathBuf,
    ports: Ports,
    ca_pem: Option<String>,
    /// `true` if the node has plugins or listeners that start after the first listener.
    has_extras: bool,
    pub(super) installation: Installation,
    pub(super) environment: Vec<(&'static str, String)>,
    watchdog: Watchdog,
    /// Held while the node is started or ended.
    changing: Mutex<()>,
}

/// Start and end.
impl Node {
    /// Starts a node without options, see [`NodeBuilder::start`].
    ///
    /// # Panics
    ///
    /// If RabbitMQ is not installed or does not start.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the node.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Options of a node.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    pub(super) async fn launch(builder: &NodeBuilder) -> Result<Self, BrokerError> {
        let installation = Installation::find()?;
        let unique = unique_name();
        let name = builder.name.clone().unwrap_or_else(|| unique.clone());
        let folder = builder
            .folder
            .clone()
            .unwrap_or_else(|| env::temp_dir().join(&unique));
        let ports = Ports {
            amqp: free_port()?,
            distribution: free_port()?,
            epmd: match builder.joins() {
                Some(join) => join.epmd,
                None => free_port()?,
            },
            tls: builder.tls.is_some().then(free_port).transpose()?,
            management: builder.management.then(free_port).transpose()?,
        };
        let environment = environment(&name, &folder, &ports);

        let prepare =
            |error| BrokerError::new(format!("cannot prepare {}: {error}", folder.display()));
        make_folders(&folder).map_err(prepare)?;
        let watchdog = Watchdog::spawn(
            &folder,
            &installation,
            // A cluster needs one epmd.
            builder.joins().is_none(),
            &environment,
        )
        .map_err(prepare)?;
        if let Some(tls) = &builder.tls {
            tls.write(&folder.join("tls")).map_err(prepare)?;
        }
        write_settings(&folder, builder, &name, &ports).map_err(prepare)?;

        let node = Self {
            has_extras: builder.tls.is_some() || !builder.plugins.is_empty(),
            changing: Mutex::new(()),
            greeting: builder.greeting(&name).to_owned(),
            name,
            folder,
            ports,
            ca_pem: builder.tls.as_ref().map(|tls| tls.ca.clone()),
            installation,
            environment,
            watchdog,
        };
        node.await_epmd().await?;
        node.start_server().await?;
        Ok(node)
    }

    /// Stops the node gracefully: it closes its connections and writes its data first. Does nothing if the node is not running.
    ///
    /// # Panics
    ///
    /// If the node does not stop within a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the stop.
    pub async fn stop(&self) {
        let _changing = self.changing.lock().await;
        self.end("TERM").await;
    }

    /// Kills the node, like a power cut, and waits for its end. Does nothing if the node is not running.
    ///
    /// # Panics
    ///
    /// If the node does not end within a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the kill.
    pub async fn kill(&self) {
        let _changing = self.changing.lock().await;
        self.end("KILL").await;
    }

    /// Starts the node again, on the same ports and with its data. Stops a running node first.
    ///
    /// # Panics
    ///
    /// If the node does not stop or does not start.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the node stopped or starting.
    pub async fn restart(&self) {
        let _changing = self.changing.lock().await;
        self.end("TERM").await;
        if let Err(error) = self.start_server().await {
            panic!("{error}");
        }
    }

    /// Freezes the node until [`resume`](Self::resume): its connections stay open, and it does not respond.
    ///
    /// # Panics
    ///
    /// If the node's watchdog has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the pause.
    pub async fn pause(&self) {
        self.signal("STOP").await;
    }

    /// Resumes a paused node.
    ///
    /// # Panics
    ///
    /// If the node's watchdog has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the node from resuming.
    pub async fn resume(&self) {
        self.signal("CONT").await;
    }

    async fn start_server(&self) -> Result<(), BrokerError> {
        let io_error =
            |error: io::Error| BrokerError::new(format!("cannot start {}: {error}", self.name));
        let log_before = self.log().len();
        self.watchdog.start_server().await.map_err(io_error)?;
        let limit = Instant::now() + START_LIMIT;
        while !(self.answers().await && self.has_extras_up(log_before)) {
            let problem = if self.watchdog.server_pid().is_none() {
                "RabbitMQ ended instead of starting"
            } else if Instant::now() > limit {
                "RabbitMQ does not answer"
            } else {
                sleep(POLL).await;
                continue;
            };
            self.watchdog
                .signal_server("KILL")
                .await
                .map_err(io_error)?;
            let log = self.log();
            let said = match log.get(log_before..) {
                Some(log) if !log.is_empty() => most_telling(log),
                // The node failed before it opened its log.
                _ => most_telling(&self.read_log("server.out")),
            };
            return Err(BrokerError::new(format!("{problem}. It said:\n{said}")));
        }
        Ok(())
    }

    /// Waits for epmd. A server that finds no epmd would start one that outlives the server.
    async fn await_epmd(&self) -> Result<(), BrokerError> {
        let reached = timeout(Duration::from_secs(10), async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.epmd))
                .await
                .is_err()
            {
                sleep(Duration::from_millis(2)).await;
            }
        });
        reached.await.map_err(|_| {
            let epmd = self.installation.epmd.display();
            BrokerError::new(format!(
                "{epmd} does not answer on 127.0.0.1:{}",
                self.ports.epmd
            ))
        })
    }

    /// Returns `true` if this node, or a node of its cluster, speaks AMQP on the port. A broker states its name before a login,
    /// which tells it from another process on the port.
    async fn answers(&self) -> bool {
        let mut said = Vec::new();
        let asking = async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.amqp)).await?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
            // A frame: type, channel, length, payload, end.
            let mut head = [0; 7];
            stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            stream.take(u64::from(length)).read_to_end(&mut said).await
        };
        // The cause of a failure does not matter: the caller retries until the limit.
        let _ = timeout(Duration::from_secs(1), asking).await;
        said.windows(self.greeting.len())
            .any(|window| window == self.greeting.as_bytes())
    }

    fn has_extras_up(&self, log_before: usize) -> bool {
        !self.has_extras
            || self
                .log()
                .get(log_before..)
                .is_some_and(|log| log.contains("Server startup complete"))
    }

    async fn end(&self, signal: &str) {
        self.signal(signal).await;
        // A paused process handles the signal only after it is resumed.
        self.signal("CONT").await;
        match timeout(STOP_LIMIT, self.watchdog.server_ended()).await {
            Ok(ended) => ended.expect("a node's watchdog lives as long as the node"),
            Err(_) => panic!(
                "{} did not end within {STOP_LIMIT:?} of SIG{signal}",
                self.name
            ),
        }
    }

    async fn signal(&self, name: &str) {
        self.watchdog
            .signal_server(name)
            .await
            .expect("a node's watchdog lives as long as the node");
    }
}

/// Addresses, names and logs.
impl Node {
    /// The URL of a connection as `guest`, an administrator.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_with("guest", "guest", "%2f")
    }

    /// The URL of a connection as that user. The caller percent-encodes all three parts.
    #[must_use]
    pub fn url_with(&self, user: &str, password: &str, vhost: &str) -> String {
        format!(
            "amqp://{user}:{password}@127.0.0.1:{}/{vhost}",
            self.ports.amqp
        )
    }

    /// The URL of a TLS connection. The node's certificate is signed by [`ca_pem`](Self::ca_pem).
    ///
    /// # Panics
    ///
    /// If the node was built without [`tls`](NodeBuilder::tls).
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.tls_port())
    }

    /// The port of TLS connections.
    ///
    /// # Panics
    ///
    /// If the node was built without [`tls`](NodeBuilder::tls).
    #[must_use]
    pub fn tls_port(&self) -> u16 {
        self.ports.tls.expect("a node built with `tls()`")
    }

    /// The certificate authority of the node's TLS listener, as PEM.
    ///
    /// # Panics
    ///
    /// If the node was built without [`tls`](NodeBuilder::tls).
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.ca_pem.as_deref().expect("a node built with `tls()`")
    }

    /// The file that holds [`ca_pem`](Self::ca_pem).
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("tls").join(certificates::CA)
    }

    /// The URL of the management interface, where `guest` may log in.
    ///
    /// # Panics
    ///
    /// If the node was built without [`management`](NodeBuilder::management).
    #[must_use]
    pub fn management_url(&self) -> String {
        let port = self
            .ports
            .management
            .expect("a node built with `management()`");
        format!("http://127.0.0.1:{port}")
    }

    /// The port of plain AMQP connections.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// Returns `true` while the process of the node runs, even if it is paused or starting.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.watchdog.server_pid().is_some()
    }

    pub(super) fn epmd_port(&self) -> u16 {
        self.ports.epmd
    }

    /// The full name of the node: `name@localhost`.
    #[must_use]
    pub fn name(&self) -> String {
        full_name(&self.name)
    }

    /// The folder of its data, settings and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The log of the node so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.read_log(LOG)
    }

    fn read_log(&self, file: &str) -> String {
        let bytes = fs::read(self.folder.join("log").join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A unique name on this machine, easy to find among its processes.
pub(super) fn unique_name() -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let random = RandomState::new().hash_one(serial) & 0xffff_ffff;
    format!("rpc-node-{}-{serial}-{random:08x}", process::id())
}

/// The error lines of a log, or its last lines.
fn most_telling(log: &str) -> String {
    const LINES: usize = 20;
    let errors: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("[error]"))
        .take(LINES)
        .collect();
    if !errors.is_empty() {
        return errors.join("\n");
    }
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
