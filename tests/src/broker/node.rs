//! One RabbitMQ node: starting it, breaking it, finding it.

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

/// A node may have to share two slow cores with a compiler.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How often a starting node is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);

/// A private RabbitMQ node. Dropping it kills it and removes all it leaves, see the [module](super).
///
/// Its methods panic when the node does not do as it is told, which fails the test that asked.
#[derive(Debug)]
pub struct Node {
    name: String,
    /// What it calls itself, or its cluster, in every handshake.
    greeting: String,
    folder: PathBuf,
    ports: Ports,
    ca_pem: Option<String>,
    /// Whether it has plugins or listeners that come up after the first one.
    has_extras: bool,
    pub(super) installation: Installation,
    pub(super) environment: Vec<(&'static str, String)>,
    watchdog: Watchdog,
    /// Held while the node is started or ended.
    changing: Mutex<()>,
}

/// Starting and ending.
impl Node {
    /// Starts a node without options, see [`NodeBuilder::start`].
    ///
    /// # Panics
    ///
    /// When there is no RabbitMQ or it does not start.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the node.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A node with options.
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
            // One epmd is enough for a cluster.
            builder.joins().is_none().then_some(&installation.epmd),
            &installation.server,
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

    /// Stops the node as an operator would: it closes its connections and writes its data first. Does nothing when it
    /// is not running.
    ///
    /// # Panics
    ///
    /// When it has not stopped after a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not keep the node from stopping.
    pub async fn stop(&self) {
        let _changing = self.changing.lock().await;
        self.end("TERM").await;
    }

    /// Kills the node as a power cut would, and waits until it is gone. Does nothing when it is not running.
    ///
    /// # Panics
    ///
    /// When the system does not obey.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not keep the node from being killed.
    pub async fn kill(&self) {
        let _changing = self.changing.lock().await;
        self.end("KILL").await;
    }

    /// Starts the node again, on the same ports, with the data it has; stops it first when it is running.
    ///
    /// # Panics
    ///
    /// When it does not stop or does not start.
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

    /// Freezes the node: its connections stay open and nothing answers, until [`resume`](Self::resume).
    ///
    /// # Panics
    ///
    /// When its watchdog is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not keep the node from being paused.
    pub async fn pause(&self) {
        self.signal("STOP").await;
    }

    /// Lets a paused node run again.
    ///
    /// # Panics
    ///
    /// When its watchdog is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not keep the node from being resumed.
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
                // It did not come as far as its log.
                _ => most_telling(&self.read_log("server.out")),
            };
            return Err(BrokerError::new(format!("{problem}. It said:\n{said}")));
        }
        Ok(())
    }

    /// A server that finds no epmd starts one, which would outlive it.
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

    /// Whether this very node, or one of its cluster, and no other on its port, speaks AMQP: it says its name before
    /// anyone logs in.
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
        // What is wrong does not matter: it is asked again until time is up.
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
        // A paused process does not hear the signal before it goes on.
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

/// Where it is.
impl Node {
    /// The URL of a connection as `guest`, an administrator.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_with("guest", "guest", "%2f")
    }

    /// The URL of a connection as that user, all three parts percent-encoded by the caller where they need it.
    #[must_use]
    pub fn url_with(&self, user: &str, password: &str, vhost: &str) -> String {
        format!(
            "amqp://{user}:{password}@127.0.0.1:{}/{vhost}",
            self.ports.amqp
        )
    }

    /// The URL of a TLS connection, to a certificate that [`ca_pem`](Self::ca_pem) vouches for.
    ///
    /// # Panics
    ///
    /// When the node was built without [`tls`](NodeBuilder::tls).
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.tls_port())
    }

    /// The port of TLS connections.
    ///
    /// # Panics
    ///
    /// When the node was built without [`tls`](NodeBuilder::tls).
    #[must_use]
    pub fn tls_port(&self) -> u16 {
        self.ports.tls.expect("a node built with `tls()`")
    }

    /// The certificate authority of the node's TLS listener, as PEM.
    ///
    /// # Panics
    ///
    /// When the node was built without [`tls`](NodeBuilder::tls).
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.ca_pem.as_deref().expect("a node built with `tls()`")
    }

    /// The file that holds [`ca_pem`](Self::ca_pem), for programs that want a path.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("tls").join(certificates::CA)
    }

    /// The address of the management interface, where `guest` may log in.
    ///
    /// # Panics
    ///
    /// When the node was built without [`management`](NodeBuilder::management).
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

    /// Whether its process runs, be it paused or starting.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.watchdog.server_pid().is_some()
    }

    pub(super) fn epmd_port(&self) -> u16 {
        self.ports.epmd
    }

    /// What it is called in its cluster: `name@localhost`.
    #[must_use]
    pub fn name(&self) -> String {
        full_name(&self.name)
    }

    /// The folder of its data, settings and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All it has logged so far, in its own words.
    #[must_use]
    pub fn log(&self) -> String {
        self.read_log(LOG)
    }

    fn read_log(&self, file: &str) -> String {
        let bytes = fs::read(self.folder.join("log").join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Unique on this machine, and easy to find among its processes.
pub(super) fn unique_name() -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let random = RandomState::new().hash_one(serial) & 0xffff_ffff;
    format!("rpc-node-{}-{serial}-{random:08x}", process::id())
}

/// The lines of a log that say what went wrong, or its last ones.
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
