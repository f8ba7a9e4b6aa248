//! From the options, the environment and the saved connections to an open connection.

use std::process::Stdio;
use std::sync::Arc;

use rpc_core::{Connection, ConnectionBuilder, Credentials};
use tokio::process::Command;

use crate::cli::Global;
use crate::contexts::{Certificates, Context, Contexts, Store};
use crate::failure::Failure;
use crate::files;

/// Text of the help: the choice of the broker.
pub(crate) const PRECEDENCE: &str = "\
The broker is that of the first of these that is set: --url, --context, the variables RPC_URL, RPC_CONTEXT and AMQP_URL, and the context \
of `rpc context use`. Other users of the machine may see the arguments of a program, so keep passwords out of --url: save them with `rpc \
context add`, or set RPC_URL.";

/// The name of the connections that the program opens.
const NAME: &str = "rpc";

/// Choice of a broker.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Url(String),
    Context(String),
    /// The context of `rpc context use`.
    Current,
}

/// Chooses among the options and the variables of the environment, of which empty ones count as not set.
fn choose(global: &Global, variable: impl Fn(&str) -> Option<String>) -> Choice {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    None.or_else(|| global.url.clone().map(Choice::Url))
        .or_else(|| global.context.clone().map(Choice::Context))
        .or_else(|| variable("RPC_URL").map(Choice::Url))
        .or_else(|| variable("RPC_CONTEXT").map(Choice::Context))
        .or_else(|| variable("AMQP_URL").map(Choice::Url))
        .unwrap_or(Choice::Current)
}

/// Opens a connection to the broker that is chosen.
pub(crate) async fn connect(global: &Global) -> Result<Connection, Failure> {
    let choice = choose(global, |name| std::env::var(name).ok());
    let (builder, certificates) = match choice {
        Choice::Url(url) => (of_url(url)?, Certificates::default()),
        Choice::Context(name) => of_context(Store::of_user()?.load()?.named(&name)?)?,
        Choice::Current => of_context(current(&Store::of_user()?.load()?)?)?,
    };
    let certificates = global.certificates.clone().or(certificates);
    let builder = with_certificates(builder, &certificates)?;
    Ok(builder.name(NAME).open().await?)
}

/// Returns the URL of the broker that is chosen.
pub(crate) fn url(global: &Global) -> Result<String, Failure> {
    match choose(global, |name| std::env::var(name).ok()) {
        Choice::Url(url) => Ok(url),
        Choice::Context(name) => Ok(Store::of_user()?.load()?.named(&name)?.url.clone()),
        Choice::Current => Ok(current(&Store::of_user()?.load()?)?.url.clone()),
    }
}

fn current(contexts: &Contexts) -> Result<&Context, Failure> {
    match &contexts.current {
        Some(name) => contexts.named(name),
        None => Err(Failure::usage(
            "no broker is named: set --url or the variable RPC_URL to a URL such as amqp://user:password@host:5672/vhost, or save a connection \
             with `rpc context add NAME URL --use`",
        )),
    }
}

fn of_url(url: String) -> Result<ConnectionBuilder, Failure> {
    if url.starts_with("memory:") {
        return Err(Failure::usage(
            "memory: names a broker inside one program, which no other program reaches: name a RabbitMQ broker, such as \
             amqp://user:password@host:5672/vhost",
        ));
    }
    Ok(Connection::builder(url))
}

fn of_context(context: &Context) -> Result<(ConnectionBuilder, Certificates), Failure> {
    let mut builder = of_url(context.url.clone())?;
    if let Some(user) = context.user.clone() {
        let password = context.password.clone().map(|password| password.0);
        let command = context.password_command.clone();
        // The callback is cloned for each connection, so its state is shared.
        let login = Arc::new((user, password, command));
        builder = builder.credentials(async move || {
            let (user, password, command) = &*login;
            let password = match (password, command) {
                (_, Some(command)) => password_of(command).await?,
                (Some(password), None) => password.clone(),
                (None, None) => return Err(PasswordError::None),
            };
            Ok(Credentials::new(user.clone(), password))
        });
    }
    Ok((builder, context.certificates.clone()))
}

fn with_certificates(
    mut builder: ConnectionBuilder,
    files: &Certificates,
) -> Result<ConnectionBuilder, Failure> {
    if let Some(ca) = &files.ca {
        builder = builder.root_certificates(files::read(ca)?);
    }
    if let (Some(cert), Some(key)) = (&files.cert, &files.key) {
        builder = builder.identity(files::read(cert)?, files::read(key)?);
    }
    Ok(builder)
}

/// Runs a password command, and returns the first line of its output.
async fn password_of(command: &str) -> Result<String, PasswordError> {
    let failed = |reason: String| PasswordError::Command {
        command: command.to_owned(),
        reason,
    };
    let output = shell(command)
        // The input belongs to the command of `rpc`, such as `rpc call … -`.
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("{}: {}", output.status, said.trim())));
    }
    let text = String::from_utf8(output.stdout)
        .map_err(|_| failed("its output is no UTF-8".to_owned()))?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err(failed(
            "its output has no password in the first line".to_owned(),
        )),
    }
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]);
    shell
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.args(["/C", command]);
    shell
}

/// Reason for a missing password.
#[derive(Debug, thiserror::Error)]
enum PasswordError {
    #[error("the password command `{command}` failed: {reason}")]
    Command { command: String, reason: String },
    #[error(
        "the context has a user and no password: add it again with --password-stdin or --password-command"
    )]
    None,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_first_choice_that_is_set_counts() {
        // From the last choice to the first.
        let steps = [
            ("", "", Choice::Current),
            ("AMQP_URL", "a", Choice::Url("a".to_owned())),
            ("RPC_CONTEXT", "b", Choice::Context("b".to_owned())),
            ("RPC_URL", "c", Choice::Url("c".to_owned())),
            ("--context", "d", Choice::Context("d".to_owned())),
            ("--url", "e", Choice::Url("e".to_owned())),
        ];
        for set in 1..=steps.len() {
            let (_, _, expected) = &steps[set - 1];
            let set = &steps[..set];
            let options = set.iter().filter(|(name, ..)| name.starts_with("--"));
            let options = options.flat_map(|(name, value, _)| [*name, *value]);
            let cli = Cli::parse_from(["rpc"].into_iter().chain(options).chain(["list"]));
            let chosen = choose(&cli.global, |name| {
                let found = set.iter().find(|(other, ..)| *other == name);
                found.map(|(_, value, _)| (*value).to_owned())
            });
            assert_eq!(&chosen, expected);
        }
        let cli = Cli::parse_from(["rpc", "list"]);
        assert_eq!(
            choose(&cli.global, |_| Some(String::new())),
            Choice::Current
        );
    }

    #[tokio::test]
    async fn a_password_is_the_first_line_of_a_command() {
        assert_eq!(password_of("printf 'a b \\nc'").await.unwrap(), "a b ");
        for (command, reason) in [
            ("echo no entry >&2; exit 3", "exit status: 3: no entry"),
            ("true", "no password in the first line"),
            ("echo; echo s3cret", "no password in the first line"),
            ("printf '\\377'", "no UTF-8"),
        ] {
            let error = password_of(command).await.unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(command), "{error}");
        }
    }
}
