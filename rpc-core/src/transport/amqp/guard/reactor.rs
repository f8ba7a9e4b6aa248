//! A reactor for lapin: tokio, with guarded streams.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::{DummyIO, RuntimeParts};
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::tcp::AsyncTcpStream;

use super::stream::GuardedStream;

/// A stream of tokio's, with or without TLS.
type TokioStream = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// The current runtime, for a connection with a guarded stream.
pub(crate) fn runtime() -> Runtime<RuntimeParts<Tokio, GuardReactor>> {
    Runtime::new(RuntimeParts::new(
        Tokio::current(),
        GuardReactor(Tokio::current()),
    ))
}

/// Creates tokio's timers, and guarded streams. lapin gets a connected stream, and only asks for timers.
#[derive(Clone, Debug)]
pub(crate) struct GuardReactor(Tokio);

impl Reactor for GuardReactor {
    type TcpStream = GuardedStream<TokioStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Refuses: code outside async-rs cannot name the bounds that tokio needs.
    fn register<H: Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<DummyIO, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move {
            let stream = AsyncTcpStream::Plain(connecting.await?);
            Ok(GuardedStream::new(stream, None))
        }
    }
}
