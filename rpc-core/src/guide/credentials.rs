//! Logging in: passwords that change, tokens that expire, certificates.
//!
//! # A password in the URL
//!
//! `amqp://user:password@host/%2f` is enough as long as the password stays the same. The characters `# % / ? @` are written
//! `%23 %25 %2f %3f %40` there. No error, log line or `Debug` output of this crate repeats a password, a key, or a URL with one; that
//! holds at every level of the log, for what lapin logs as well.
//!
//! # Credentials from a callback
//!
//! A program that gets its password or token from a file, a vault or an identity provider gives a callback in place of it. The callback is
//! asked before each connection is made, so whatever connects after a rotation has the new password:
//!
//! ```no_run
//! # async fn run() -> Result<(), rpc_core::OpenError> {
//! use rpc_core::{Connection, Credentials};
//!
//! let connection = Connection::builder("amqps://rabbit.example/%2f")
//!     .credentials(async || {
//!         let password = std::fs::read_to_string("/run/secrets/rabbit-password")?;
//!         Ok::<_, std::io::Error>(Credentials::new("payments", password.trim_end()))
//!     })
//!     .open()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! To rotate the password, change the file first, then the broker (`rabbitmqctl change_password`), or the other way round: between the
//! two, a connection that is lost is tried again until both agree. RabbitMQ keeps the connections that there are. If they are to use
//! the new password, close them (`rabbitmqctl close_all_user_connections`): calls of `idempotent` methods are repeated, and others fail
//! as after any loss ([`guide::errors`](super::errors)).
//!
//! # Credentials that expire
//!
//! A token of OAuth 2 has a time limit, after which RabbitMQ refuses what its connection does and closes it
//! (<https://www.rabbitmq.com/docs/oauth2#token-expiration>). Say so with [`Credentials::valid_for`](crate::Credentials::valid_for):
//! the callback is asked again after 80 % of that time, and the broker is told the new token. No connection is lost over that.
//!
//! ```no_run
//! # async fn run() -> Result<(), rpc_core::OpenError> {
//! use std::sync::Arc;
//! use std::time::Duration;
//! use rpc_core::{Connection, Credentials};
//!
//! # struct Issuer;
//! # struct Token { text: String, lifetime: Duration }
//! # impl Issuer { async fn token(&self) -> Result<Token, std::io::Error> { unimplemented!() } }
//! let issuer = Arc::new(Issuer); // Asks an identity provider.
//! let connection = Connection::builder("amqps://rabbit.example/%2f")
//!     .credentials(async move || {
//!         let token = issuer.token().await?;
//!         Ok::<_, std::io::Error>(Credentials::new("payments", token.text).valid_for(token.lifetime))
//!     })
//!     .open()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! | what happens | what follows |
//! |---|---|
//! | the callback fails, panics, or does not answer within `connection_timeout` (10 seconds) | the connection goes on; the callback is asked again after pauses from 0.25 to 15 seconds, lengthened at random to twice that at most, but by no more than half of the time that the old credentials have left; the log says why |
//! | the same at the first [`open`](crate::ConnectionBuilder::open) | [`OpenError::CredentialsUnavailable`](crate::OpenError::CredentialsUnavailable); with [`wait_for_broker`](crate::ConnectionBuilder::wait_for_broker), the callback is asked again until that limit |
//! | they expire before new ones come | the broker closes the connection, which is made again as soon as the callback gives new ones |
//! | the new ones are another user's | a connection as that user takes the place of the old one; calls and handlers under way end on the old one, for which the old credentials have a fifth of their time left |
//!
//! A user of RabbitMQ's own database has a password without a time limit, and being told another one changes nothing for RabbitMQ. There,
//! `valid_for` makes the program look for another user's credentials now and then, as leases of a vault need it.
//!
//! # Two users, by hand
//!
//! A rotation without a callback takes two users with the same permissions, and a URL for each:
//!
//! ```no_run
//! # async fn run() -> Result<(), rpc_core::OpenError> {
//! use rpc_core::Connection;
//!
//! let connection = Connection::builder("amqps://payments-blue:old-password@rabbit.example/%2f")
//!     .endpoint("amqps://payments-green:new-password@rabbit.example/%2f")
//!     .open()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! Each attempt to connect tries both, and the log warns of the one that is refused. Start the programs with both URLs, then take the old user's permissions away
//! (`rabbitmqctl change_password payments-blue …` and `rabbitmqctl close_all_user_connections payments-blue rotated`): all connect as
//! the new user. Calls in flight on the closed connections fail as after any loss; those of `idempotent` methods are repeated.
//!
//! # Client certificates
//!
//! The broker's certificate is checked against the authorities that the platform trusts, and those of
//! [`root_certificates`](crate::ConnectionBuilder::root_certificates). A broker that asks for a client's certificate gets that of
//! [`identity`](crate::ConnectionBuilder::identity). With `auth_mechanism=external`, it is the login, too:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use rpc_core::Connection;
//! use std::fs::read_to_string;
//!
//! let connection = Connection::builder("amqps://rabbit.example/%2f?auth_mechanism=external")
//!     .root_certificates(read_to_string("/etc/rabbit/ca.pem")?)
//!     .identity(read_to_string("/etc/rabbit/payments.pem")?, read_to_string("/etc/rabbit/payments.key")?)
//!     .open()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! At the broker, enable the plugin `rabbitmq_auth_mechanism_ssl`, add `EXTERNAL` to `auth_mechanisms`, set `ssl_options.verify =
//! verify_peer` and `ssl_options.fail_if_no_peer_cert = true`, and add a user with the name that `ssl_cert_login_from` says
//! (<https://www.rabbitmq.com/docs/access-control#certificate-authentication>): with `common_name`, the `CN` of the certificate.
//!
//! The certificates are read once, by [`open`](crate::ConnectionBuilder::open), and stay the same for as long as the connection is used,
//! whatever becomes of their files. Before they expire, open another connection with the new ones, move clients and servers to it, and
//! close the old one; or restart the program.
//!
//! The error says what is wrong with a certificate, on either side: [`OpenError::TlsRefused`](crate::OpenError::TlsRefused) for what
//! a handshake shows, [`OpenError::InvalidCertificate`](crate::OpenError::InvalidCertificate) for what cannot be used at all.
//!
//! # Who calls
//!
//! A handler should not take a header for its caller's name. A connection that
//! [states its user](crate::ConnectionBuilder::state_user_id) has the broker check the name, and handlers see it in
//! [`Context::user_id`](crate::Context::user_id), layers in the request:
//!
//! ```
//! use rpc_core::{Connection, Context, Server, rpc};
//!
//! #[rpc]
//! pub trait Ledger {
//!     async fn owner(#[ctx] context: Context) -> Option<String>;
//! }
//!
//! struct Books;
//!
//! impl Ledger for Books {
//!     async fn owner(&self, context: Context) -> Option<String> {
//!         context.user_id().map(str::to_owned)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::builder("memory:").state_user_id().open().await?;
//! let server = Server::builder(&connection).service(LedgerDispatcher::new(Books)).build().start().await?;
//! let ledger = LedgerClient::new(connection.client());
//! assert_eq!(ledger.owner().await?.as_deref(), Some("guest")); // Everyone's name on the embedded broker.
//! # server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A request that its server publishes anew, after another server died with it, has lost the name: no user may state another's. Let a
//! handler refuse what needs a name and has none. Requests of a quorum queue keep the name when they are delivered again.
