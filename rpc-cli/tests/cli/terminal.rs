//! The program in a pseudo-terminal: the screen that it draws, and the keys that a user presses.

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::{Arc, Mutex};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::program::{PATIENCE, Rpc, send_signal};

/// Size of a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

impl Size {
    pub(crate) const USUAL: Self = Self {
        rows: 30,
        columns: 120,
    };

    fn of_pty(self) -> PtySize {
        PtySize {
            rows: self.rows,
            cols: self.columns,
            ..PtySize::default()
        }
    }

    /// Rows and columns.
    fn of_screen(self) -> (NonZero<u16>, NonZero<u16>) {
        let part = |cells| NonZero::new(cells).unwrap();
        (part(self.rows), part(self.columns))
    }
}

/// The program in a pseudo-terminal. Dropping it kills the program.
pub(crate) struct Terminal {
    typed: String,
    pty: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    child: Option<Box<dyn Child + Send + Sync>>,
    shared: Arc<Mutex<Shared>>,
    /// Grows with each piece of output; closed at the end of the output.
    changes: watch::Receiver<u64>,
}

struct Shared {
    parser: vt100::Parser,
    /// Everything that the program has written.
    written: Vec<u8>,
}

impl Terminal {
    /// Starts the program in a terminal of that size.
    pub(crate) fn start(rpc: &Rpc, size: Size) -> Self {
        let pair = native_pty_system().openpty(size.of_pty()).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_rpc"));
        command.args(rpc.arguments());
        command.env_clear();
        command.env("TERM", "xterm-256color");
        for (name, value) in rpc.environment() {
            command.env(name, value);
        }
        command.cwd(rpc.folder());
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let mut output = pair.master.try_clone_reader().unwrap();
        let keys = pair.master.take_writer().unwrap();
        let (rows, columns) = size.of_screen();
        let shared = Arc::new(Mutex::new(Shared {
            parser: vt100::Parser::new(rows, columns, 0),
            written: Vec::new(),
        }));
        let (changed, changes) = watch::channel(0);
        let reader = shared.clone();
        // Reads from a pseudo-terminal block. The thread ends with the program.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut bytes) {
                let mut shared = reader.lock().unwrap();
                shared.parser.process(&bytes[..len]);
                shared.written.extend_from_slice(&bytes[..len]);
                drop(shared);
                changed.send_modify(|count| *count += 1);
            }
        });
        Self {
            typed: rpc.typed(),
            pty: pair.master,
            keys,
            child: Some(child),
            shared,
            changes,
        }
    }

    /// Text on the screen, one line for each row, without spaces at their ends.
    pub(crate) fn screen(&self) -> String {
        self.shared.lock().unwrap().parser.screen().contents()
    }

    /// Returns `true` while the program uses the alternate screen.
    pub(crate) fn is_alternate(&self) -> bool {
        let shared = self.shared.lock().unwrap();
        shared.parser.screen().alternate_screen()
    }

    /// Returns `true` while the cursor is hidden.
    pub(crate) fn hides_cursor(&self) -> bool {
        self.shared.lock().unwrap().parser.screen().hide_cursor()
    }

    /// Everything that the program has written, with its escape sequences.
    pub(crate) fn written(&self) -> String {
        let shared = self.shared.lock().unwrap();
        String::from_utf8_lossy(&shared.written).into_owned()
    }

    /// Waits until the screen satisfies a condition, and returns its text.
    pub(crate) async fn wait(&mut self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let waiting = async {
            loop {
                self.changes.borrow_and_update();
                let screen = self.screen();
                if is_so(&screen) {
                    return Some(screen);
                }
                // An error tells the end of the program's output.
                self.changes.changed().await.ok()?;
            }
        };
        let found = timeout(PATIENCE, waiting).await;
        let problem = match found {
            Ok(Some(screen)) => return screen,
            Ok(None) => "ended",
            Err(_) => "did not draw it within a minute",
        };
        panic!("{what}: {} {problem}:\n{}", self.typed, self.screen())
    }

    /// Waits until the screen has this text, and returns the screen.
    pub(crate) async fn wait_for(&mut self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text)).await
    }

    /// Types keys, such as `q` or `\x03` for Ctrl-C.
    pub(crate) fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Changes the size of the terminal.
    pub(crate) fn resize(&mut self, size: Size) {
        let mut shared = self.shared.lock().unwrap();
        let (rows, columns) = size.of_screen();
        shared.parser.screen_mut().set_size(rows, columns);
        drop(shared);
        self.pty.resize(size.of_pty()).unwrap();
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.as_ref().and_then(|child| child.process_id());
        send_signal(name, pid.unwrap()).await;
    }

    /// Waits for the end of the program, and returns its exit code.
    pub(crate) async fn end(&mut self) -> u32 {
        let mut child = self.child.take().unwrap();
        let mut killer = child.clone_killer();
        let ending = tokio::task::spawn_blocking(move || child.wait());
        match timeout(PATIENCE, ending).await {
            Ok(status) => {
                // The reader sees the end after the last output.
                while self.changes.changed().await.is_ok() {}
                status.unwrap().unwrap().exit_code()
            }
            Err(_) => {
                // The wait above ends after that.
                let _ = killer.kill();
                panic!("{} does not end:\n{}", self.typed, self.screen())
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The program may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
