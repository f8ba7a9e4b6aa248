//! TLS: certificates that either side accepts or refuses, and logins by certificate.

use rpc_core::{Connection, ConnectionBuilder, OpenError};
use rpc_tests::broker::{Authority, Identity, Node};
use rpc_tests::unique_queue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;

use super::connecting::story;
use super::{AdderClient, serve};

/// A node that requires client certificates, and accepts logins of the users whom they name.
pub(super) struct Strict {
    pub(super) node: Node,
    pub(super) authority: Authority,
}

pub(super) async fn strict() -> &'static Strict {
    static STRICT: OnceCell<Strict> = OnceCell::const_new();
    let start = async || {
        let authority = Authority::new();
        let node = Node::builder()
            .tls_as(authority.identity("localhost", &["localhost"]), &authority)
            .conf("ssl_options.verify = verify_peer")
            .conf("ssl_options.fail_if_no_peer_cert = true")
            .conf("auth_mechanisms.1 = PLAIN")
            .conf("auth_mechanisms.2 = AMQPLAIN")
            .conf("auth_mechanisms.3 = EXTERNAL")
            .conf("ssl_cert_login_from = common_name")
            .plugin("rabbitmq_auth_mechanism_ssl")
            .start()
            .await;
        node.ctl(&["add_user", "ada", "unused"]).await;
        node.ctl(&["set_permissions", "ada", ".*", ".*", ".*"])
            .await;
        Strict { node, authority }
    };
    STRICT.get_or_init(start).await
}

impl Strict {
    /// A connection as `guest` by password.
    fn builder(&self, identity: Option<Identity>) -> ConnectionBuilder {
        with(
            Connection::builder(self.node.tls_url()).root_certificates(self.authority.pem()),
            identity,
        )
    }

    /// A connection as the user of its certificate.
    fn external(&self, identity: Identity) -> ConnectionBuilder {
        let port = self.node.tls_port();
        let url = format!("amqps://localhost:{port}/%2f?auth_mechanism=external");
        let builder = Connection::builder(url).root_certificates(self.authority.pem());
        with(builder, Some(identity))
    }
}

fn with(builder: ConnectionBuilder, identity: Option<Identity>) -> ConnectionBuilder {
    match identity {
        None => builder,
        Some(Identity { certificate, key }) => builder.identity(certificate, key),
    }
}

/// The error of a connection that TLS refuses.
async fn refusal(builder: ConnectionBuilder) -> String {
    let error = builder.open().await.unwrap_err();
    let story = story(&error);
    assert!(matches!(error, OpenError::TlsRefused { .. }), "{story}");
    story
}

#[tokio::test]
async fn a_client_certificate_is_sent_and_may_be_the_login() {
    let strict = strict().await;
    let identity = strict.authority.identity("ada", &[]);
    strict.builder(Some(identity.clone())).open().await.unwrap();
    let connection = strict.external(identity.clone()).open().await.unwrap();
    let queue = unique_queue("external");
    let _server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let users = strict.node.ctl(&["list_connections", "user"]).await;
    assert!(users.lines().any(|user| user == "ada"), "{users}");
    // Only the broker knows the name that it reads from the certificate.
    let error = strict.external(identity).state_user_id().open().await;
    let error = error.unwrap_err();
    assert!(matches!(error, OpenError::UnknownUser), "{error:?}");
}

#[tokio::test]
async fn a_certificate_for_an_unknown_user_is_named() {
    let strict = strict().await;
    let error = strict
        .external(strict.authority.identity("unknown", &[]))
        .open()
        .await
        .unwrap_err();
    let story = story(&error);
    assert!(
        matches!(error, OpenError::CertificateLoginRefused { .. }),
        "{story}"
    );
    assert!(story.contains("ssl_cert_login_from"), "{story}");
}

#[tokio::test]
async fn a_missing_client_certificate_is_named() {
    let strict = strict().await;
    let story = refusal(strict.builder(None)).await;
    assert!(story.contains("ConnectionBuilder::identity"), "{story}");
}

#[tokio::test]
async fn an_untrusted_client_certificate_is_named() {
    let strict = strict().await;
    for identity in [
        Authority::new().identity("ada", &[]),
        strict.authority.expired_identity("ada", &[]),
        strict.authority.server_identity("ada", &[]),
    ] {
        let story = refusal(strict.builder(Some(identity))).await;
        assert!(
            story.contains("does not accept the client certificate"),
            "{story}"
        );
    }
}

/// The peer refuses each client with a TLS alert, as a peer limited to TLS 1.1 does.
#[tokio::test]
async fn a_peer_without_a_common_tls_version_is_named() {
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let url = format!(
        "amqps://localhost:{}/%2f",
        listener.local_addr().unwrap().port()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).await.unwrap();
            let mut rest = vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))];
            stream.read_exact(&mut rest).await.unwrap();
            // An alert of TLS 1.1, two bytes long: fatal, protocol_version.
            stream.write_all(&[21, 3, 2, 0, 2, 2, 70]).await.unwrap();
        }
    });
    let builder = Connection::builder(url).root_certificates(Authority::new().pem());
    let story = refusal(builder).await;
    assert!(story.contains("enable TLS 1.2 or 1.3 there"), "{story}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_named() {
    let strict = strict().await;
    let url = format!("amqps://127.0.0.1:{}/%2f", strict.node.tls_port());
    let builder = Connection::builder(url).root_certificates(strict.authority.pem());
    let story = refusal(builder).await;
    assert!(
        story.contains("for another host") && story.contains("localhost"),
        "{story}"
    );
}

#[tokio::test]
async fn an_unknown_authority_is_named() {
    let strict = strict().await;
    for builder in [
        Connection::builder(strict.node.tls_url()),
        Connection::builder(strict.node.tls_url()).root_certificates(Authority::new().pem()),
    ] {
        let story = refusal(builder).await;
        assert!(
            story.contains("not trusted") && story.contains("root_certificates"),
            "{story}"
        );
    }
}

#[tokio::test]
async fn an_expired_certificate_is_named() {
    let authority = Authority::new();
    let expired = authority.expired_identity("localhost", &["localhost"]);
    let node = Node::builder().tls_as(expired, &authority).start().await;
    let builder = Connection::builder(node.tls_url()).root_certificates(authority.pem());
    let story = refusal(builder).await;
    assert!(story.contains("has expired"), "{story}");
}

#[tokio::test]
async fn a_port_of_the_wrong_scheme_is_named() {
    let strict = strict().await;
    let url = format!("amqps://localhost:{}/%2f", strict.node.port());
    let builder = Connection::builder(url).root_certificates(strict.authority.pem());
    let said = refusal(builder).await;
    assert!(said.contains("port for amqp://"), "{said}");

    let url = format!("amqp://localhost:{}/%2f", strict.node.tls_port());
    let error = Connection::open(&url).await.unwrap_err();
    let said = story(&error);
    assert!(said.contains("port for amqps://"), "{said}");
}

#[tokio::test]
async fn unusable_certificates_are_named_before_connecting() {
    let authority = Authority::new();
    let [one, other] = ["one", "other"].map(|name| authority.identity(name, &[]));
    let builder = || Connection::builder("amqps://localhost:1/%2f");
    for (builder, said) in [
        (
            builder().identity(&*one.certificate, &*other.key),
            "the key of `identity` does not belong to its first certificate",
        ),
        (
            builder().identity(&*one.key, &*one.certificate),
            "`identity` has no certificate in PEM",
        ),
        (
            builder().identity(&*one.certificate, "/etc/ssl/client.key"),
            "`identity` needs a private key in PEM",
        ),
        (
            builder().identity(&*one.certificate, one.key.replace("END", "AND")),
            "`identity` has a damaged private key",
        ),
        (
            builder().root_certificates("/etc/ssl/ca.pem"),
            "`root_certificates` has no certificate in PEM",
        ),
        (
            builder().root_certificates(authority.pem().replace("MII", "XXX")),
            "`root_certificates` has a certificate that is damaged",
        ),
    ] {
        let error = builder.open().await.unwrap_err();
        assert!(
            matches!(error, OpenError::InvalidCertificate(_)),
            "{error:?}"
        );
        assert!(error.to_string().contains(said), "{error}");
    }
    let plain = "amqp://localhost:1/%2f";
    let external = "amqps://localhost:1/%2f?auth_mechanism=external";
    for (builder, said) in [
        (
            Connection::builder(plain).identity(&*one.certificate, &*one.key),
            "amqps://",
        ),
        (Connection::builder(external), "ConnectionBuilder::identity"),
    ] {
        let error = builder.open().await.unwrap_err();
        assert!(matches!(error, OpenError::InvalidUrl(_)), "{error:?}");
        assert!(error.to_string().contains(said), "{error}");
    }
}
