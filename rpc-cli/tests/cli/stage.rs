//! A virtual host and a home folder for each test.

use std::path::Path;

use rpc_core::{Connection, Dispatch, Server, ServerHandle};
use rpc_tests::broker::{Proxy, shared_node};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::program::Rpc;
use crate::sample::{Clocks, ShopDispatcher};
use crate::terminal::{Size, Terminal};

/// The environment of a test: a virtual host that is empty, and a home folder. Other tests see neither, so that names of services and
/// queues need not be unique.
#[derive(Debug)]
pub(crate) struct Stage {
    vhost: String,
    url: String,
    home: TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let vhost = free_vhost().await;
        Self {
            url: shared_node().await.url_with("guest", "guest", &vhost),
            vhost,
            home: tempfile::tempdir().unwrap(),
        }
    }

    /// Name of the virtual host, in which `guest` may do everything.
    pub(crate) fn vhost(&self) -> &str {
        &self.vhost
    }

    /// URL of the virtual host, as `guest`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// URL of the virtual host as another user.
    pub(crate) async fn url_as(&self, user: &str, password: &str) -> String {
        shared_node().await.url_with(user, password, &self.vhost)
    }

    /// URL of the virtual host through a proxy, as `guest`.
    pub(crate) fn url_through(&self, proxy: &Proxy) -> String {
        proxy.url().replace("%2f", self.vhost())
    }

    /// Makes a user, whose password is `secret`, with these permissions in the virtual host. Returns its URL.
    pub(crate) async fn user(&self, configure: &str, write: &str, read: &str) -> String {
        let name = rpc_tests::unique_queue("user");
        let node = shared_node().await;
        node.ctl(&["add_user", &name, "secret"]).await;
        let (vhost, name) = (self.vhost(), &*name);
        let permissions = ["set_permissions", "-p", vhost, name, configure, write, read];
        node.ctl(&permissions).await;
        self.url_as(name, "secret").await
    }

    /// The folder that the program takes for the user's home.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Opens a connection of that name to the virtual host.
    pub(crate) async fn connect(&self, name: &str) -> Connection {
        let opening = Connection::builder(self.url()).name(name).open();
        opening.await.unwrap()
    }

    /// Starts an instance of a service, on a connection of its own with that name.
    pub(crate) async fn serve(&self, name: &str, service: impl Dispatch) -> ServerHandle {
        let connection = self.connect(name).await;
        let server = Server::builder(&connection).service(service).build();
        server.start().await.unwrap()
    }

    /// Starts an instance of the sample service `Shop`.
    pub(crate) async fn shop(&self, name: &str) -> ServerHandle {
        self.serve(name, ShopDispatcher::new(Clocks)).await
    }

    /// Prepares the program. The variable RPC_URL names the virtual host; the environment has no other settings.
    pub(crate) fn rpc(&self, arguments: &[&str]) -> Rpc {
        Rpc::new(arguments, self.home()).env("RPC_URL", self.url())
    }

    /// Starts the program in a pseudo-terminal, with the same environment as [`rpc`](Self::rpc).
    pub(crate) fn terminal(&self, arguments: &[&str], size: Size) -> Terminal {
        Terminal::start(&self.rpc(arguments), size)
    }
}

/// Returns a virtual host that no other test uses.
///
/// `rabbitmqctl` takes a second or more for each start, so it makes several at once.
async fn free_vhost() -> String {
    const AT_ONCE: usize = 16;
    static FREE: Mutex<Vec<String>> = Mutex::const_new(Vec::new());
    static SERIAL: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    // Tests that wait for the same start wait for each other.
    let mut free = FREE.lock().await;
    if free.is_empty() {
        let first = SERIAL.fetch_add(AT_ONCE, std::sync::atomic::Ordering::Relaxed);
        let names = (first..first + AT_ONCE).map(|serial| format!("stage-{serial}"));
        free.extend(names);
        let listed: Vec<_> = free.iter().map(|name| format!("<<\"{name}\">>")).collect();
        let script = format!(
            "[begin rabbit_vhost:add(V, <<\"tests\">>), \
             rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, V, <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"tests\">>) \
             end || V <- [{}]].",
            listed.join(",")
        );
        shared_node().await.ctl(&["-q", "eval", &script]).await;
    }
    free.pop().unwrap()
}
