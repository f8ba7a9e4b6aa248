//! `#[rpc]` finds `rpc_core` under the name in `Cargo.toml`, without the option `crate`.

pub use bus;
pub use bus::rpc;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A service.
#[rpc]
pub trait Fib {
    /// The n-th Fibonacci number.
    async fn fib(#[serde(default)] n: u64) -> u64;
    /// Nothing.
    async fn nothing(numbers: impl bus::Stream<Item = u64>) -> impl bus::Stream<Item = u64>;
}

/// A generic service.
#[rpc]
pub trait Store<T: Serialize + DeserializeOwned + Send + 'static> {
    /// Gets.
    async fn get(key: String) -> Result<T, String>;
}

#[cfg(test)]
#[tokio::test]
async fn no_path_to_the_crate_is_needed() {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    struct Handler;

    struct Nothing;

    impl bus::Stream for Nothing {
        type Item = u64;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<u64>> {
            Poll::Ready(None)
        }
    }

    impl Fib for Handler {
        async fn fib(&self, n: u64) -> u64 {
            n
        }
        async fn nothing(&self, _: bus::Incoming<u64>) -> impl bus::Stream<Item = u64> {
            Nothing
        }
    }

    impl Store<u64> for Handler {
        async fn get(&self, key: String) -> Result<u64, String> {
            key.parse().map_err(|_| key)
        }
    }

    let fib = FibClient::new(FibDispatcher::new(Handler));
    assert_eq!(fib.fib(5).await.ok(), Some(5));
    let nothing = fib.nothing(Nothing).await;
    assert!(
        nothing
            .expect("the stream is accepted")
            .next()
            .await
            .is_none()
    );
    let store = StoreClient::new(StoreDispatcher::new(Handler));
    assert_eq!(store.get("7".to_owned()).await.ok(), Some(7));
}
