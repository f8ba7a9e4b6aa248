//! Limits and options for which a broker refuses a connection or a channel.

use rpc_core::{Connection, ConnectionState, ErrorKind, OpenError, ServeError, Server};
use rpc_tests::broker::{Node, shared_node};
use rpc_tests::unique_queue;
use tokio::sync::OnceCell;

use super::connecting::story;
use super::{Abacus, AdderClient, AdderDispatcher};

/// A node with limits for virtual hosts and users. Each user's password is the user's name.
async fn limited() -> &'static Node {
    static LIMITED: OnceCell<Node> = OnceCell::const_new();
    let start = async || {
        let node = Node::start().await;
        node.ctl(&["await_startup"]).await;
        node.ctl(&["add_vhost", "full"]).await;
        let all = ["guest", ".*", ".*", ".*"];
        node.ctl(&[&["set_permissions", "-p", "full"], &all[..]].concat())
            .await;
        node.ctl(&[
            "set_vhost_limits",
            "-p",
            "full",
            r#"{"max-connections": 0}"#,
        ])
        .await;
        for (user, limits) in [
            ("few", r#"{"max-connections": 0}"#),
            ("narrow", r#"{"max-channels": 1}"#),
            ("mute", r#"{"max-channels": 0}"#),
        ] {
            node.ctl(&["add_user", user, user]).await;
            node.ctl(&["set_permissions", user, ".*", ".*", ".*"]).await;
            node.ctl(&["set_user_limits", user, limits]).await;
        }
        node.ctl(&["add_user", "stranger", "stranger"]).await;
        node
    };
    LIMITED.get_or_init(start).await
}

async fn refusal(url: &str) -> (OpenError, String) {
    let error = Connection::open(url).await.unwrap_err();
    let story = story(&error);
    (error, story)
}

#[tokio::test]
async fn connection_limits_are_named_with_advice() {
    let node = limited().await;
    for (user, virtual_host, said, remedy) in [
        ("guest", "full", "vhost 'full'", "set_vhost_limits"),
        ("few", "%2f", "user 'few'", "set_user_limits"),
    ] {
        let (error, story) = refusal(&node.url_with(user, user, virtual_host)).await;
        assert!(matches!(error, OpenError::LimitReached { .. }), "{story}");
        assert!(
            story.contains(said) && story.contains("limit (0) is reached"),
            "{story}"
        );
        let text = error.to_string();
        assert!(text.contains(remedy), "{text}");
        assert_eq!(text.matches("`rabbitmqctl").count(), 1, "{text}");
    }
}

#[tokio::test]
async fn a_virtual_host_without_permission_is_named() {
    let node = limited().await;
    let (error, story) = refusal(&node.url_with("stranger", "stranger", "%2f")).await;
    assert!(
        matches!(error, OpenError::VirtualHostRefused { .. }),
        "{story}"
    );
    assert!(story.contains("the user's permissions"), "{story}");
}

#[tokio::test]
async fn channel_limits_are_named_with_advice() {
    let node = limited().await;
    let open = async |user| {
        let connection = Connection::open(&node.url_with(user, user, "%2f")).await;
        connection.unwrap()
    };
    let is_told = |said: &str| {
        let is_told = said.contains("allowed user limit of") && said.contains("set_user_limits");
        assert!(is_told && !said.contains("invalid"), "{said}");
    };
    // A limit of none is exceeded by the first channel, a limit of one by a later channel.
    for user in ["narrow", "mute"] {
        let connection = open(user).await;
        let mut state = connection.state();
        let dispatcher = AdderDispatcher::new(Abacus::default()).with_queue(unique_queue(user));
        let server = Server::builder(&connection).service(dispatcher).build();
        let error = server.start().await.unwrap_err();
        assert!(matches!(error, ServeError::NoChannel { .. }), "{error:?}");
        is_told(&story(&error));
        // The broker closes the connection of a user that opens one channel too many.
        while let Some(state) = state.changed().await {
            if let ConnectionState::Reconnecting { error } = state {
                is_told(&error);
                break;
            }
        }
    }
    let adder = AdderClient::new(open("mute").await.client()).with_queue(unique_queue("mute"));
    for _ in 0..3 {
        let error = adder.add(1, 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        is_told(&story(&error));
    }
}

#[tokio::test]
async fn invalid_connection_options_are_named() {
    let url = shared_node().await.url();
    for (option, said) in [
        ("channel_max=1", "needs 8"),
        ("frame_max=100", "at least 4096 bytes"),
        ("auth_mechanism=kerberos", "plain, amqplain, external"),
    ] {
        let (error, story) = refusal(&format!("{url}?{option}")).await;
        assert!(matches!(error, OpenError::InvalidUrl(_)), "{story}");
        assert!(story.contains(said), "{story}");
    }
}

/// RabbitMQ 3 accepts every frame size that AMQP allows; RabbitMQ 4 requires at least 8,192 bytes.
#[tokio::test]
async fn a_frame_size_too_small_for_rabbitmq_4_is_named() {
    let node = shared_node().await;
    let version = node.ctl(&["version"]).await;
    for frame_max in [4096, 8191] {
        let opened = Connection::open(&format!("{}?frame_max={frame_max}", node.url())).await;
        if version.trim().starts_with("3.") {
            opened.unwrap();
            continue;
        }
        let error = opened.unwrap_err();
        assert!(
            matches!(error, OpenError::OptionRefused { .. }),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("`frame_max`") && text.contains("raise it"),
            "{text}"
        );
        assert!(format!("{error:?}").contains("8192"), "{error:?}");
    }
    Connection::open(&format!("{}?frame_max=8192", node.url()))
        .await
        .unwrap();
}

#[tokio::test]
async fn options_refused_by_the_broker_are_named() {
    let node = Node::builder()
        .conf("auth_mechanisms.1 = AMQPLAIN")
        .start()
        .await;
    Connection::open(&(node.url() + "?auth_mechanism=amqplain"))
        .await
        .unwrap();
    for mechanism in ["anonymous", "plain"] {
        let (error, story) = refusal(&format!("{}?auth_mechanism={mechanism}", node.url())).await;
        assert!(
            matches!(error, OpenError::MechanismRefused { .. }),
            "{story}"
        );
        assert!(story.contains("mechanisms \"AMQPLAIN\""), "{story}");
    }
}

#[tokio::test]
async fn exhausted_channels_are_named() {
    let url = shared_node().await.url() + "?channel_max=8";
    let connection = Connection::open(&url).await.unwrap();
    let mut servers = Vec::new();
    let error = loop {
        assert!(servers.len() < 8);
        let dispatcher =
            AdderDispatcher::new(Abacus::default()).with_queue(unique_queue("channels"));
        let server = Server::builder(&connection).service(dispatcher).build();
        match server.start().await {
            Ok(started) => servers.push(started),
            Err(error) => break story(&error),
        }
    };
    assert!(error.contains("raise `channel_max`"), "{error}");
    // A client of the same connection gets the same error. Other connections are not affected.
    let queue = unique_queue("other-channels");
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let error = story(&adder.add(1, 2).await.unwrap_err());
    assert!(error.contains("raise `channel_max`"), "{error}");
}
