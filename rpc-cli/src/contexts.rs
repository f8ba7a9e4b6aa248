//! Saved connections, in one file below the user's configuration folder.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use etcetera::BaseStrategy;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::failure::{Exit, Failure};

/// All saved connections.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Contexts {
    /// Name of the context that is used without another choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// A saved connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Context {
    /// URL without user and password, so that showing it gives nothing away.
    pub(crate) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<Secret>,
    /// A command for the shell, whose first line of output is the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password_command: Option<String>,
    #[serde(flatten)]
    pub(crate) certificates: Certificates,
}

/// Files of certificates for `amqps` URLs, as PEM.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Certificates {
    /// File of the authorities that are trusted beside those of the system (PEM).
    #[arg(long, value_name = "FILE", global = true)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,

    /// File of the client's certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "key", global = true)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cert: Option<PathBuf>,

    /// File of the private key of the client's certificate (PEM, without a passphrase).
    #[arg(long, value_name = "FILE", requires = "cert", global = true)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
}

impl Certificates {
    /// Returns these files, and the other ones where there are none.
    pub(crate) fn or(self, other: Self) -> Self {
        let (cert, key) = match self.cert.is_some() {
            true => (self.cert, self.key),
            false => (other.cert, other.key),
        };
        Self {
            ca: self.ca.or(other.ca),
            cert,
            key,
        }
    }

    /// Makes the paths independent of the working folder.
    pub(crate) fn absolute(self) -> io::Result<Self> {
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        Ok(Self {
            ca: absolute(self.ca)?,
            cert: absolute(self.cert)?,
            key: absolute(self.key)?,
        })
    }
}

/// A password. `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Context {
    /// Takes a URL apart. The messages of failures have no part of it, because any part may hold a password.
    pub(crate) fn from_url(text: &str) -> Result<Self, Failure> {
        let form = "write it as amqp://user@host:5672/vhost or amqps://…; characters such as @, : and / of a user or a password are written as %40, \
                    %3A and %2F";
        let mut url = Url::parse(text)
            .map_err(|error| Failure::usage(format!("the URL is invalid ({error}): {form}")))?;
        if !matches!(url.scheme(), "amqp" | "amqps") || url.host().is_none() {
            return Err(Failure::usage(format!(
                "the URL names no RabbitMQ broker: {form}"
            )));
        }
        let decoded = |part: &str| {
            let part = percent_decode_str(part).decode_utf8();
            part.map(std::borrow::Cow::into_owned).map_err(|_| {
                Failure::usage(format!("the user or the password is no UTF-8: {form}"))
            })
        };
        let user = Some(url.username()).filter(|user| !user.is_empty());
        let user = user.map(decoded).transpose()?;
        let password = url.password().map(decoded).transpose()?.map(Secret);
        // Neither fails for a URL with a host.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        Ok(Self {
            url: url.into(),
            user,
            password,
            password_command: None,
            certificates: Certificates::default(),
        })
    }

    /// Returns `true` if the certificate is the login: the URL says `auth_mechanism=external`.
    pub(crate) fn is_external(&self) -> bool {
        let url = self.url.to_ascii_lowercase();
        url.contains("auth_mechanism=external")
    }
}

impl Contexts {
    /// Returns the context of that name.
    pub(crate) fn named(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| self.unknown(name))
    }

    pub(crate) fn unknown(&self, name: &str) -> Failure {
        let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
        let known = match known.as_slice() {
            [] => "none is saved; `rpc context add` saves one".to_owned(),
            known => format!("saved are: {}", known.join(", ")),
        };
        Failure::usage(format!("there is no context '{name}': {known}"))
    }

    fn holds_passwords(&self) -> bool {
        self.contexts
            .values()
            .any(|context| context.password.is_some())
    }
}

/// The file of the saved connections.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    /// The file of this user. XDG_CONFIG_HOME names another folder than `~/.config`.
    pub(crate) fn of_user() -> Result<Self, Failure> {
        let strategy = etcetera::choose_base_strategy().map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("there is no folder for saved connections ({error}): set HOME or XDG_CONFIG_HOME"),
            )
        })?;
        Ok(Self {
            folder: strategy.config_dir().join("rpc"),
        })
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("contexts.json")
    }

    /// Reads the file. Without one, no connections are saved.
    pub(crate) fn load(&self) -> Result<Contexts, Failure> {
        let path = self.file();
        let shown = path.display();
        let failed = |what: String| Failure::new(Exit::Failed, format!("{shown}: {what}"));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(error) => return Err(failed(error.to_string())),
        };
        let text = io::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
        let contexts: Contexts = serde_json::from_str(&text).map_err(|error| {
            // Messages of serde may have parts of the text, so only the place is told.
            failed(format!(
                "cannot be read as saved connections: line {}, column {}",
                error.line(),
                error.column()
            ))
        })?;
        let is_open = is_open_to_others(&file).map_err(|error| failed(error.to_string()))?;
        if contexts.holds_passwords() && is_open {
            return Err(failed(format!(
                "the file holds passwords, and other users may read it: run `chmod 600 {shown}`, and change the passwords if others may have \
                 read them"
            )));
        }
        Ok(contexts)
    }

    /// Changes the saved connections. Programs that change them at the same time wait for each other, and a reader sees the file before or
    /// after a change.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut Contexts) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let failed = |error: io::Error| {
            let folder = self.folder.display();
            Failure::new(
                Exit::Failed,
                format!("cannot save connections in {folder}: {error}"),
            )
        };
        fs::create_dir_all(&self.folder).map_err(failed)?;
        // The lock has a file of its own, because a change replaces the file of the connections. It ends with `lock`.
        let lock = private(OpenOptions::new().create(true).truncate(false).write(true))
            .open(self.folder.join("contexts.lock"))
            .map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut contexts = self.load()?;
        let value = change(&mut contexts)?;
        self.replace(&contexts).map_err(failed)?;
        Ok(value)
    }

    fn replace(&self, contexts: &Contexts) -> io::Result<()> {
        let next = self.folder.join("contexts.json.new");
        // One of a program that was killed may have other permissions.
        match fs::remove_file(&next) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = private(OpenOptions::new().create_new(true).write(true)).open(&next)?;
        let text = serde_json::to_string_pretty(contexts)? + "\n";
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, self.file())
    }
}

/// Makes a new file one that only its owner may read and write.
#[cfg(unix)]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

#[cfg(not(unix))]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

#[cfg(unix)]
fn is_open_to_others(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(file.metadata()?.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &File) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store {
            folder: folder.path().join("rpc"),
        };
        (folder, store)
    }

    fn add(store: &Store, name: &str, url: &str) {
        let context = Context::from_url(url).unwrap();
        let added = store.change(|contexts| Ok(contexts.contexts.insert(name.to_owned(), context)));
        added.unwrap();
    }

    #[test]
    fn a_url_is_taken_apart() {
        let context =
            Context::from_url("amqps://a%40b:p%3A%2Fs@host:5671/%2Fv?heartbeat=5").unwrap();
        assert_eq!(context.url, "amqps://host:5671/%2Fv?heartbeat=5");
        assert_eq!(context.user.as_deref(), Some("a@b"));
        assert_eq!(context.password, Some(Secret("p:/s".to_owned())));
        assert!(!format!("{context:?}").contains("p:/s"));
        let plain = Context::from_url("amqp://host").unwrap();
        assert_eq!((plain.user, plain.password), (None, None));
    }

    #[test]
    fn failures_of_urls_have_no_part_of_the_url() {
        for url in [
            "s3cret",
            "http://s3cret@host",
            "amqp://s3cret:s3cret:s3cret",
            "amqp:s3cret",
            "amqp://u:s3cret@",
            "amqp://u:s3cret@[host/",
            "amqp://%FF:s3cret@host",
        ] {
            let failure = Context::from_url(url).expect_err(url);
            assert!(
                !failure.message().contains("s3cret"),
                "{}",
                failure.message()
            );
            assert_eq!(failure.exit(), Exit::Usage);
        }
    }

    #[test]
    fn changes_at_the_same_time_lose_nothing() {
        let (_folder, store) = store();
        std::thread::scope(|scope| {
            for number in 0..16 {
                let store = &store;
                scope.spawn(move || add(store, &format!("c{number}"), "amqp://host"));
            }
        });
        assert_eq!(store.load().unwrap().contexts.len(), 16);
        let left: Vec<_> = fs::read_dir(&store.folder)
            .unwrap()
            .map(|it| it.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "the file and the lock: {left:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_with_passwords_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, store) = store();
        add(&store, "prod", "amqp://u:s3cret@host");
        let mode =
            |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.file()), 0o600);
        let open = || fs::set_permissions(store.file(), fs::Permissions::from_mode(0o640)).unwrap();
        open();
        let failure = store.load().unwrap_err();
        assert!(
            failure.message().contains("chmod 600"),
            "{}",
            failure.message()
        );
        assert!(
            !failure.message().contains("s3cret"),
            "{}",
            failure.message()
        );
        fs::set_permissions(store.file(), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(store.load().unwrap().contexts.len(), 1);
        // Without a password, there is nothing to hide.
        add(&store, "prod", "amqp://host");
        open();
        assert_eq!(store.load().unwrap().contexts.len(), 1);
    }

    #[test]
    fn a_file_that_is_broken_is_told_without_its_contents() {
        let (_folder, store) = store();
        add(&store, "prod", "amqp://host");
        fs::write(store.file(), "{\"contexts\": {\"prod\": \"s3cret\"}}").unwrap();
        let failure = store.load().unwrap_err();
        assert!(
            failure.message().contains("line 1, column"),
            "{}",
            failure.message()
        );
        assert!(
            !failure.message().contains("s3cret"),
            "{}",
            failure.message()
        );
    }

    #[test]
    fn a_temporary_file_of_a_killed_program_does_no_harm() {
        let (_folder, store) = store();
        add(&store, "a", "amqp://host");
        fs::write(store.folder.join("contexts.json.new"), "half").unwrap();
        add(&store, "b", "amqp://host");
        assert_eq!(store.load().unwrap().contexts.len(), 2);
    }
}
