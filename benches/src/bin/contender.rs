//! Server or client of a contender, as a process of its own. `round_trip.rs` starts it.
//!
//! ```text
//! contender server <spec> --url <url> --queue <name> [--services <n>]
//! contender client <spec> --url <url> --queue <name> [--in-flight <n>] [--payload <bytes>] [--warm-up <ms>]
//!                  [--window <ms>] [--clients <n>] [--services <n>] [--server-pid <pid>]… [--broker-pid <pid>]
//! ```
//!
//! A server prints `ready` and serves until it is killed. A client prints its report as JSON.

use std::time::Duration;

use lexopt::prelude::*;
use rpc_benches::contender::{
    Contender, Outcome, Spec, Threads, engineer, fastest, ours, same, tutorial,
};
use rpc_benches::load::{Load, Processes, Report};
use rpc_core::Connection;
use tokio::runtime::Builder;

struct Options {
    side: String,
    spec: Spec,
    url: String,
    queue: String,
    load: Load,
    clients: usize,
    services: usize,
    processes: Processes,
}

fn main() -> Outcome {
    let options = options()?;
    let mut builder = match options.spec.threads {
        Threads::Single => Builder::new_current_thread(),
        Threads::Multi => Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build()?;
    match options.side.as_str() {
        "server" => runtime.block_on(serve(&options)),
        "client" => {
            let report = runtime.block_on(call(&options))?;
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
        other => Err(format!("expected 'server' or 'client', not '{other}'").into()),
    }
}

fn options() -> Outcome<Options> {
    let mut words = Vec::new();
    let (mut url, mut queue) = ("memory:".to_owned(), "bench".to_owned());
    let (mut in_flight, mut payload, mut clients, mut services) = (1, 10, 1, 1);
    let (mut warm_up, mut window) = (500, 2000);
    let mut processes = Processes::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(word) => words.push(word.string()?),
            Long("url") => url = parser.value()?.string()?,
            Long("queue") => queue = parser.value()?.string()?,
            Long("in-flight") => in_flight = parser.value()?.parse()?,
            Long("payload") => payload = parser.value()?.parse()?,
            Long("clients") => clients = parser.value()?.parse()?,
            Long("services") => services = parser.value()?.parse()?,
            Long("warm-up") => warm_up = parser.value()?.parse()?,
            Long("window") => window = parser.value()?.parse()?,
            Long("server-pid") => processes.servers.push(parser.value()?.parse()?),
            Long("broker-pid") => processes.broker.push(parser.value()?.parse()?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    let [side, spec] =
        <[String; 2]>::try_from(words).map_err(|_| "expected a side and a contender")?;
    Ok(Options {
        side,
        spec: spec.parse()?,
        url,
        queue,
        load: Load {
            in_flight,
            payload,
            warm_up: Duration::from_millis(warm_up),
            window: Duration::from_millis(window),
        },
        clients,
        services,
        processes,
    })
}

async fn serve(options: &Options) -> Outcome {
    let Options {
        spec, url, queue, ..
    } = options;
    let ready = || println!("ready");
    match spec.contender {
        Contender::Ours => {
            let connection = Connection::open(url).await?;
            let mut server =
                ours::serve(&connection, queue, spec.traffic, options.services).await?;
            ready();
            Ok(server.ended().await?)
        }
        Contender::Tutorial => tutorial::serve(url, queue, ready).await,
        Contender::Engineer => engineer::serve(url, queue, ready).await,
        Contender::Same => same::serve(url, queue, spec.traffic, ready).await,
        Contender::Fastest => fastest::serve(url, queue, ready).await,
        Contender::Embedded | Contender::Direct => {
            Err("this contender has no separate server".into())
        }
    }
}

async fn call(options: &Options) -> Outcome<Report> {
    let Options {
        spec,
        url,
        queue,
        load,
        clients,
        services,
        ..
    } = options;
    let processes = options.processes.clone();
    let traffic = spec.traffic;
    let report = match spec.contender {
        Contender::Ours => {
            let connection = Connection::open(url).await?;
            let run = |window| {
                ours::call(
                    &connection,
                    queue,
                    traffic,
                    *clients,
                    *services,
                    load,
                    window,
                )
            };
            Report::of(load, processes, run).await
        }
        Contender::Embedded => {
            let connection = Connection::open("memory:").await?;
            let _server = ours::serve(&connection, queue, traffic, *services).await?;
            let run = |window| {
                ours::call(
                    &connection,
                    queue,
                    traffic,
                    *clients,
                    *services,
                    load,
                    window,
                )
            };
            Report::of(load, processes, run).await
        }
        Contender::Direct => {
            Report::of(load, processes, |window| ours::call_directly(load, window)).await
        }
        Contender::Tutorial | Contender::Engineer => {
            Report::of(load, processes, async |window| {
                engineer::call(url, queue, load, window)
                    .await
                    .expect("calls")
            })
            .await
        }
        Contender::Same => {
            Report::of(load, processes, async |window| {
                same::call(url, queue, traffic, load, window)
                    .await
                    .expect("calls")
            })
            .await
        }
        Contender::Fastest => {
            Report::of(load, processes, async |window| {
                fastest::call(url, queue, load, window)
                    .await
                    .expect("calls")
            })
            .await
        }
    };
    Ok(report)
}
