//! A private RabbitMQ node for a person or a script: `make broker`, `make broker-stop`.
//!
//! ```text
//! broker start             starts a node in the background, if none runs, and prints its URL and a rabbitmqctl command
//! broker stop              ends the node
//! broker run COMMAND…      runs a command with AMQP_URL set to a node that ends with it
//! ```
//!
//! A node lives as long as the process that owns it, so `start` leaves an owner process behind. The owner holds a lock on a file.
//! From the lock the next command knows whether a node runs, even if the owner was killed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, future, process};

use rpc_tests::broker::Node;

/// The script that runs `rabbitmqctl` against the node.
const TOOL: &str = "rabbitmqctl";

const POLL: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let outcome = match arguments.next().as_deref() {
        Some("start") => start(),
        Some("stop") => stop(),
        Some("own") => own(),
        Some("run") => run(&arguments.collect::<Vec<_>>()),
        _ => Err("usage: broker start | stop | run COMMAND…".into()),
    };
    outcome.unwrap_or_else(|problem| {
        eprintln!("{problem}");
        ExitCode::FAILURE
    })
}

type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn start() -> Outcome {
    let state = State::open()?;
    if state.is_owned()? {
        eprintln!("A RabbitMQ node runs already. End it with `make broker-stop`.");
    } else {
        state.clear()?;
        eprintln!(
            "Starting a private RabbitMQ node, which takes some seconds. End it with `make broker-stop`."
        );
        let mut owner = Command::new(env::current_exe()?)
            .arg("own")
            // A process group of its own, so that Ctrl-C in this terminal does not reach the owner.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(state.file("owner.log"))?)
            .stderr(File::options().append(true).open(state.file("owner.log"))?)
            .spawn()?;
        while !state.file("url").exists() {
            if owner.try_wait()?.is_some() && !state.is_owned()? {
                return Err(fs::read_to_string(state.file("owner.log"))?
                    .trim_end()
                    .into());
            }
            sleep(POLL);
        }
    }
    // Written after the script. The URL is the only line on the standard output, for programs that read it.
    let url = state.await_file("url")?;
    let tool = state.file(TOOL);
    eprintln!(
        "Query the node: {} list_queues name type messages",
        tool.display()
    );
    println!("{url}");
    Ok(ExitCode::SUCCESS)
}

fn stop() -> Outcome {
    let state = State::open()?;
    if !state.is_owned()? {
        eprintln!("No RabbitMQ node runs.");
        state.remove()?;
        return Ok(ExitCode::SUCCESS);
    }
    let owner = state.await_file("pid")?;
    // The shell's own `kill`: the program may be missing, and the standard library has no such function.
    Command::new("/bin/sh")
        .args(["-c", "kill \"$1\"", "kill", &owner])
        .status()?;
    // The node's watchdog cleans up after its owner.
    let limit = Instant::now() + Duration::from_secs(20);
    while state.is_owned()? || state.node(&owner).exists() {
        if Instant::now() > limit {
            return Err(format!("the node did not end; its owner is process {owner}").into());
        }
        sleep(POLL);
    }
    state.remove()?;
    eprintln!("The RabbitMQ node has ended.");
    Ok(ExitCode::SUCCESS)
}

/// Owns a node until killed. Started by `start`.
#[tokio::main(flavor = "current_thread")]
async fn own() -> Outcome {
    let state = State::open()?;
    state.lock.try_lock()?;
    let owner = process::id().to_string();
    state.write("pid", &owner)?;
    let node = Node::builder()
        .folder(state.node(&owner))
        .try_start()
        .await?;
    state.write(TOOL, &node.ctl_script())?;
    fs::set_permissions(state.file(TOOL), fs::Permissions::from_mode(0o700))?;
    state.write("url", &node.url())?;
    future::pending().await
}

#[tokio::main(flavor = "current_thread")]
async fn run(command: &[String]) -> Outcome {
    let (program, arguments) = command.split_first().ok_or("usage: broker run COMMAND…")?;
    let node = Node::builder().try_start().await?;
    let status = Command::new(program)
        .args(arguments)
        .env("AMQP_URL", node.url())
        .status();
    let status = status.map_err(|error| format!("cannot run {program}: {error}"))?;
    Ok(match status.code() {
        Some(0) => ExitCode::SUCCESS,
        code => ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
    })
}

/// The folder `.broker` of the workspace.
struct State {
    folder: PathBuf,
    /// Locked by the process that owns the node.
    lock: File,
}

impl State {
    fn open() -> io::Result<Self> {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.broker"));
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        let lock = File::options()
            .create(true)
            .append(true)
            .open(folder.join("lock"))?;
        Ok(Self { folder, lock })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of an owner's node. An earlier owner's folder may still be in the process of removal.
    fn node(&self, owner: &str) -> PathBuf {
        self.file(&format!("node-{owner}"))
    }

    fn is_owned(&self) -> io::Result<bool> {
        match self.lock.try_lock() {
            Ok(()) => self.lock.unlock().map(|()| false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Removes the files of an owner that was killed.
    fn clear(&self) -> io::Result<()> {
        ["url", "pid", TOOL]
            .iter()
            .try_for_each(|name| ignore_missing(fs::remove_file(self.file(name))))
    }

    fn remove(&self) -> io::Result<()> {
        ignore_missing(fs::remove_dir_all(&self.folder))
    }

    /// Writes a file atomically: readers see the whole text or no file.
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let unfinished = self.file("unfinished");
        let mut file = File::create(&unfinished)?;
        file.write_all(text.as_bytes())?;
        fs::rename(unfinished, self.file(name))
    }

    /// Waits for a file of the owner.
    fn await_file(&self, name: &str) -> io::Result<String> {
        loop {
            match fs::read_to_string(self.file(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_owned()? => {
                    sleep(POLL);
                }
                read => return read,
            }
        }
    }
}

fn ignore_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
