//! Authentication: a server layer checks a token in a header before any handler runs.
//!
//! ```text
//! cargo run --example auth                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example auth       # on RabbitMQ
//! ```
//!
//! The example calls without a token, with an unknown token, with Bob's token and with Ada's token. Refused callers get
//! `PermissionDenied`, which clients never retry. Bob has no secret and gets the service's own error. The last line is
//! `Ada's secret is 42`.

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use rpc_core::{
    CallError, Connection, Context, ErrorKind, Request, Response, RpcError, Server, Service, rpc,
};
use rpc_examples::{exit_code, url};
use serde::{Deserialize, Serialize};
use tower::layer::{Layer, layer_fn};
use tower::{ServiceBuilder, ServiceExt};

/// Keeps a number for each of its users.
#[rpc]
pub trait Vault {
    /// Returns the caller's number.
    async fn secret(#[ctx] cx: Context) -> Result<u64, VaultError>;
}

/// Reasons for returning no number.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum VaultError {
    /// The user has no number.
    #[error("{user} has no secret")]
    Empty {
        /// The caller.
        user: String,
    },
}

/// Header in which the layer passes the caller's name to the handler.
const USER: &str = "user";

struct Numbers(HashMap<&'static str, u64>);

impl Vault for Numbers {
    async fn secret(&self, cx: Context) -> Result<u64, VaultError> {
        // The layer has set this header, so it is present and trustworthy.
        let user: &str = cx.header_as(USER).unwrap_or_default();
        self.0.get(user).copied().ok_or_else(|| VaultError::Empty {
            user: user.to_owned(),
        })
    }
}

/// Returns a layer that accepts only callers with one of these tokens.
///
/// Real tokens are signed, expire, and are compared in constant time, which is outside the scope of this example. Use `amqps://` to keep
/// tokens secret on the network.
fn authenticate<S>(
    users: HashMap<String, String>,
) -> impl Layer<
    S,
    Service = impl Service<Request, Response = Response, Error = RpcError, Future: Send>
              + Clone
              + Send
              + Sync,
> + Clone
where
    S: Service<Request, Response = Response, Error = RpcError, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let users = Arc::new(users);
    layer_fn(move |service: S| {
        let users = users.clone();
        tower::service_fn(move |mut request: Request| {
            let (service, users) = (service.clone(), users.clone());
            async move {
                // The handler does not need the token.
                let token = request.headers_mut().remove("token");
                let user = token.and_then(|token| users.get(token.as_str()?).cloned());
                let Some(user) = user else {
                    let text = "the token is missing or unknown";
                    return Err(RpcError::new(ErrorKind::PermissionDenied, text));
                };
                // Replaces a value that the caller may have set.
                request.headers_mut().insert(USER, user);
                service.oneshot(request).await
            }
        })
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("auth", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let connection = Connection::open(&url()).await?;
    let users = [("token-of-ada", "Ada"), ("token-of-bob", "Bob")];
    let users = users.map(|(token, user)| (token.to_owned(), user.to_owned()));
    // The layer is around this service only. `ServerBuilder::layer` is for all services of a server.
    let vault = ServiceBuilder::new()
        .layer(authenticate(users.into()))
        .service(VaultDispatcher::new(Numbers([("Ada", 42)].into())));
    let server = Server::builder(&connection)
        .service(vault)
        .build()
        .start()
        .await?;

    let vault = VaultClient::new(connection.client());
    match vault.secret().await {
        Err(CallError::Rpc(error)) if error.kind() == ErrorKind::PermissionDenied => {
            println!("without a token: {error}");
        }
        other => return Err(format!("unexpected: {other:?}").into()),
    }
    match vault
        .secret()
        .header("token", "guessed")
        .header(USER, "Ada")
        .await
    {
        Err(CallError::Rpc(error)) if error.kind() == ErrorKind::PermissionDenied => {
            println!("with a wrong token: {error}");
        }
        other => return Err(format!("unexpected: {other:?}").into()),
    }
    match vault.secret().header("token", "token-of-bob").await {
        Err(CallError::App(error)) => println!("with Bob's token: {error}"),
        other => return Err(format!("unexpected: {other:?}").into()),
    }
    let secret = vault.secret().header("token", "token-of-ada").await?;
    println!("Ada's secret is {secret}");

    server.shutdown().await?;
    connection.close().await;
    Ok(())
}
