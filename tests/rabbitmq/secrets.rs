//! The log of a program with a default `tracing_subscriber`: it has no headers, no bodies and no passwords, whatever fails.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rpc_core::{Connection, ErrorKind, Server, ServerHandle, rpc};
use rpc_tests::broker::Node;
use rpc_tests::unique_queue;
use tokio::sync::Notify;
use tracing_subscriber::fmt::MakeWriter;

const TOKEN: &str = "Bearer t0ken-of-ada";
const PASSWORD: &str = "passw0rd-of-ada";
const BODY: &str = "b0dy-of-ada";

#[rpc]
trait Vault {
    async fn put(secret: String);
}

/// Holds what it is given until it dies.
#[derive(Clone, Default)]
struct Holding(std::sync::Arc<Notify>);

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
    // For all threads, lapin's own included; the other tests of this program are heard, too.
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

    // It is not let in.
    let wrong = node.url_with("guest", PASSWORD, "/");
    Connection::open(&wrong).await.unwrap_err();

    // It comes back, as there is no such queue.
    let nowhere = unique_queue("nowhere");
    let error = put(&nowhere).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);

    // It kills one server after another: it becomes the first dead letter.
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
    // Something was said of each.
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
