//! `rpc help`, `rpc man` and `rpc completions`: they need no broker.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::program::{Outcome, Rpc};

/// Runs the program without any setting.
async fn run(arguments: &[&str], home: &Path) -> Outcome {
    Rpc::new(arguments, home).run().await
}

#[tokio::test]
async fn the_help_tells_the_exit_codes() {
    let home = tempfile::tempdir().unwrap();
    let help = run(&["help", "exit-codes"], home.path())
        .await
        .exits(0)
        .quietly();
    let printed = run(&["exit-codes"], home.path()).await.exits(0).quietly();
    assert!(help.stdout.contains(printed.stdout.trim()), "{help}");
    printed.snapshot("help/exit-codes");
    let help = run(&["help"], home.path()).await.exits(0).quietly();
    help.snapshot("help/rpc");
    let words: Vec<_> = help.stdout.split_whitespace().collect();
    let order = "--url, --context, the variables RPC_URL, RPC_CONTEXT and AMQP_URL";
    assert!(words.join(" ").contains(order), "{help}");
    run(&[], home.path()).await.exits(2).says("Usage: rpc");
    run(&["lst"], home.path()).await.exits(2).says("list");
}

#[tokio::test]
async fn every_command_has_a_page_of_the_manual() {
    let home = tempfile::tempdir().unwrap();
    let page = run(&["man"], home.path()).await.exits(0).quietly();
    assert!(page.stdout.contains(".TH rpc 1"), "{page}");
    assert!(page.stdout.contains("rpc\\-list(1)"), "{page}");
    let args = ["man", "--dir", "share/man1"];
    run(&args, home.path()).await.exits(0).quietly();
    for command in [
        "rpc",
        "rpc-list",
        "rpc-describe",
        "rpc-ping",
        "rpc-stats",
        "rpc-top",
        "rpc-context-add",
    ] {
        let page = home.path().join(format!("share/man1/{command}.1"));
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!(text.contains(".TH "), "{text}");
    }
    fs::write(home.path().join("file"), "").unwrap();
    let failed = run(&["man", "--dir", "file/x"], home.path()).await.exits(1);
    failed.says("cannot write file/x");
}

#[tokio::test]
async fn shells_accept_their_completions() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completions", shell], home.path()).await;
        let script = script.exits(0).quietly();
        assert!(script.stdout.contains("describe"), "{script}");
        let file = home.path().join(shell);
        fs::write(&file, &script.stdout).unwrap();
        // `-n` reads a script without running it. A machine may lack a shell other than bash.
        if shell == "bash" {
            let checked = Command::new(shell).arg("-n").arg(&file).output().unwrap();
            assert!(checked.status.success(), "{checked:?}");
        }
    }
    run(&["completions", "tcsh"], home.path())
        .await
        .exits(2)
        .says("possible values");
}
