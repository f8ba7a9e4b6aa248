//! tonic: server streaming of gRPC over TCP, without a broker.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::contender::Outcome;

const PATH: &str = "/bench.Items/Items";

/// Request for items.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Wanted {
    /// Number of items.
    #[prost(uint64, tag = "1")]
    pub count: u64,
    /// Length of each, in bytes.
    #[prost(uint64, tag = "2")]
    pub len: u64,
}

/// One item.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Item {
    /// The item.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
}

/// Handler that does nothing: only the work around it is measured.
#[derive(Clone, Copy, Debug)]
struct Ready;

impl ServerStreamingService<Wanted> for Ready {
    type Response = Item;
    type ResponseStream = BoxStream<'static, Result<Item, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Wanted>) -> Self::Future {
        let Wanted { count, len } = request.into_inner();
        let item = Item {
            body: vec![b'x'; len as usize].into(),
        };
        let items = stream::iter((0..count).map(move |_| Ok(item.clone())));
        Box::pin(async move { Ok(Response::new(items.boxed())) })
    }
}

impl tower_service::Service<http::Request<Body>> for Ready {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Item, Wanted>::default());
            Ok(grpc.server_streaming(Ready, request).await)
        })
    }
}

impl NamedService for Ready {
    const NAME: &'static str = "bench.Items";
}

/// Serves until the process ends. `ready` gets the address.
pub async fn serve(ready: impl FnOnce(&str)) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    ready(&format!("http://{}", listener.local_addr()?));
    let connections = TcpListenerStream::new(listener);
    Server::builder()
        .tcp_nodelay(true)
        .add_service(Ready)
        .serve_with_incoming(connections)
        .await?;
    Ok(())
}

/// A client.
#[derive(Debug)]
pub struct Client(tonic::client::Grpc<Channel>);

impl Client {
    /// Connects a client.
    pub async fn connect(url: &str) -> Outcome<Self> {
        let channel = Channel::from_shared(url.to_owned())?.connect().await?;
        Ok(Self(tonic::client::Grpc::new(channel)))
    }

    /// Reads a stream. Returns the number of its items.
    pub async fn read(&mut self, count: u64, len: u64) -> Outcome<u64> {
        self.0.ready().await?;
        let codec = ProstCodec::<Wanted, Item>::default();
        let wanted = Request::new(Wanted { count, len });
        let path = PathAndQuery::from_static(PATH);
        let mut items = self
            .0
            .server_streaming(wanted, path, codec)
            .await?
            .into_inner();
        let mut received = 0;
        while let Some(item) = items.message().await? {
            received += u64::from(item.body.len() as u64 == len);
        }
        Ok(received)
    }
}
