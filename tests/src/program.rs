//! Programs that a test starts, listens to, and ends.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A running program whose lines, of both its outputs, a test waits for. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    /// Unbounded, but the programs of a test print little and end with it.
    lines: mpsc::UnboundedReceiver<String>,
    printed: Vec<String>,
}

impl Program {
    /// How long a line or the end of a program is waited for.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Starts it, with nothing to read on its standard input.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let name = format!("{:?}", command.as_std());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (printer, lines) = mpsc::unbounded_channel();
        tokio::spawn(forward(
            child.stdout.take().expect("a piped output"),
            printer.clone(),
        ));
        tokio::spawn(forward(
            child.stderr.take().expect("a piped output"),
            printer,
        ));
        Self {
            name,
            child,
            lines,
            printed: Vec::new(),
        }
    }

    /// Waits until it prints a line with this in it, and returns the line. Lines before it are passed over.
    ///
    /// # Panics
    ///
    /// When it ends first, or does not print it within a minute.
    ///
    /// # Cancel safety
    ///
    /// Lines that were passed over are not seen again.
    pub async fn line(&mut self, wanted: &str) -> String {
        let found = timeout(Self::PATIENCE, async {
            loop {
                let line = self.lines.recv().await?;
                self.printed.push(line.clone());
                if line.contains(wanted) {
                    return Some(line);
                }
            }
        });
        let problem = match found.await {
            Ok(Some(line)) => return line,
            Ok(None) => "ended and did not print",
            Err(_) => "did not within a minute print",
        };
        panic!(
            "{} {problem} {wanted:?}; it printed:\n{}",
            self.name,
            self.printed.join("\n")
        )
    }

    /// Waits until it ends, and returns how, with all the lines it has printed.
    ///
    /// # Panics
    ///
    /// When it does not end within a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the program.
    pub async fn end(mut self) -> (ExitStatus, Vec<String>) {
        let ended = timeout(Self::PATIENCE, async {
            while let Some(line) = self.lines.recv().await {
                self.printed.push(line);
            }
            self.child.wait().await.expect("a child can be waited for")
        });
        match ended.await {
            Ok(status) => (status, self.printed),
            Err(_) => panic!(
                "{} did not end within a minute; it printed:\n{}",
                self.name,
                self.printed.join("\n")
            ),
        }
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks it to end, with SIGTERM, unless it has ended already.
    ///
    /// # Panics
    ///
    /// When there is no shell to ask with.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not keep it from being asked.
    pub async fn terminate(&self) {
        let Some(pid) = self.pid() else { return };
        // The shell's own `kill`: the standard library has none.
        let asked = Command::new("/bin/sh")
            .args(["-c", "kill -TERM \"$1\"", "kill", &pid.to_string()])
            .status();
        asked.await.expect("a shell");
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not keep it from being killed.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a child can be killed");
    }
}

/// A Python program that may use the AMQP client pika, its path given from the folder `tests`: a command to add
/// arguments to.
///
/// # Panics
///
/// With a sentence that says what to do when pika is not set up.
#[must_use]
pub fn pika(script: &str) -> Command {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter = tests.join(".venv/bin/python");
    assert!(
        interpreter.exists(),
        "pika is not set up: run `make pika`, or `make test`, which does it first"
    );
    let mut command = Command::new(interpreter);
    command.arg(tests.join(script));
    command
}

async fn forward(output: impl AsyncRead + Unpin, printer: mpsc::UnboundedSender<String>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Whoever started the program may have lost interest in it.
        let _ = printer.send(line);
    }
}

/// The most memory that a process has held, in bytes. `process` is its id, or `self`.
///
/// # Panics
///
/// If there is no such process, or no `/proc`.
#[must_use]
pub fn peak_memory(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a number of kilobytes") << 10
}
