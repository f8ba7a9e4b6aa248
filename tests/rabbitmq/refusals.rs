//! Limits and options by which a broker refuses a connection or a channel.

use rpc_core::{Connection, ConnectionState, OpenError, Server};
use rpc_tests::broker::{Node, shared_node};
use rpc_tests::unique_queue;
use tokio::sync::OnceCell;

use super::connecting::story;
use super::{Abacus, AdderClient, AdderDispatcher};

/// A node with limits for virtual hosts and users, whose passwords are their names.
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
async fn limits_of_connections_are_said_with_the_remedy() {
    let node = limited().await;
    for (user, virtual_host, said) in [
        ("guest", "full", "vhost 'full'"),
        ("few", "%2f", "user 'few'"),
    ] {
        let (error, story) = refusal(&node.url_with(user, user, virtual_host)).await;
        assert!(matches!(error, OpenError::LimitReached { .. }), "{story}");
        assert!(
            story.contains(said) && story.contains("limit (0) is reached"),
            "{story}"
        );
        assert!(story.contains("set_vhost_limits") && story.contains("set_user_limits"));
    }
}

#[tokio::test]
async fn a_virtual_host_without_permission_is_said() {
    let node = limited().await;
    let (error, story) = refusal(&node.url_with("stranger", "stranger", "%2f")).await;
    assert!(
        matches!(error, OpenError::VirtualHostRefused { .. }),
        "{story}"
    );
    assert!(story.contains("the user's permissions"), "{story}");
}

#[tokio::test]
async fn a_limit_of_channels_is_said_with_the_remedy() {
    let node = limited().await;
    let connection = Connection::open(&node.url_with("narrow", "narrow", "%2f"))
        .await
        .unwrap();
    let mut state = connection.state();
    let dispatcher = AdderDispatcher::new(Abacus::default()).with_queue(unique_queue("narrow"));
    let server = Server::builder(&connection).service(dispatcher).build();
    // The broker closes the connection of a user that opens one channel too many.
    let said = tokio::select! {
        said = async { loop {
            if let Some(ConnectionState::Reconnecting { error }) = state.changed().await {
                break error;
            }
        } } => said,
        started = server.start() => panic!("it has a channel too few: {started:?}"),
    };
    assert!(
        said.contains("allowed user limit of") && said.contains("set_user_limits"),
        "{said}"
    );
}

#[tokio::test]
async fn an_option_that_no_connection_can_have_is_said() {
    let url = shared_node().await.url();
    for (option, said) in [
        ("channel_max=1", "needs 8"),
        ("frame_max=100", "4096 bytes at least"),
        ("auth_mechanism=kerberos", "plain, amqplain, external"),
    ] {
        let (error, story) = refusal(&format!("{url}?{option}")).await;
        assert!(matches!(error, OpenError::InvalidUrl(_)), "{story}");
        assert!(story.contains(said), "{story}");
    }
}

#[tokio::test]
async fn an_option_that_the_broker_refuses_is_said() {
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
        assert!(story.contains("but \"AMQPLAIN\""), "{story}");
    }
}

#[tokio::test]
async fn channels_that_are_all_in_use_are_said() {
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
    // A client of the same connection is told, too, and other connections are as before.
    let queue = unique_queue("other-channels");
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let error = story(&adder.add(1, 2).await.unwrap_err());
    assert!(error.contains("raise `channel_max`"), "{error}");
}
