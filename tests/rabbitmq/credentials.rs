//! Credentials from a callback: first login, renewal, rotation.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::BasicProperties;
use rpc_core::testing::{Peer as HandPeer, PeerMessage};
use rpc_core::{Connection, ConnectionState, Context, Credentials, OpenError, rpc};
use rpc_core::{Server, ServerHandle};
use rpc_tests::broker::{Node, shared_node};
use rpc_tests::{eventually, unique_queue};
use tokio::sync::{Notify, OnceCell};
use tokio::time::timeout;

use super::connecting::story;
use super::peer::{Peer, parts};

const LIMIT: Duration = Duration::from_secs(30);

#[rpc]
trait Mint {
    #[rpc(idempotent)]
    async fn double(n: u64) -> u64;
    /// Runs until the press is released.
    async fn hold() -> u64;
    async fn who(#[ctx] context: Context) -> Option<String>;
}

#[derive(Clone, Default)]
struct Press {
    begun: Arc<Notify>,
    release: Arc<Notify>,
}

impl Mint for Press {
    async fn double(&self, n: u64) -> u64 {
        2 * n
    }

    async fn hold(&self) -> u64 {
        self.begun.notify_one();
        self.release.notified().await;
        7
    }

    async fn who(&self, context: Context) -> Option<String> {
        context.user_id().map(str::to_owned)
    }
}

async fn serve(connection: &Connection, queue: &str, press: Press) -> ServerHandle {
    let dispatcher = MintDispatcher::new(press).with_queue(queue);
    let server = Server::builder(connection).service(dispatcher).build();
    server.start().await.unwrap()
}

/// A vault that returns the present credentials and counts requests for them.
#[derive(Clone, Debug)]
pub(crate) struct Vault(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    given: Mutex<Option<Credentials>>,
    asked: AtomicUsize,
}

impl Vault {
    pub(crate) fn new(given: Credentials) -> Self {
        Self(Arc::new(Inner {
            given: Mutex::new(Some(given)),
            asked: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn set(&self, given: Option<Credentials>) {
        *self.0.given.lock().unwrap() = given;
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }

    async fn ask(self) -> Result<Credentials, &'static str> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let given = self.0.given.lock().unwrap().clone();
        given.ok_or("the vault is sealed")
    }

    pub(crate) async fn open(&self, node: &Node) -> Connection {
        self.builder(node).open().await.unwrap()
    }

    fn builder(&self, node: &Node) -> rpc_core::ConnectionBuilder {
        let vault = self.clone();
        // The user and the password of the URL are not used.
        Connection::builder(node.url_with("unknown", "wr0ng", "%2f"))
            .credentials(async move || vault.ask().await)
    }
}

/// The node of all tests here. Each test has users of its own.
pub(crate) async fn node() -> &'static Node {
    static NODE: OnceCell<Node> = OnceCell::const_new();
    let start = async || {
        let node = Node::start().await;
        node.ctl(&["await_startup"]).await;
        node
    };
    NODE.get_or_init(start).await
}

pub(crate) async fn add_user(node: &Node, user: &str, password: &str) {
    node.ctl(&["add_user", user, password]).await;
    node.ctl(&["set_permissions", user, ".*", ".*", ".*"]).await;
}

/// The number of connections of a user.
pub(crate) async fn connections(node: &Node, user: &str) -> usize {
    let listed = node.ctl(&["list_connections", "user"]).await;
    listed.lines().filter(|line| line.trim() == user).count()
}

async fn until_asked(vault: &Vault, times: usize) {
    eventually("the callback is called", async || {
        (vault.asked() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn rotating_a_password_under_load_loses_no_call() {
    let node = node().await;
    add_user(node, "ada", "one").await;
    let vault = Vault::new(Credentials::new("ada", "one"));
    let (serving, calling) = (vault.open(node).await, vault.open(node).await);
    let queue = unique_queue("rotated");
    let _server = serve(&serving, &queue, Press::default()).await;
    let mint = MintClient::new(calling.client()).with_queue(&queue);
    let load = async {
        let mut calls = 0;
        for n in 0..u64::MAX {
            assert_eq!(mint.double(n).timeout(LIMIT).await.unwrap(), 2 * n);
            calls += 1;
            if calls % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    let rotating = async {
        for password in ["two", "three", "four"] {
            let asked = vault.asked();
            node.ctl(&["change_password", "ada", password]).await;
            vault.set(Some(Credentials::new("ada", password)));
            node.ctl(&["close_all_user_connections", "ada", "rotated"])
                .await;
            until_asked(&vault, asked + 2).await;
            assert_eq!(mint.double(1).timeout(LIMIT).await.unwrap(), 2);
        }
    };
    tokio::select! {
        () = load => {}
        () = rotating => {}
    }
}

#[tokio::test]
async fn credentials_are_renewed_before_they_expire_without_a_reconnect() {
    let node = node().await;
    add_user(node, "eve", "one").await;
    let lifetime = Duration::from_secs(2);
    let vault = Vault::new(Credentials::new("eve", "one").valid_for(lifetime));
    let started = std::time::Instant::now();
    let connection = vault.open(node).await;
    let mut state = connection.state();
    assert_eq!(state.current(), ConnectionState::Connected);
    until_asked(&vault, 3).await;
    // Two renewals, each after 80 % of the lifetime.
    assert!(started.elapsed() > lifetime * 8 / 5);
    eventually("the broker gets the new secret", async || {
        node.log()
            .contains("user 'eve' updated secret")
            .then_some(())
    })
    .await;
    assert!(timeout(Duration::ZERO, state.changed()).await.is_err());
}

#[tokio::test]
async fn a_failing_callback_is_retried_while_the_connection_works() {
    let node = node().await;
    add_user(node, "joe", "one").await;
    let lifetime = Duration::from_millis(500);
    let given = Credentials::new("joe", "one").valid_for(lifetime);
    let vault = Vault::new(given.clone());
    let connection = vault.open(node).await;
    let mut state = connection.state();
    state.current();
    vault.set(None);
    until_asked(&vault, 4).await;
    let queue = unique_queue("sealed");
    let _server = serve(&connection, &queue, Press::default()).await;
    let mint = MintClient::new(connection.client()).with_queue(&queue);
    assert_eq!(mint.double(1).await.unwrap(), 2);
    vault.set(Some(given));
    let asked = vault.asked();
    until_asked(&vault, asked + 2).await;
    assert!(timeout(Duration::ZERO, state.changed()).await.is_err());
    assert_eq!(mint.double(1).await.unwrap(), 2);
}

#[tokio::test]
async fn changing_the_user_loses_no_call() {
    let node = node().await;
    add_user(node, "kim", "one").await;
    add_user(node, "bob", "two").await;
    let given = |user, password| Credentials::new(user, password).valid_for(Duration::from_secs(1));
    let vault = Vault::new(given("kim", "one"));
    let (serving, calling) = (
        vault.open(node).await,
        vault.builder(node).state_user_id().open().await.unwrap(),
    );
    let queue = unique_queue("taken-over");
    let press = Press::default();
    let server = serve(&serving, &queue, press.clone()).await;
    let mint = MintClient::new(calling.client()).with_queue(&queue);
    let held = tokio::spawn(mint.hold().timeout(LIMIT).into_future());
    press.begun.notified().await;
    assert_eq!(mint.who().await.unwrap().as_deref(), Some("kim"));
    let mut states = [serving.state(), calling.state()];
    for state in &mut states {
        state.current();
    }

    vault.set(Some(given("bob", "two")));
    // Calls continue all the time, and none fails.
    eventually("requests come from the other user", async || {
        let who = mint.who().await.unwrap();
        (who.as_deref() == Some("bob")).then_some(())
    })
    .await;
    eventually("the server is logged in as the other user", async || {
        assert_eq!(mint.double(4).await.unwrap(), 8);
        (connections(node, "bob").await == 2).then_some(())
    })
    .await;
    // The call in flight ends on the old connections, which close after that.
    assert!(!held.is_finished());
    press.release.notify_one();
    assert_eq!(held.await.unwrap().unwrap(), 7);
    eventually("the old connections are closed", async || {
        (connections(node, "kim").await == 0).then_some(())
    })
    .await;
    for state in &mut states {
        assert!(timeout(Duration::ZERO, state.changed()).await.is_err());
    }
    server.shutdown().await.unwrap();
}

/// While the connection is handed over, the private queues on both links get each call.
#[tokio::test]
async fn changing_the_user_runs_each_call_to_all_instances_once() {
    let node = node().await;
    add_user(node, "uma", "one").await;
    add_user(node, "dan", "two").await;
    let given = |user, password| Credentials::new(user, password).valid_for(Duration::from_secs(1));
    let vault = Vault::new(given("uma", "one"));
    let serving = vault.open(node).await;
    let queue = unique_queue("all");
    let server = serve(&serving, &queue, Press::default()).await;
    let mut health = server.health();
    let asking = Connection::open(&node.url()).await.unwrap();
    let replies_to = unique_queue("peer");
    let mut peer = HandPeer::open(&asking, &replies_to, &[]).await.unwrap();
    let topic = format!("rpc.all.{queue}");
    let call = |id: usize| PeerMessage {
        kind: Some("double".to_owned()),
        content_type: Some("application/json".to_owned()),
        reply_to: Some(replies_to.clone()),
        correlation_id: Some(id.to_string()),
        body: "[4]".into(),
        ..PeerMessage::default()
    };
    vault.set(Some(given("dan", "two")));
    let mut calls = 0;
    let handing_over = eventually("the server is logged in as the other user", async || {
        (connections(node, "dan").await == 1 && connections(node, "uma").await == 0).then_some(())
    });
    let mut handing_over = std::pin::pin!(handing_over);
    while timeout(Duration::from_millis(5), &mut handing_over)
        .await
        .is_err()
    {
        peer.publish_to_topic(&topic, call(calls)).await.unwrap();
        calls += 1;
    }
    let mut replies = BTreeSet::new();
    while replies.len() < calls {
        let reply = timeout(LIMIT, peer.next())
            .await
            .expect("every call is answered")
            .unwrap();
        assert_eq!(reply.body, "8");
        let id = reply.correlation_id.unwrap();
        assert!(replies.insert(id.clone()), "call {id} ran twice");
    }
    // No further reply comes before that of a later call.
    peer.publish_to_topic(&topic, call(calls)).await.unwrap();
    let last = peer.next().await.unwrap().correlation_id.unwrap();
    assert_eq!(last, calls.to_string());
    assert_eq!(server.dropped_questions(), 0);
    assert!(
        timeout(Duration::ZERO, health.changed()).await.is_err(),
        "{health:?}"
    );
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_server_survives_a_user_without_permissions() {
    let node = node().await;
    add_user(node, "ann", "one").await;
    add_user(node, "unfit", "two").await;
    let permissions = ["set_permissions", "unfit", ".*", ".*", "^$"];
    node.ctl(&permissions).await;
    let given = |user, password| Credentials::new(user, password).valid_for(Duration::from_secs(1));
    let vault = Vault::new(given("ann", "one"));
    let serving = vault.open(node).await;
    let calling = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("unfit");
    let server = serve(&serving, &queue, Press::default()).await;
    let mint = MintClient::new(calling.client()).with_queue(&queue);
    assert_eq!(mint.double(1).await.unwrap(), 2);

    vault.set(Some(given("unfit", "two")));
    eventually("requests wait for a user with permissions", async || {
        let waiting = mint.double(2).timeout(Duration::from_millis(300)).await;
        waiting.is_err_and(|error| error.is_timeout()).then_some(())
    })
    .await;

    vault.set(Some(given("ann", "one")));
    assert_eq!(mint.double(3).timeout(LIMIT).await.unwrap(), 6);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_callback_without_credentials_is_named() {
    let node = shared_node().await;
    let vault = Vault::new(Credentials::new("guest", "guest"));
    vault.set(None);
    let error = vault.builder(node).open().await.unwrap_err();
    assert!(
        matches!(error, OpenError::CredentialsUnavailable { .. }),
        "{error:?}"
    );
    assert!(
        story(&error).ends_with("gave no credentials: the vault is sealed"),
        "{error:?}"
    );
    // With `wait_for_broker`, opening waits for credentials as well.
    let waiting = vault.builder(node).wait_for_broker(LIMIT);
    let opening = tokio::spawn(waiting.open());
    until_asked(&vault, 3).await;
    vault.set(Some(Credentials::new("guest", "guest")));
    opening.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_hanging_callback_is_named() {
    let node = shared_node().await;
    let error = Connection::builder(node.url() + "?connection_timeout=200")
        .credentials(std::future::pending::<Credentials>)
        .open()
        .await
        .unwrap_err();
    assert!(
        story(&error).contains("the callback did not return within 200ms"),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_connection_for_direct_replies_uses_the_callback() {
    let node = node().await;
    add_user(node, "liz", "one").await;
    let vault = Vault::new(Credentials::new("liz", "one"));
    let serving = vault.builder(node).state_user_id().open().await.unwrap();
    let queue = unique_queue("direct");
    let _server = serve(&serving, &queue, Press::default()).await;
    let request = BasicProperties::default()
        .with_type("double".into())
        .with_content_type("application/json".into());
    let mut peer = Peer::with_direct_replies(node).await;
    let reply = peer.call(&queue, request, b"[21]").await;
    assert_eq!(parts(&reply), ("result", "42"));
    assert_eq!(reply.properties.user_id().as_ref().unwrap().as_str(), "liz");
    assert_eq!(vault.asked(), 2);
}
