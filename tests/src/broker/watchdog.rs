//! The shell that runs a node and cleans up after this process ends, even after `kill -9`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::sync::watch;

use super::installation::Installation;

/// A running `watchdog.sh`. Dropping it ends the server and epmd, removes the folder, and waits for that.
#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Child,
    /// The pipe for orders. Closing it makes the shell clean up.
    orders: Mutex<Option<ChildStdin>>,
    news: watch::Receiver<News>,
}

/// The reports of the shell so far.
#[derive(Debug, Default)]
struct News {
    /// The process id of the server, while it runs.
    server: Option<u32>,
    starts: u64,
    signals: u64,
}

impl Watchdog {
    /// Starts the shell, and an epmd if the node needs one. From then on the shell owns `folder`.
    ///
    /// The environment of the shell and of the server is `environment` alone.
    pub(super) fn spawn(
        folder: &Path,
        installation: &Installation,
        with_epmd: bool,
        environment: &[(&str, impl AsRef<OsStr>)],
    ) -> io::Result<Self> {
        let script = folder.join("watchdog.sh");
        fs::write(&script, include_str!("watchdog.sh"))?;
        let mut shell = shell_in_new_session(installation)
            .args([script.as_path(), folder, &installation.server])
            .args(with_epmd.then_some(&installation.epmd))
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("log/watchdog.err"))?)
            .spawn()?;
        let orders = Mutex::new(shell.stdin.take());
        let (teller, news) = watch::channel(News::default());
        if let Some(answers) = shell.stdout.take() {
            // A plain thread, because a node outlives the runtime of the test that started it.
            thread::Builder::new()
                .name("watchdog".into())
                .spawn(move || listen(answers, &teller))?;
        }
        Ok(Self {
            shell,
            orders,
            news,
        })
    }

    /// Starts the server, which must not be running.
    pub(super) async fn start_server(&self) -> io::Result<()> {
        let starts = self.news.borrow().starts;
        self.order("start")?;
        self.wait_for(|news| news.starts > starts).await
    }

    /// Sends a signal to the server if it runs: `KILL`, `STOP`, …
    pub(super) async fn signal_server(&self, name: &str) -> io::Result<()> {
        let signals = self.news.borrow().signals;
        self.order(&format!("signal {name}"))?;
        self.wait_for(|news| news.signals > signals).await
    }

    /// The process id of the server, while it runs.
    pub(super) fn server_pid(&self) -> Option<u32> {
        self.news.borrow().server
    }

    /// Returns after the server has ended and all its sockets are closed.
    pub(super) async fn server_ended(&self) -> io::Result<()> {
        self.wait_for(|news| news.server.is_none()).await
    }

    fn order(&self, order: &str) -> io::Result<()> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        match orders.as_mut() {
            Some(pipe) => pipe.write_all(format!("{order}\n").as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    async fn wait_for(&self, mut is_so: impl FnMut(&News) -> bool) -> io::Result<()> {
        match self.news.clone().wait_for(|news| is_so(news)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other("the node's watchdog shell is gone")),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(
            self.orders
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        // There is no remedy for a shell that cannot be waited for.
        let _ = self.shell.wait();
    }
}

/// A shell in a session of its own, so that Ctrl-C in a terminal ends the tests and leaves the shell to clean up.
///
/// Linux divides processor time among sessions before it divides a session's time among its processes, except in control
/// groups of their own. The threads of a starting node wait for each other. In a session with two busy processes they get
/// so little time that a start takes minutes instead of seconds.
fn shell_in_new_session(installation: &Installation) -> Command {
    const SHELL: &str = "/bin/sh";
    match &installation.setsid {
        // `setsid` forks only if it leads a process group, and a new process leads none. It becomes the shell, with the
        // process id that `Child` waits for.
        Some(setsid) => {
            let mut command = Command::new(setsid);
            command.arg(SHELL);
            command
        }
        // The standard library cannot start sessions. A process group keeps Ctrl-C away as well. macOS has no `setsid` and
        // does not divide time among sessions.
        None => {
            let mut command = Command::new(SHELL);
            command.process_group(0);
            command
        }
    }
}

fn listen(answers: ChildStdout, teller: &watch::Sender<News>) {
    for line in BufReader::new(answers).lines().map_while(Result::ok) {
        teller.send_modify(|news| match line.split_once(' ') {
            Some(("started", pid)) => {
                news.server = pid.parse().ok();
                news.starts += 1;
            }
            Some(("ended", _)) => news.server = None,
            _ => news.signals += 1,
        });
    }
}
