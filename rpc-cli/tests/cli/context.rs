//! `rpc context`, and the choice of the broker.

use std::fs;

use rpc_tests::broker::{Authority, Node};

use crate::program::{Outcome, Rpc};
use crate::stage::Stage;

/// The program without RPC_URL, and without the node's password in its arguments.
fn rpc(stage: &Stage, arguments: &[&str]) -> Rpc {
    stage.rpc(arguments).without_env("RPC_URL")
}

/// The URL of the stage without user and password.
fn bare(stage: &Stage) -> String {
    stage.url().replace("guest:guest@", "")
}

#[tokio::test]
async fn a_saved_connection_takes_the_place_of_a_url() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let url = bare(&stage);
    let add = [
        "context",
        "add",
        "test",
        &url,
        "--user",
        "guest",
        "--password-stdin",
    ];
    let add = rpc(&stage, &add).stdin("guest\nmore\n").run().await;
    add.exits(0).snapshot("context/add");
    // Not the current one.
    rpc(&stage, &["list"])
        .run()
        .await
        .exits(2)
        .snapshot("context/no-broker");
    let ping = ["ping", "Shop", "--expect", "1", "--context", "test"];
    rpc(&stage, &ping).run().await.exits(0).quietly();
    let ping = rpc(&stage, &ping[..4]);
    ping.clone()
        .env("RPC_CONTEXT", "test")
        .run()
        .await
        .exits(0)
        .quietly();
    rpc(&stage, &["context", "use", "test"])
        .run()
        .await
        .exits(0)
        .quietly();
    ping.run().await.exits(0).quietly();
    // A variable is a choice, and the current context is none.
    ping.clone()
        .env("AMQP_URL", "amqp://127.0.0.1:1")
        .run()
        .await
        .exits(7);
    let wins = ping
        .clone()
        .env("AMQP_URL", "amqp://127.0.0.1:1")
        .env("RPC_CONTEXT", "test");
    wins.run().await.exits(0).quietly();

    rpc(&stage, &["context", "remove", "test"])
        .run()
        .await
        .exits(0)
        .quietly();
    ping.run().await.exits(2);
    for action in ["show", "use", "remove"] {
        let none = rpc(&stage, &["context", action, "test"])
            .run()
            .await
            .exits(2);
        none.says("there is no context 'test': none is saved");
    }
    let none = rpc(&stage, &["list", "--context", "test"])
        .run()
        .await
        .exits(2);
    none.says("there is no context 'test'");
}

#[tokio::test]
async fn no_command_prints_a_password() {
    let stage = Stage::new().await;
    let home = stage.home().display().to_string();
    let add = async |args: &[&str]| {
        let all = [&["context", "add"], args].concat();
        rpc(&stage, &all).run().await
    };
    add(&["dev", "amqps://ada:s3cret@rabbit.example/%2f", "--use"])
        .await
        .exits(0);
    add(&[
        "prod",
        "amqps://ada@rabbit.example/shop",
        "--password-command",
        "pass show prod",
    ])
    .await
    .exits(0);
    add(&[
        "cert",
        "amqps://rabbit.example/?auth_mechanism=external",
        "--ca",
        "ca.pem",
        "--cert",
        "ada.pem",
        "--key",
        "ada.key",
    ])
    .await
    .exits(0);
    let list = rpc(&stage, &["context", "list"])
        .run()
        .await
        .exits(0)
        .quietly();
    list.snapshot("context/list");
    let steady = |outcome: Outcome| Outcome {
        stdout: outcome.stdout.replace(&home, "[home]"),
        ..outcome
    };
    let mut printed = list.stdout;
    for (args, name) in [
        (&["context", "show", "dev"][..], "show-saved"),
        (&["context", "show", "prod"], "show-command"),
        (&["context", "show", "cert"], "show-certificates"),
        (&["context", "list", "--json"], "list-json"),
        (&["context", "show", "dev", "--json"], "show-json"),
    ] {
        let shown = steady(rpc(&stage, args).run().await.exits(0).quietly());
        shown.snapshot(&format!("context/{name}"));
        printed += &shown.stdout;
    }
    let again = add(&["dev", "amqps://ada:s3cret@rabbit.example"])
        .await
        .exits(2);
    printed += &again.says("--replace").stderr;
    let replaced = add(&["dev", "amqps://bob:s3cret@rabbit.example", "--replace"])
        .await
        .exits(0);
    printed += &replaced.stderr;
    let broken = add(&["x", "amqps://ada:s3cret:x@/"]).await.exits(2);
    printed += &broken.stderr;
    assert!(!printed.contains("s3cret"), "{printed}");

    add(&["x", "amqps://ada@host"])
        .await
        .exits(2)
        .says("--password-stdin");
    add(&["x", "amqps://host", "--password-command", "x"])
        .await
        .exits(2)
        .says("--user");
    let two = ["x", "amqps://ada:p@host", "--password-command", "x"];
    add(&two).await.exits(2).says("remove one of them");
    let empty = add(&["x", "amqps://ada@host", "--password-stdin"])
        .await
        .exits(2);
    empty.says("no password in its first line");
}

#[tokio::test]
async fn the_file_of_passwords_is_that_of_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new().await;
    let config = stage.home().join("config");
    let xdg = |args: &[&str]| rpc(&stage, args).env("XDG_CONFIG_HOME", config.to_str().unwrap());
    let add = ["context", "add", "dev", stage.url(), "--use"];
    xdg(&add).run().await.exits(0);
    let file = config.join("rpc/contexts.json");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    xdg(&["list"]).run().await.exits(0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
    for args in [&["list"][..], &["context", "list"]] {
        let refused = xdg(args).run().await.exits(1).says("chmod 600");
        refused.says("contexts.json");
    }
}

#[tokio::test]
async fn programs_that_save_at_the_same_time_lose_nothing() {
    let stage = Stage::new().await;
    let names: Vec<_> = (0..8).map(|number| format!("c{number}")).collect();
    let adding = names.iter().map(|name| {
        let add = rpc(&stage, &["context", "add", name, "amqp://host"]);
        async move { add.run().await.exits(0) }
    });
    futures_util::future::join_all(adding).await;
    let list = rpc(&stage, &["context", "list", "--json"])
        .run()
        .await
        .exits(0);
    assert_eq!(list.json().as_array().unwrap().len(), names.len());
}

#[tokio::test]
async fn a_password_command_runs_for_each_connection() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let url = bare(&stage);
    let url = url.replace("amqp://", "amqp://guest@");
    let command = "echo ran >> runs.txt; cat password.txt";
    let add = [
        "context",
        "add",
        "test",
        &url,
        "--password-command",
        command,
        "--use",
    ];
    rpc(&stage, &add).run().await.exits(0);
    let ping = rpc(&stage, &["ping", "Shop", "--expect", "1"]);
    let failed = ping.run().await.exits(7).says("password.txt");
    failed.says("the password command");
    fs::write(stage.home().join("password.txt"), "wr0ng").unwrap();
    let refused = ping.run().await.exits(7);
    assert!(!refused.stderr.contains("wr0ng"), "{refused}");
    fs::write(stage.home().join("password.txt"), "guest\n").unwrap();
    ping.run().await.exits(0).quietly();
    let runs = fs::read_to_string(stage.home().join("runs.txt")).unwrap();
    assert_eq!(runs.lines().count(), 3, "{runs}");
}

#[tokio::test]
async fn certificates_are_read_from_files() {
    let authority = Authority::new();
    let server = authority.server_identity("localhost", &["localhost"]);
    let node = Node::builder()
        .tls_as(server, &authority)
        .conf("ssl_options.verify = verify_peer")
        .conf("ssl_options.fail_if_no_peer_cert = true")
        .start()
        .await;
    let home = tempfile::tempdir().unwrap();
    let client = authority.identity("ada", &["ada.example"]);
    for (file, text) in [
        ("ca.pem", node.ca_pem()),
        ("ada.pem", &client.certificate),
        ("ada.key", &client.key),
    ] {
        fs::write(home.path().join(file), text).unwrap();
    }
    let url = node.tls_url();
    let rpc = |args: &[&str]| Rpc::new(args, home.path());
    let files = ["--ca", "ca.pem", "--cert", "ada.pem", "--key", "ada.key"];
    let list = [&["list", "--url", &url], &files[..]].concat();
    rpc(&list).run().await.exits(0).says("no server answers");
    rpc(&list[..5]).run().await.exits(7);
    rpc(&list[..3]).run().await.exits(7).says("certificate");
    rpc(&list[..7]).run().await.exits(2).says("--key");

    let add = [&["context", "add", "tls", &url, "--use"], &files[..]].concat();
    rpc(&add).run().await.exits(0);
    rpc(&["list"])
        .run()
        .await
        .exits(0)
        .says("no server answers");
    let missing = rpc(&["list", "--ca", "none.pem"]).run().await.exits(1);
    missing.says("cannot read none.pem");
    let wrong = rpc(&["list", "--ca", "ada.key"]).run().await;
    assert!(matches!(wrong.code, Some(2)), "{wrong}");
}
