//! The RabbitMQ installation of this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::BrokerError;

/// The programs of a node.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    pub(super) server: PathBuf,
    pub(super) epmd: PathBuf,
    /// `setsid` of util-linux. Absent on macOS, where nodes start without a session of their own.
    pub(super) setsid: Option<PathBuf>,
}

impl Installation {
    /// Looks for RabbitMQ's own start script: first the path in `RABBITMQ_SERVER`, then the system's package, the usual places of
    /// other packages, and the search path.
    pub(super) fn find() -> Result<Self, BrokerError> {
        let server = match env::var_os("RABBITMQ_SERVER") {
            Some(named) => named_script(Path::new(&named))?,
            None => debian_package()
                .into_iter()
                .chain(USUAL_PLACES.iter().map(PathBuf::from))
                .chain(on_search_path("rabbitmq-server"))
                .find(|path| path.is_file() && !switches_user(path))
                .ok_or_else(|| {
                    BrokerError::new(
                        "RabbitMQ is not installed: run `make test`, which installs it, or set RABBITMQ_SERVER to the \
                         path of a rabbitmq-server script",
                    )
                })?,
        };
        let epmd = on_search_path("epmd").chain(beside_erl()).find(|path| path.is_file()).ok_or_else(|| {
            BrokerError::new(
                "Erlang's epmd, which RabbitMQ needs, is not on the search path: add Erlang's bin folder to PATH",
            )
        })?;
        let setsid = on_search_path("setsid").find(|path| path.is_file());
        Ok(Self {
            server,
            epmd,
            setsid,
        })
    }

    /// The path of a command-line tool of the server, such as `rabbitmqctl`.
    pub(super) fn tool(&self, name: &str) -> PathBuf {
        self.server.with_file_name(name)
    }
}

const USUAL_PLACES: [&str; 4] = [
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/usr/lib64/rabbitmq/bin/rabbitmq-server",
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
];

fn named_script(named: &Path) -> Result<PathBuf, BrokerError> {
    let problem = match fs::canonicalize(named) {
        Ok(path) if switches_user(&path) => {
            "a wrapper that switches to another user: name the script it runs"
        }
        Ok(path) if path.is_file() => return Ok(path),
        _ => "and there is no such file",
    };
    Err(BrokerError::new(format!(
        "RABBITMQ_SERVER names {}, {problem}",
        named.display()
    )))
}

fn debian_package() -> Option<PathBuf> {
    let listed = Command::new("dpkg")
        .args(["-L", "rabbitmq-server"])
        .output()
        .ok()?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    listed
        .lines()
        .find(|line| line.ends_with("/bin/rabbitmq-server"))
        .map(PathBuf::from)
}

/// Returns `true` for a wrapper script that runs the server as the user `rabbitmq` with the system's settings. Packages put
/// one on the search path; its broker is not the private one that a test needs.
fn switches_user(path: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|path| path.ends_with("rabbitmq-script-wrapper"))
        || fs::read_to_string(path)
            .is_ok_and(|script| script.contains("runuser") || script.contains("su rabbitmq"))
}

fn on_search_path(program: &str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Candidates beside `erl`: Erlang outside of the usual places links only `erl` to the search path.
fn beside_erl() -> impl Iterator<Item = PathBuf> {
    on_search_path("erl").filter_map(|erl| Some(fs::canonicalize(erl).ok()?.with_file_name("epmd")))
}
