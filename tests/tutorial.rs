//! The programs of RabbitMQ's RPC tutorial, in Python with pika and without knowledge of rpc-core, call and serve our programs.

use std::env;
use std::path::PathBuf;

use rpc_tests::broker::shared_node;
use rpc_tests::program::{Program, pika};
use rpc_tests::unique_queue;
use tokio::process::Command;
use tokio::sync::OnceCell;

#[tokio::test]
async fn our_server_replies_to_the_tutorial_client() {
    let queue = unique_queue("rpc_queue");
    let _server = fib_server(&queue, &[]).await;
    assert_gets_832040(python("rpc_client.py", &queue, &["30"]).await).await;
}

/// The servers of both sides take requests of one queue in turn, whichever side declares the queue.
#[tokio::test]
async fn our_server_and_the_tutorial_server_share_queues_of_any_type() {
    for queue_type in [&[][..], &["quorum"]] {
        let queue = unique_queue("rpc_queue");
        let theirs = tutorial_server(&queue, queue_type).await;
        let ours = fib_server(&queue, &["--existing"]).await;
        both_answer_all_clients(&queue, ours, theirs).await;
    }
    let queue = unique_queue("rpc_queue");
    let ours = fib_server(&queue, &["--quorum"]).await;
    let theirs = tutorial_server(&queue, &["quorum"]).await;
    both_answer_all_clients(&queue, ours, theirs).await;
}

/// Sends four requests and expects two at each server.
async fn both_answer_all_clients(queue: &str, mut ours: Program, mut theirs: Program) {
    assert_gets_832040(python("rpc_client.py", queue, &["30"]).await).await;
    assert_gets_832040(python("rpc_client_direct.py", queue, &["30"]).await).await;
    for _ in 0..2 {
        assert_gets_832040(fib_client(queue).await).await;
    }
    for server in [&mut ours, &mut theirs] {
        server.line("[.] fib(30)").await;
        server.line("[.] fib(30)").await;
    }
}

#[tokio::test]
async fn our_server_advises_on_a_queue_of_another_type() {
    let queue = unique_queue("rpc_queue");
    let _theirs = tutorial_server(&queue, &["quorum"]).await;
    let server = fib_server_command(&queue, &[]).await.output().await;
    let output = server.expect("the server program runs");
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    for part in [
        "'quorum'",
        "'classic'",
        "`QueueOptions::existing()`",
        "--existing",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(told.matches("inequivalent").count(), 1, "{told}");
}

#[tokio::test]
async fn the_tutorial_server_replies_to_our_client() {
    let queue = unique_queue("rpc_queue");
    let mut server = tutorial_server(&queue, &[]).await;
    assert_gets_832040(fib_client(&queue).await).await;
    server.line("[.] fib(30)").await;
}

#[tokio::test]
async fn our_server_replies_to_the_tutorial_client_with_direct_reply_to() {
    let queue = unique_queue("rpc_queue");
    let _server = fib_server(&queue, &[]).await;
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

async fn fib_server(queue: &str, arguments: &[&str]) -> Program {
    let mut server = Program::start(fib_server_command(queue, arguments).await);
    server.line("[x] Awaiting RPC requests").await;
    server
}

async fn fib_server_command(queue: &str, arguments: &[&str]) -> Command {
    let mut server = example("fib_server").await;
    server
        .args(["--url", &shared_node().await.url(), "--queue", queue])
        .args(["--prefetch", "1"])
        .args(arguments);
    server
}

async fn fib_client(queue: &str) -> Program {
    let mut client = example("fib_client").await;
    client.args(["--url", &shared_node().await.url(), "--queue", queue, "30"]);
    Program::start(client)
}

async fn tutorial_server(queue: &str, arguments: &[&str]) -> Program {
    let mut server = python("rpc_server.py", queue, arguments).await;
    server.line("[x] Awaiting RPC requests").await;
    server
}

/// A Python program of the tutorial, started against the shared node.
async fn python(script: &str, queue: &str, arguments: &[&str]) -> Program {
    let mut command = pika(&format!("tutorial/{script}"));
    command
        .args([&shared_node().await.url(), queue])
        .args(arguments);
    Program::start(command)
}

/// A command that runs one of our examples.
async fn example(name: &str) -> Command {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    Command::new(FOLDER.get_or_init(build_examples).await.join(name))
}

/// Builds the examples. `cargo test` builds only the examples of the packages under test; `--workspace --all-features`, as in
/// `make test`, has built all of them, and leaves nothing to do here.
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
    // Variables that Cargo sets for this test would make build scripts run again, here and in the next ordinary build, and
    // everything that depends on them compile again.
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
