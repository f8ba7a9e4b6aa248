//! The shell that a node runs under, so that nothing is left of the node when this process ends, even by `kill -9`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::sync::watch;

/// A running `watchdog.sh`. Dropping it ends the server and epmd, removes the folder, and waits until that is done.
#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Child,
    /// The pipe whose closing is the sign to clean up.
    orders: Mutex<Option<ChildStdin>>,
    news: watch::Receiver<News>,
}

/// What the shell has said so far.
#[derive(Debug, Default)]
struct News {
    /// The server's process, while it runs.
    server: Option<u32>,
    starts: u64,
    signals: u64,
}

impl Watchdog {
    /// Starts the shell, and the epmd if it is to have one. From here on `folder` is the shell's to remove.
    ///
    /// The shell and the server see `environment` and nothing else.
    pub(super) fn spawn(
        folder: &Path,
        epmd: Option<&PathBuf>,
        server: &Path,
        environment: &[(&str, impl AsRef<OsStr>)],
    ) -> io::Result<Self> {
        let script = folder.join("watchdog.sh");
        fs::write(&script, include_str!("watchdog.sh"))?;
        let mut shell = Command::new("/bin/sh")
            .args([script.as_path(), folder, server])
            .args(epmd)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            // A group of its own, so that Ctrl-C in a terminal ends the tests and leaves the shell to clean up.
            .process_group(0)
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

    /// Sends the server, if it runs, the signal of that name: `KILL`, `STOP`, …
    pub(super) async fn signal_server(&self, name: &str) -> io::Result<()> {
        let signals = self.news.borrow().signals;
        self.order(&format!("signal {name}"))?;
        self.wait_for(|news| news.signals > signals).await
    }

    /// The server's process id, while it runs.
    pub(super) fn server_pid(&self) -> Option<u32> {
        self.news.borrow().server
    }

    /// Returns once the server is gone, all its sockets included.
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
        // Nothing can be done about a shell that cannot be waited for.
        let _ = self.shell.wait();
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
