//! The log of a program with a default `tracing_subscriber` has no headers, no bodies and no passwords after any failure. At TRACE,
//! it has no passwords and no keys.

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::{Connection, Credentials, ErrorKind, Server, ServerHandle, rpc};
use rpc_tests::broker::{Identity, Node};
use rpc_tests::{eventually, unique_queue};
use tokio::sync::Notify;
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

const TOKEN: &str = "Bearer t0ken-of-ada";
const PASSWORD: &str = "passw0rd-of-ada";
const BODY: &str = "b0dy-of-ada";

#[rpc]
trait Vault {
    async fn put(secret: String);
}

/// Holds its argument until its server dies.
#[derive(Clone, Default)]
struct Holding(Arc<Notify>);

impl Vault for Holding {
    async fn put(&self, _secret: String) {
        self.0.notify_one();
        std::future::pending::<()>().await;
    }
}

/// The log of all threads.
struct Log(Mutex<Vec<u8>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for &Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for &'static Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self
    }
}

async fn serve(connection: &Connection, queue: &str, holding: &Holding) -> ServerHandle {
    let dispatcher = VaultDispatcher::new(holding.clone()).with_queue(queue);
    let server = Server::builder(connection).service(dispatcher).build();
    server.start().await.unwrap()
}

#[tokio::test]
async fn headers_and_bodies_are_not_logged() {
    // Covers all threads, those of lapin included. Events of other tests of this program are collected, too.
    tracing_subscriber::fmt().with_writer(&LOG).init();
    let node = Node::start().await;
    node.ctl(&["await_startup"]).await;
    node.ctl(&["add_user", "ada", PASSWORD]).await;
    node.ctl(&["set_permissions", "ada", ".*", ".*", ".*"])
        .await;
    let url = node.url_with("ada", PASSWORD, "/");
    let serving = Connection::open(&url).await.unwrap();
    let calling = Connection::open(&url).await.unwrap();
    let put = |queue: &str| {
        VaultClient::new(calling.client())
            .with_queue(queue)
            .put(BODY.to_owned())
            .header("authorization", TOKEN)
    };

    // The broker refuses this login.
    let wrong = node.url_with("guest", PASSWORD, "/");
    Connection::open(&wrong).await.unwrap_err();

    // The broker returns this request: its queue does not exist.
    let nowhere = unique_queue("nowhere");
    let error = put(&nowhere).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);

    // This request kills two servers and becomes the first dead letter.
    let queue = unique_queue("vault");
    let holding = Holding::default();
    let mut server = Some(serve(&serving, &queue, &holding).await);
    let call = tokio::spawn(put(&queue).into_future());
    for _ in 0..3 {
        holding.0.notified().await;
        drop(server.take());
        server = Some(serve(&serving, &queue, &holding).await);
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
    assert!(error.to_string().contains(".dead"), "{error}");

    let log = String::from_utf8_lossy(&LOG.lock()).into_owned();
    // The log mentions each of the failures.
    assert!(log.contains("ACCESS_REFUSED"), "{log}");
    assert!(log.contains("lapin") && log.contains(&nowhere), "{log}");
    assert!(log.contains(&format!("{queue}.dead")), "{log}");
    for secret in [TOKEN, PASSWORD, BODY, "t0ken", "passw0rd", "b0dy"] {
        let bytes = format!("{:?}", secret.as_bytes());
        let bytes = bytes.trim_matches(['[', ']']);
        for line in log.lines() {
            assert!(!line.contains(secret) && !line.contains(bytes), "{line}");
        }
    }
}

/// Passwords of the program at TRACE. The third and later ones are sent to the broker as renewals.
const PASSWORDS: [&str; 3] = ["passw0rd-in-url", "passw0rd-given", "passw0rd-renewed"];

/// Environment variables of the program at TRACE: a URL up to the user, the rest of it, and the client's certificate, key and authority.
const SETTINGS: [&str; 4] = [
    "TRACED_URL",
    "TRACED_CERTIFICATE",
    "TRACED_KEY",
    "TRACED_CA",
];

#[tokio::test]
async fn passwords_and_keys_are_not_logged_at_trace() {
    let strict = super::tls::strict().await;
    let Identity { certificate, key } = strict.authority.identity("ada", &[]);
    let place = format!("localhost:{}/%2f", strict.node.tls_port());
    strict.node.ctl(&["add_user", "traced", PASSWORDS[0]]).await;
    strict
        .node
        .ctl(&["set_permissions", "traced", ".*", ".*", ".*"])
        .await;
    // A process of its own, because the whole log at TRACE is slow and long.
    let mut program = Command::new(std::env::current_exe().unwrap());
    program
        .args([
            "--exact",
            "secrets::program_at_trace",
            "--ignored",
            "--nocapture",
        ])
        .envs(
            SETTINGS
                .into_iter()
                .zip([&place, &certificate, &key, &strict.authority.pem()]),
        );
    let output = tokio::task::spawn_blocking(move || program.output());
    let output = output.await.unwrap().unwrap();
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    let tail = |log: &str| log[log.len().saturating_sub(4000)..].to_owned();
    assert!(output.status.success(), "{}", tail(&log));

    // The log contains the methods that carry passwords, without the passwords.
    for heard in ["StartOk", "UpdateSecret", "the vault is sealed"] {
        assert!(log.contains(heard), "{heard}: {}", tail(&log));
    }
    let key_lines = key.lines().filter(|line| !line.starts_with("-----"));
    for secret in PASSWORDS.into_iter().chain(key_lines) {
        let bytes = format!("{:?}", secret.as_bytes());
        let bytes = bytes.trim_matches(['[', ']']);
        for line in log.lines() {
            assert!(!line.contains(secret) && !line.contains(bytes), "{line}");
        }
    }
}

/// Logs in with secrets of every kind, logs everything, and prints the secrets' `Debug` forms.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn program_at_trace() {
    let [place, certificate, key, ca] = SETTINGS.map(|name| std::env::var(name).unwrap());
    tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .init();
    let [first, given, renewed] = PASSWORDS;
    let url = |password: &str, option: &str| format!("amqps://traced:{password}@{place}{option}");
    let builder = |url: String| {
        Connection::builder(url)
            .root_certificates(&*ca)
            .identity(&*certificate, &*key)
    };

    // In the URL: right and wrong.
    for option in ["", "?auth_mechanism=amqplain"] {
        let right = builder(url(first, option));
        tracing::info!(?right, opened = ?right.clone().open().await.unwrap());
        let wrong = builder(url(given, option)).open().await.unwrap_err();
        tracing::info!(?wrong, %wrong);
    }

    // From a callback: wrong, right, renewed, and none.
    let credentials = Credentials::new("traced", given);
    tracing::info!(?credentials);
    let wrong = builder(url(renewed, "")).credentials(async move || credentials);
    tracing::info!(?wrong, refused = ?wrong.clone().open().await.unwrap_err());
    let none = builder(url(renewed, ""))
        .credentials(async || Err::<Credentials, _>("the vault is sealed"));
    tracing::info!(?none, refused = ?none.clone().open().await.unwrap_err());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let renewing = builder(url(renewed, "")).credentials(async move || {
        let password = match counted.fetch_add(1, Ordering::SeqCst) {
            0 => first,
            _ => renewed,
        };
        Credentials::new("traced", password).valid_for(Duration::from_millis(500))
    });
    let connection = renewing.open().await.unwrap();
    eventually("the credentials are renewed", async || {
        (asked.load(Ordering::SeqCst) > 3).then_some(())
    })
    .await;
    tracing::info!(?connection);
    connection.close().await;
}
