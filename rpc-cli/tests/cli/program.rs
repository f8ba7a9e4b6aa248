//! The program, with a clean environment and a bounded wait.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// The longest wait for a line or for the end of the program.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program, prepared: its arguments, its environment, its input.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    input: Vec<u8>,
    folder: PathBuf,
}

impl Rpc {
    /// Prepares the program with `home` as its home and its working folder.
    pub(crate) fn new(arguments: &[&str], home: &Path) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        let home_variable = home.to_string_lossy().into_owned();
        Self {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            environment: vec![
                ("PATH".to_owned(), path),
                ("HOME".to_owned(), home_variable),
            ],
            input: Vec::new(),
            folder: home.to_owned(),
        }
    }

    /// Sets a variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a variable from the environment, such as RPC_URL.
    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self
    }

    /// Sets the bytes that the program reads from its standard input. Default: none.
    pub(crate) fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    pub(crate) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The program and its arguments as a user types them.
    pub(crate) fn typed(&self) -> String {
        let quoted = self.arguments.iter().map(|argument| {
            let is_plain =
                |c: char| c.is_ascii_alphanumeric() || "-_=.,:/@%+".contains(c) || !c.is_ascii();
            match !argument.is_empty() && argument.chars().all(is_plain) {
                true => argument.clone(),
                false => format!("'{argument}'"),
            }
        });
        let words: Vec<_> = ["rpc".to_owned()].into_iter().chain(quoted).collect();
        words.join(" ")
    }

    /// Starts the program. Its input stays open until [`Running::end`].
    pub(crate) fn start(&self) -> Running {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rpc"))
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Running {
            typed: self.typed(),
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            stderr: child.stderr.take().unwrap(),
            child,
        }
    }

    /// Runs the program to its end.
    pub(crate) async fn run(&self) -> Outcome {
        let mut running = self.start();
        running.write(&self.input).await;
        running.end().await
    }
}

/// The program while it runs. Dropping it kills the program.
#[derive(Debug)]
pub(crate) struct Running {
    typed: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
}

impl Running {
    /// Writes to the program's input. A program that does not read any more is no failure.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        // The program may have ended.
        let _ = stdin.write_all(bytes).await;
        let _ = stdin.flush().await;
    }

    /// Waits for the next line of the program's standard output, without its end; `None` at the end of the output.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let reading = self.stdout.read_line(&mut line);
        let read = timeout(PATIENCE, reading).await;
        let read = read.unwrap_or_else(|_| panic!("{} prints no further line", self.typed));
        (read.unwrap() > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// Reads standard error until it has this text. The outcome of the program has the rest of standard error.
    pub(crate) async fn until_said(&mut self, text: &str) {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(text) {
            let reading = timeout(PATIENCE, self.stderr.read_buf(&mut said)).await;
            let so_far = String::from_utf8_lossy(&said);
            let read = reading.unwrap_or_else(|_| panic!("{} only said {so_far}", self.typed));
            assert!(read.unwrap() > 0, "{} only said {so_far}", self.typed);
        }
    }

    /// Sends a signal, such as `INT` or `TERM`.
    pub(crate) async fn signal(&self, name: &str) {
        send_signal(name, self.child.id().unwrap()).await;
    }

    /// Kills the program, as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Closes the program's standard output, as `head` does after its last line. Returns the end of the program.
    pub(crate) async fn end_with_closed_output(self) -> Outcome {
        let Self {
            typed,
            mut child,
            stdin,
            stdout,
            mut stderr,
        } = self;
        drop((stdin, stdout));
        let mut said = String::new();
        let ending = async {
            stderr.read_to_string(&mut said).await.unwrap();
            child.wait().await.unwrap()
        };
        let status = timeout(PATIENCE, ending).await;
        let status = status.unwrap_or_else(|_| panic!("{typed} does not end"));
        Outcome {
            typed,
            code: status.code(),
            stdout: String::new(),
            stderr: said,
        }
    }

    /// Closes the program's input, and waits for its end. Returns the rest of the output.
    pub(crate) async fn end(mut self) -> Outcome {
        drop(self.stdin.take());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let ending = async {
            let reading = futures_util::future::join(
                self.stdout.read_to_string(&mut stdout),
                self.stderr.read_to_string(&mut stderr),
            );
            let (out, err) = reading.await;
            out.unwrap();
            err.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = timeout(PATIENCE, ending).await;
        let Ok(status) = status else {
            panic!(
                "{} does not end. stdout:\n{stdout}\nstderr:\n{stderr}",
                self.typed
            );
        };
        Outcome {
            typed: self.typed,
            code: status.code(),
            stdout,
            stderr,
        }
    }
}

/// Sends a signal to a process.
pub(crate) async fn send_signal(name: &str, pid: u32) {
    let pid = pid.to_string();
    let script = ["-c", "kill -\"$1\" \"$2\"", "kill", name, &pid];
    let sent = Command::new("/bin/sh").args(script).status().await;
    assert!(sent.unwrap().success(), "{name} was not sent");
}

/// The end of the program, and the text that it wrote.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The program and its arguments.
    pub(crate) typed: String,
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Asserts the exit code. The message of a failure has the whole output.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Asserts that nothing was written to standard error.
    #[track_caller]
    pub(crate) fn quietly(self) -> Self {
        assert_eq!(self.stderr, "", "{self}");
        self
    }

    /// Asserts that standard error has this text.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} is not in: {self}");
        self
    }

    /// Asserts that standard output has this text.
    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "{text:?} is not in: {self}");
        self
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Standard output as one JSON document in each line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        let lines = self.stdout.lines().map(serde_json::from_str);
        let lines: Result<_, _> = lines.collect();
        lines.unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Outcome {
    /// Writes the outcome as a terminal shows it, and the exit code.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            typed,
            code,
            stdout,
            stderr,
        } = self;
        writeln!(f, "$ {typed}")?;
        f.write_str(stdout)?;
        if !stderr.is_empty() {
            write!(f, "--- stderr\n{stderr}")?;
        }
        match code {
            Some(code) => writeln!(f, "--- exit code {code}"),
            None => writeln!(f, "--- ended by a signal"),
        }
    }
}
