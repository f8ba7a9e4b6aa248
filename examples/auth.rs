//! Authentication: a token in a header, checked by a layer of the server before any handler runs.
//!
//! ```text
//! cargo run --example auth                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example auth       # on RabbitMQ
//! ```
//!
//! It calls without a token, with an unknown one, with Bob's and with Ada's. A caller that is refused gets `PermissionDenied`, which no
//! client repeats; Bob, who has no secret, gets the service's own error. The last line is `Ada's secret is 42`.

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
    /// The number of whoever calls.
    async fn secret(#[ctx] cx: Context) -> Result<u64, VaultError>;
}

/// Why the vault stays shut.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum VaultError {
    /// The user has no number.
    #[error("{user} has no secret")]
    Empty {
        /// Who asked.
        user: String,
    },
}

/// The header in which the layer tells the handler who calls.
const USER: &str = "user";

struct Numbers(HashMap<&'static str, u64>);

impl Vault for Numbers {
    async fn secret(&self, cx: Context) -> Result<u64, VaultError> {
        // The layer has set it, so it is there and can be believed.
        let user: &str = cx.header_as(USER).unwrap_or_default();
        self.0.get(user).copied().ok_or_else(|| VaultError::Empty {
            user: user.to_owned(),
        })
    }
}

/// A layer that lets through whoever has one of these tokens.
///
/// Real tokens are signed, expire, and are compared in constant time; which crate does that is no matter of this example. They
/// are as secret on their way as the connection to the broker is: use `amqps://`.
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
                // The handler has no need to see the token.
                let token = request.headers_mut().remove("token");
                let user = token.and_then(|token| users.get(token.as_str()?).cloned());
                let Some(user) = user else {
                    let text = "there is no token, or one that is not known";
                    return Err(RpcError::new(ErrorKind::PermissionDenied, text));
                };
                // In place of whatever the caller may have written there.
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
    // Around this service alone; `ServerBuilder::layer` is for all services of a server.
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
            println!("with a wrong one: {error}");
        }
        other => return Err(format!("unexpected: {other:?}").into()),
    }
    match vault.secret().header("token", "token-of-bob").await {
        Err(CallError::App(error)) => println!("with Bob's: {error}"),
        other => return Err(format!("unexpected: {other:?}").into()),
    }
    let secret = vault.secret().header("token", "token-of-ada").await?;
    println!("Ada's secret is {secret}");

    server.shutdown().await?;
    connection.close().await;
    Ok(())
}
