//! Credentials of a user, and the program's callback that provides them.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::error::BoxError;

/// Name and password of a user of the broker, returned by the callback of
/// [`ConnectionBuilder::credentials`](crate::ConnectionBuilder::credentials).
///
/// `Debug` shows the name and hides the password.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use rpc_core::Credentials;
///
/// let for_an_hour = Credentials::new("payments", "s3cret").valid_for(Duration::from_secs(3600));
/// assert!(!format!("{for_an_hour:?}").contains("s3cret"));
/// ```
#[derive(Clone)]
pub struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) valid_for: Option<Duration>,
}

impl Credentials {
    /// Creates credentials from the name of a user, and a password or a token. Default: no time limit; [`valid_for`](Self::valid_for)
    /// sets one.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            password: password.into(),
            valid_for: None,
        }
    }

    /// Limits the time for which the credentials are valid, counted from the moment at which the callback returns them. The
    /// library calls the callback again after 80 % of that time, but at the earliest after 100 ms. Default: no limit.
    #[must_use]
    pub fn valid_for(mut self, lifetime: Duration) -> Self {
        self.valid_for = Some(lifetime);
        self
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("valid_for", &self.valid_for)
            .finish_non_exhaustive()
    }
}

/// Output of a credentials callback: [`Credentials`], or a [`Result`] of them with any error.
///
/// Sealed: no other type can implement this trait.
pub trait IntoCredentials: sealed::Sealed {
    #[doc(hidden)]
    fn into_credentials(self) -> Result<Credentials, BoxError>;
}

impl IntoCredentials for Credentials {
    fn into_credentials(self) -> Result<Credentials, BoxError> {
        Ok(self)
    }
}

impl<E: Into<BoxError>> IntoCredentials for Result<Credentials, E> {
    fn into_credentials(self) -> Result<Credentials, BoxError> {
        self.map_err(Into::into)
    }
}

mod sealed {
    use crate::credentials::Credentials;

    pub trait Sealed {}

    impl Sealed for Credentials {}

    impl<E> Sealed for Result<Credentials, E> {}
}

/// The credentials callback of a program.
#[derive(Clone)]
pub(crate) struct Provider(
    Arc<dyn Fn() -> BoxFuture<'static, Result<Credentials, BoxError>> + Send + Sync>,
);

impl Provider {
    /// Takes a closure, which is cloned for each call: an `async` closure with captures is `FnOnce`, but not `Fn`.
    pub(crate) fn new<P, F>(provider: P) -> Self
    where
        P: FnOnce() -> F + Clone + Send + Sync + 'static,
        F: Future<Output: IntoCredentials> + Send + 'static,
    {
        Self(Arc::new(move || {
            let provider = provider.clone();
            async move { provider().await.into_credentials() }.boxed()
        }))
    }

    /// Calls the callback, and waits at most for `limit`. A panic counts as a failure.
    pub(crate) async fn ask(&self, limit: Duration) -> Result<Credentials, BoxError> {
        let asking = AssertUnwindSafe((self.0)()).catch_unwind();
        match tokio::time::timeout(limit, asking).await {
            Ok(Ok(given)) => given,
            Ok(Err(_)) => Err("the callback panicked".into()),
            Err(_) => Err(format!("the callback did not return within {limit:?}").into()),
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn from_a_function() -> Credentials {
        Credentials::new("ada", "s3cret")
    }

    #[tokio::test]
    async fn all_kinds_of_closures_can_be_callbacks() {
        let password = Arc::new(std::sync::Mutex::new("s3cret".to_owned()));
        let [shared, cloned] = [password.clone(), password];
        let read = |password: &std::sync::Mutex<String>| password.lock().unwrap().clone();
        for provider in [
            Provider::new(from_a_function),
            Provider::new(async || Credentials::new("ada", "s3cret")),
            Provider::new(|| async { Credentials::new("ada", "s3cret") }),
            Provider::new(|| async { Ok::<_, fmt::Error>(Credentials::new("ada", "s3cret")) }),
            Provider::new(async move || Credentials::new("ada", read(&shared))),
            Provider::new(move || {
                let password = cloned.clone();
                async move { Ok::<_, BoxError>(Credentials::new("ada", read(&password))) }
            }),
        ] {
            let given = provider.ask(LIMIT).await.unwrap();
            assert_eq!((&*given.user, &*given.password), ("ada", "s3cret"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callbacks_can_fail_panic_and_time_out() {
        let failing = Provider::new(async || Err::<Credentials, _>("the vault is sealed"));
        let panicking = Provider::new(async || -> Credentials { panic!("never mind") });
        let hanging = Provider::new(std::future::pending::<Credentials>);
        for (provider, said) in [
            (failing, "the vault is sealed"),
            (panicking, "the callback panicked"),
            (hanging, "the callback did not return within 10s"),
        ] {
            assert_eq!(provider.ask(LIMIT).await.unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn passwords_are_not_printed() {
        let credentials = Credentials::new("ada", "s3cret").valid_for(LIMIT);
        let printed = format!("{credentials:?}");
        assert!(
            printed.contains("ada") && !printed.contains("s3cret"),
            "{printed}"
        );
    }
}
