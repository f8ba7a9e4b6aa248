//! The files and the environment of a node: folder, configuration, variables.

use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::{env, io};

use super::{NodeBuilder, certificates};

/// The file in the folder `log` that RabbitMQ logs to.
pub(super) const LOG: &str = "node.log";

/// The ports of a node on 127.0.0.1.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    pub(super) distribution: u16,
    pub(super) epmd: u16,
    pub(super) tls: Option<u16>,
    pub(super) management: Option<u16>,
}

/// The node's name with its host, which always resolves.
pub(super) fn full_name(name: &str) -> String {
    format!("{name}@localhost")
}

/// Creates folders that only this user can read: the cookie in them gives full access to the node.
pub(super) fn make_folders(folder: &Path) -> io::Result<()> {
    let mut private = DirBuilder::new();
    private.mode(0o700);
    private.create(folder)?;
    ["log", "data", "tmp"]
        .iter()
        .try_for_each(|name| private.create(folder.join(name)))
}

pub(super) fn write_settings(
    folder: &Path,
    builder: &NodeBuilder,
    name: &str,
    ports: &Ports,
) -> io::Result<()> {
    let cookie = builder.cookie.clone().unwrap_or_else(|| {
        let state = RandomState::new();
        format!("{:016X}{:016X}", state.hash_one(0), state.hash_one(1))
    });
    let cookie_file = folder.join(".erlang.cookie");
    fs::write(&cookie_file, cookie)?;
    fs::set_permissions(&cookie_file, fs::Permissions::from_mode(0o400))?;

    let mut conf = vec![
        format!("listeners.tcp.1 = 127.0.0.1:{}", ports.amqp),
        // The broker states the name in every handshake, which tells a starting node from another process on its port.
        format!("cluster_name = {}", builder.greeting(name)),
        "log.console = false".to_owned(),
    ];
    if let Some(port) = ports.tls {
        let folder = folder.join("tls");
        conf.push(format!("listeners.ssl.1 = 127.0.0.1:{port}"));
        conf.push(format!(
            "ssl_options.cacertfile = {}",
            folder.join(certificates::CA).display()
        ));
        conf.push(format!(
            "ssl_options.certfile = {}",
            folder.join(certificates::CERTIFICATE).display()
        ));
        conf.push(format!(
            "ssl_options.keyfile = {}",
            folder.join(certificates::KEY).display()
        ));
    }
    if let Some(port) = ports.management {
        conf.push("management.tcp.ip = 127.0.0.1".to_owned());
        conf.push(format!("management.tcp.port = {port}"));
    }
    if let Some(join) = builder.joins() {
        conf.push("cluster_formation.peer_discovery_backend = classic_config".to_owned());
        conf.push(format!(
            "cluster_formation.classic_config.nodes.1 = {}",
            join.seed
        ));
        conf.push(format!(
            "cluster_formation.classic_config.nodes.2 = {}",
            full_name(name)
        ));
    }
    conf.extend(builder.conf.iter().cloned());
    fs::write(folder.join("rabbitmq.conf"), conf.join("\n") + "\n")?;
    fs::write(
        folder.join("enabled_plugins"),
        format!("[{}].\n", builder.plugins.join(",")),
    )
}

/// The whole environment of a node and its tools, without variables of this process or of the system's RabbitMQ.
pub(super) fn environment(name: &str, folder: &Path, ports: &Ports) -> Vec<(&'static str, String)> {
    let file = |name: &str| folder.join(name).display().to_string();
    let path = env::var("PATH").unwrap_or_default();
    // Erlang's distribution listens on the loopback interface alone, too.
    let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
    vec![
        ("HOME", file("")),
        (
            "PATH",
            format!("{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ),
        ("LANG", "C.UTF-8".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("TMPDIR", file("tmp")),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("ERL_EPMD_PORT", ports.epmd.to_string()),
        ("ERL_CRASH_DUMP", file("log/erl_crash.dump")),
        ("RABBITMQ_NODENAME", full_name(name)),
        ("RABBITMQ_DIST_PORT", ports.distribution.to_string()),
        ("RABBITMQ_CONF_ENV_FILE", file("rabbitmq-env.conf")),
        ("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf")),
        ("RABBITMQ_CONFIG_FILES", file("conf.d")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced.config")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins")),
        ("RABBITMQ_PID_FILE", file("rabbitmq.pid")),
        ("RABBITMQ_MNESIA_BASE", file("data")),
        ("RABBITMQ_MNESIA_DIR", file("data/node")),
        ("RABBITMQ_PLUGINS_EXPAND_DIR", file("data/plugins")),
        ("RABBITMQ_FEATURE_FLAGS_FILE", file("data/feature_flags")),
        ("RABBITMQ_GENERATED_CONFIG_DIR", file("data/config")),
        ("RABBITMQ_SCHEMA_DIR", file("data/schema")),
        ("RABBITMQ_LOG_BASE", file("log")),
        ("RABBITMQ_LOGS", file("log/") + LOG),
        // RabbitMQ's defaults let Erlang's threads sleep instead of spin while they wait for each other. They wait often
        // while RabbitMQ loads its code: Erlang's own defaults reduce the start from 11 s to 4.5 s on two virtual cores.
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            format!("{loopback} +sbwt medium +sbwtdio short"),
        ),
        ("RABBITMQ_CTL_ERL_ARGS", loopback.to_owned()),
        ("RABBITMQ_CTL_DIST_PORT_MIN", "30000".to_owned()),
        ("RABBITMQ_CTL_DIST_PORT_MAX", "32000".to_owned()),
        // Makes the start script `exec` the server instead of waiting for it, so that signals reach the server.
        ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
    ]
}
