//! Programs of RabbitMQ's RPC tutorial, in Python with pika, talk to ours, and know nothing of rpc-core.

use std::env;
use std::path::PathBuf;

use rpc_tests::broker::shared_node;
use rpc_tests::program::{Program, pika};
use rpc_tests::unique_queue;
use tokio::process::Command;
use tokio::sync::OnceCell;

#[tokio::test]
async fn tutorial_client_is_answered_by_our_server() {
    let queue = unique_queue("rpc_queue");
    let _server = fib_server(&queue).await;
    assert_gets_832040(python("rpc_client.py", &queue, &["30"]).await).await;
}

#[tokio::test]
async fn our_client_is_answered_by_the_tutorial_server() {
    let queue = unique_queue("rpc_queue");
    let mut server = python("rpc_server.py", &queue, &[]).await;
    server.line("[x] Awaiting RPC requests").await;
    let mut client = example("fib_client").await;
    client.args(["--url", &shared_node().await.url(), "--queue", &queue, "30"]);
    assert_gets_832040(Program::start(client)).await;
    server.line("[.] fib(30)").await;
}

#[tokio::test]
async fn tutorial_client_with_direct_reply_to_is_answered_by_our_server() {
    let queue = unique_queue("rpc_queue");
    let _server = fib_server(&queue).await;
    assert_gets_832040(python("rpc_client_direct.py", &queue, &["30"]).await).await;
}

async fn assert_gets_832040(client: Program) {
    let (status, lines) = client.end().await;
    assert!(
        status.success(),
        "the client failed with {status}: {lines:?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("[x] Requesting fib(30)")),
        "{lines:?}"
    );
    assert!(
        lines.iter().any(|line| line.contains("[.] Got 832040")),
        "{lines:?}"
    );
}

async fn fib_server(queue: &str) -> Program {
    let mut server = example("fib_server").await;
    server.args([
        "--url",
        &shared_node().await.url(),
        "--queue",
        queue,
        "--prefetch",
        "1",
    ]);
    let mut server = Program::start(server);
    server.line("[x] Awaiting RPC requests").await;
    server
}

/// One of the Python programs beside this file, started against the shared node.
async fn python(script: &str, queue: &str, arguments: &[&str]) -> Program {
    let mut command = pika(&format!("tutorial/{script}"));
    command
        .args([&shared_node().await.url(), queue])
        .args(arguments);
    Program::start(command)
}

/// One of our examples, as a command to add arguments to.
async fn example(name: &str) -> Command {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    Command::new(FOLDER.get_or_init(build_examples).await.join(name))
}

/// `cargo test` builds only the examples of the packages it tests. With `--workspace --all-features`, as in `make
/// test`, it has built them all, and then this finds nothing to do.
async fn build_examples() -> PathBuf {
    let this_test = env::current_exe().expect("a running program has a path");
    let profile = this_test
        .ancestors()
        .nth(2)
        .expect("cargo puts tests into target/PROFILE/deps")
        .to_owned();
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args([
        "build",
        "--quiet",
        "--workspace",
        "--all-features",
        "--examples",
    ]);
    // What cargo tells this test of its own package would make build scripts that ask for it run again, here and then
    // in the next ordinary build, and everything above them be compiled anew.
    for (name, _) in env::vars_os() {
        let told = name.to_string_lossy();
        if told.starts_with("CARGO_PKG_") || told.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&name);
        }
    }
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .await
        .expect("cargo runs the tests");
    assert!(status.success(), "the examples do not build");
    profile.join("examples")
}
