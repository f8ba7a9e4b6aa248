//! Programs that a test starts, reads from and ends.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A running program and the lines of its outputs. Dropping it kills the program.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    /// Unbounded: a test's programs print little and end with the test.
    lines: mpsc::UnboundedReceiver<String>,
    printed: Vec<String>,
}

impl Program {
    /// Maximum wait for a line or for the end of a program.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Starts a program with an empty standard input.
    ///
    /// # Panics
    ///
    /// If the program cannot be started.
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

    /// Waits until the program prints a line that contains `wanted`, and returns the line. Earlier lines are skipped.
    ///
    /// # Panics
    ///
    /// If the program ends first, or does not print the line within a minute.
    ///
    /// # Cancel safety
    ///
    /// Skipped lines are not seen again.
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
            Ok(None) => "ended without printing",
            Err(_) => "did not print within a minute:",
        };
        panic!(
            "{} {problem} {wanted:?}; it printed:\n{}",
            self.name,
            self.printed.join("\n")
        )
    }

    /// Waits until the program ends. Returns its status and all printed lines.
    ///
    /// # Panics
    ///
    /// If the program does not end within a minute.
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

    /// The process id of the program, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends SIGTERM to the program, unless it has ended.
    ///
    /// # Panics
    ///
    /// If there is no shell.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the signal.
    pub async fn terminate(&self) {
        self.signal("TERM").await;
    }

    /// Freezes the program until [`resume`](Self::resume): its connections stay open.
    ///
    /// # Panics
    ///
    /// If there is no shell.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the pause.
    pub async fn pause(&self) {
        self.signal("STOP").await;
    }

    /// Resumes a paused program.
    ///
    /// # Panics
    ///
    /// If there is no shell.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the program from resuming.
    pub async fn resume(&self) {
        self.signal("CONT").await;
    }

    async fn signal(&self, name: &str) {
        let Some(pid) = self.pid() else { return };
        // The shell's own `kill`: the standard library has none.
        let asked = Command::new("/bin/sh")
            .args(["-c", "kill -\"$1\" \"$2\"", "kill", name, &pid.to_string()])
            .status();
        asked.await.expect("a shell");
    }

    /// Kills the program and waits for its end.
    ///
    /// # Panics
    ///
    /// If the system refuses.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the kill.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a child can be killed");
    }
}

/// A command that runs a Python program with the AMQP client pika. The path of the program is relative to the folder `tests`.
///
/// # Panics
///
/// With advice if pika is not installed.
#[must_use]
pub fn pika(script: &str) -> Command {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter = tests.join(".venv/bin/python");
    assert!(
        interpreter.exists(),
        "pika is not installed: run `make pika` or `make test`"
    );
    let mut command = Command::new(interpreter);
    command.arg(tests.join(script));
    command
}

async fn forward(output: impl AsyncRead + Unpin, printer: mpsc::UnboundedSender<String>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // The receiver may have been dropped.
        let _ = printer.send(line);
    }
}

/// The peak memory of a process in bytes. `process` is its id, or `self`.
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
