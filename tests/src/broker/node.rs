//! One RabbitMQ node: starting it, breaking it, asking it.

use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, io, process};

use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::installation::Installation;
use super::ports::free_port;
use super::watchdog::Watchdog;
use super::{BrokerError, NodeBuilder, certificates};

/// A node may have to share two slow cores with a compiler.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const TOOL_LIMIT: Duration = Duration::from_secs(60);

/// How often a starting node is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);

/// The file in the folder `log` that RabbitMQ logs to.
const LOG: &str = "node.log";

/// A private RabbitMQ node. Dropping it kills it and removes all it leaves, see the [module](super).
///
/// Its methods panic when the node does not do as it is told, which fails the test that asked.
#[derive(Debug)]
pub struct Node {
    name: String,
    folder: PathBuf,
    ports: Ports,
    ca_pem: Option<String>,
    /// Whether it has plugins or listeners that come up after the first one.
    has_extras: bool,
    installation: Installation,
    environment: Vec<(&'static str, String)>,
    watchdog: Watchdog,
    /// Held while the node is started or ended.
    changing: Mutex<()>,
}

#[derive(Debug)]
struct Ports {
    amqp: u16,
    distribution: u16,
    epmd: u16,
    tls: Option<u16>,
    management: Option<u16>,
}

/// What a queue's declaration tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueInfo {
    /// Messages ready for delivery, those held by consumers not counted.
    pub messages: u32,
    /// Consumers subscribed.
    pub consumers: u32,
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
            epmd: free_port()?,
            tls: builder.tls.then(free_port).transpose()?,
            management: builder.management.then(free_port).transpose()?,
        };
        let environment = environment(&name, &folder, &ports);

        let prepare =
            |error| BrokerError::new(format!("cannot prepare {}: {error}", folder.display()));
        make_folders(&folder).map_err(prepare)?;
        let watchdog = Watchdog::spawn(
            &folder,
            &installation.epmd,
            &installation.server,
            &environment,
        )
        .map_err(prepare)?;
        let ca_pem = builder
            .tls
            .then(|| certificates::write(&folder.join("tls")))
            .transpose()?;
        write_settings(&folder, builder, &name, &ports).map_err(prepare)?;

        let node = Self {
            has_extras: builder.tls || !builder.plugins.is_empty(),
            changing: Mutex::new(()),
            name,
            folder,
            ports,
            ca_pem,
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

    /// Whether this very node, and no other on its port, speaks AMQP: it says its name before anyone logs in.
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
        said.windows(self.name.len())
            .any(|window| window == self.name.as_bytes())
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
        let port = self.ports.tls.expect("a node built with `tls()`");
        format!("amqps://guest:guest@localhost:{port}/%2f")
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

/// Asking it.
impl Node {
    /// A connection of a plain AMQP client, for what only another client can do or see.
    ///
    /// # Panics
    ///
    /// When the node does not accept it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    pub async fn connect(&self) -> Connection {
        Connection::connect(&self.url(), ConnectionProperties::default())
            .await
            .expect("the node accepts a connection")
    }

    /// What there is of a queue, or `None` when there is no such queue.
    ///
    /// # Panics
    ///
    /// When the queue is exclusive to another connection, which keeps its numbers to itself.
    ///
    /// # Cancel safety
    ///
    /// Only asks, so it may be dropped at any time.
    pub async fn queue(&self, name: &str) -> Option<QueueInfo> {
        match self.declare_passively(name).await {
            Ok(info) => Some(info),
            Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => None,
            Err(error) => panic!("cannot ask for queue {name:?}: {error}"),
        }
    }

    /// Whether there is such a queue, be it exclusive to another connection.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    ///
    /// # Cancel safety
    ///
    /// Only asks, so it may be dropped at any time.
    pub async fn has_queue(&self, name: &str) -> bool {
        match self.declare_passively(name).await {
            Ok(_) => true,
            Err(error) if is_soft(&error, AMQPSoftError::RESOURCELOCKED) => true,
            Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => false,
            Err(error) => panic!("cannot ask for queue {name:?}: {error}"),
        }
    }

    /// Runs `rabbitmqctl` against the node and returns what it prints. Takes a second or two: where AMQP can ask, as
    /// [`queue`](Self::queue) does, it is faster.
    ///
    /// # Panics
    ///
    /// When it fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the tool; the node may have done what was asked.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let mut tool = Command::new(self.installation.tool("rabbitmqctl"));
        tool.args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        tool.current_dir("/")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match timeout(TOOL_LIMIT, tool.output()).await {
            Ok(output) => output.expect("rabbitmqctl is installed beside rabbitmq-server"),
            Err(_) => panic!("rabbitmqctl {arguments:?} did not end within {TOOL_LIMIT:?}"),
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?} failed:\n{said}{complained}"
        );
        said.into_owned()
    }

    /// Closes every connection from the broker's side, as an operator would: they end with code 320 and `reason`.
    ///
    /// # Panics
    ///
    /// When `rabbitmqctl` fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave them open.
    pub async fn close_connections(&self, reason: &str) {
        self.ctl(&["close_all_connections", reason]).await;
    }

    async fn declare_passively(&self, queue: &str) -> lapin::Result<QueueInfo> {
        let connection = self.connect().await;
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let channel = connection.create_channel().await?;
        let declared = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await;
        // The answer is known, so a connection that cannot be closed in good manners does no harm.
        let _ = connection.close(200, "asked".into()).await;
        declared.map(|queue| QueueInfo {
            messages: queue.message_count(),
            consumers: queue.consumer_count(),
        })
    }
}

fn is_soft(error: &lapin::Error, soft: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == AMQPErrorKind::Soft(soft))
}

/// Unique on this machine, and easy to find among its processes.
fn unique_name() -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let random = RandomState::new().hash_one(serial) & 0xffff_ffff;
    format!("rpc-node-{}-{serial}-{random:08x}", process::id())
}

fn full_name(name: &str) -> String {
    format!("{name}@localhost")
}

/// For this user's eyes only: the cookie opens the node to whoever can read it.
fn make_folders(folder: &Path) -> io::Result<()> {
    let mut private = DirBuilder::new();
    private.mode(0o700);
    private.create(folder)?;
    ["log", "data", "tmp"]
        .iter()
        .try_for_each(|name| private.create(folder.join(name)))
}

fn write_settings(
    folder: &Path,
    builder: &NodeBuilder,
    name: &str,
    ports: &Ports,
) -> io::Result<()> {
    let cookie = builder.cookie.clone().unwrap_or_else(|| {
        let state = RandomState::new();
        format!("{:016X}{:016X}", state.hash_one(0), state.hash_one(1))
    });
    let cookie_file = folder.join(".erlang.cookie");
    fs::write(&cookie_file, cookie)?;
    fs::set_permissions(&cookie_file, fs::Permissions::from_mode(0o400))?;

    let mut conf = vec![
        format!("listeners.tcp.1 = 127.0.0.1:{}", ports.amqp),
        // Said in every handshake, by which a starting node is told from a stranger on its port.
        format!("cluster_name = {name}"),
        "log.console = false".to_owned(),
    ];
    if let Some(port) = ports.tls {
        let folder = folder.join("tls");
        conf.push(format!("listeners.ssl.1 = 127.0.0.1:{port}"));
        conf.push(format!(
            "ssl_options.cacertfile = {}",
            folder.join(certificates::CA).display()
        ));
        conf.push(format!(
            "ssl_options.certfile = {}",
            folder.join(certificates::CERTIFICATE).display()
        ));
        conf.push(format!(
            "ssl_options.keyfile = {}",
            folder.join(certificates::KEY).display()
        ));
    }
    if let Some(port) = ports.management {
        conf.push("management.tcp.ip = 127.0.0.1".to_owned());
        conf.push(format!("management.tcp.port = {port}"));
    }
    conf.extend(builder.conf.iter().cloned());
    fs::write(folder.join("rabbitmq.conf"), conf.join("\n") + "\n")?;
    fs::write(
        folder.join("enabled_plugins"),
        format!("[{}].\n", builder.plugins.join(",")),
    )
}

/// All a node and its tools are to know; nothing of ours or of the system's RabbitMQ.
fn environment(name: &str, folder: &Path, ports: &Ports) -> Vec<(&'static str, String)> {
    let file = |name: &str| folder.join(name).display().to_string();
    let path = env::var("PATH").unwrap_or_default();
    // In an interactive terminal as in a test, only 127.0.0.1 is listened on.
    let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
    vec![
        ("HOME", file("")),
        (
            "PATH",
            format!("{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ),
        ("LANG", "C.UTF-8".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("TMPDIR", file("tmp")),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("ERL_EPMD_PORT", ports.epmd.to_string()),
        ("ERL_CRASH_DUMP", file("log/erl_crash.dump")),
        ("RABBITMQ_NODENAME", full_name(name)),
        ("RABBITMQ_DIST_PORT", ports.distribution.to_string()),
        ("RABBITMQ_CONF_ENV_FILE", file("rabbitmq-env.conf")),
        ("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf")),
        ("RABBITMQ_CONFIG_FILES", file("conf.d")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced.config")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins")),
        ("RABBITMQ_PID_FILE", file("rabbitmq.pid")),
        ("RABBITMQ_MNESIA_BASE", file("data")),
        ("RABBITMQ_MNESIA_DIR", file("data/node")),
        ("RABBITMQ_PLUGINS_EXPAND_DIR", file("data/plugins")),
        ("RABBITMQ_FEATURE_FLAGS_FILE", file("data/feature_flags")),
        ("RABBITMQ_GENERATED_CONFIG_DIR", file("data/config")),
        ("RABBITMQ_SCHEMA_DIR", file("data/schema")),
        ("RABBITMQ_LOG_BASE", file("log")),
        ("RABBITMQ_LOGS", file("log/") + LOG),
        // RabbitMQ tells Erlang's threads to sleep rather than wait for each other. While it loads its code they wait
        // all the time, and Erlang's own default halves the time to start: 11 s to 4.5 s on two virtual cores.
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            format!("{loopback} +sbwt medium +sbwtdio short"),
        ),
        ("RABBITMQ_CTL_ERL_ARGS", loopback.to_owned()),
        ("RABBITMQ_CTL_DIST_PORT_MIN", "30000".to_owned()),
        ("RABBITMQ_CTL_DIST_PORT_MAX", "32000".to_owned()),
        // Makes the start script become the server instead of staying its parent, so signals reach the right process.
        ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
    ]
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
