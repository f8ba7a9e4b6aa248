//! The server of RabbitMQ's RPC tutorial, in Rust. It serves `fib_client`, the tutorial's own client, and typed clients.
//!
//! ```text
//! cargo run --example fib_server -- [--url URL] [--queue NAME] [--prefetch N] [--quorum | --existing]
//! ```
//!
//! The program prints `[x] Awaiting RPC requests`, then a line for each request, until Ctrl-C or SIGTERM. By default, the URL is that of
//! `AMQP_URL`, else `amqp://guest:guest@127.0.0.1:5672/%2f`, and the queue is `rpc_queue`.
//!
//! By default, the server declares a durable classic queue. With `--quorum` it declares a quorum queue, like the tutorial. With
//! `--existing` it uses the queue as it is if the queue exists, and declares a classic queue otherwise.

use std::error::Error;
use std::process::ExitCode;

use lexopt::prelude::*;
use rpc_core::{Connection, QueueOptions, ServeError, Server};
use rpc_examples::{
    Calculator, Fib, FibDispatcher, FibError, default_url, exit_code, told_to_stop,
};

const USAGE: &str =
    "usage: fib_server [--url URL] [--queue NAME] [--prefetch N] [--quorum | --existing]";

struct Options {
    url: String,
    queue: String,
    queue_options: QueueOptions,
    prefetch: u16,
}

/// Calculator that prints a line for each request.
struct Announcing(Calculator);

impl Fib for Announcing {
    fn fib(&self, n: u64) -> Result<u64, FibError> {
        println!("[.] fib({n})");
        self.0.fib(n)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("fib_server", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let options = options().map_err(|error| format!("{error}; {USAGE}"))?;
    let connection = Connection::builder(&options.url)
        .name("fib_server")
        .open()
        .await?;
    let dispatcher = FibDispatcher::new(Announcing(Calculator))
        .with_queue(&options.queue)
        .with_queue_options(options.queue_options);
    let mut server = Server::builder(&connection)
        .service(dispatcher)
        .prefetch(options.prefetch)
        .build()
        .start()
        .await
        .map_err(|error| match error {
            ServeError::QueueRefused { .. } => {
                format!("{error:?} (with --existing this program uses a queue as it is)").into()
            }
            error => Box::<dyn Error>::from(error),
        })?;
    println!("[x] Awaiting RPC requests");
    tokio::select! {
        ended = server.ended() => ended?,
        () = told_to_stop() => server.shutdown().await?,
    }
    connection.close().await;
    Ok(())
}

fn options() -> Result<Options, lexopt::Error> {
    // A prefetch of 1, as in the tutorial: the broker gives a busy server no further request.
    let mut options = Options {
        url: default_url(),
        queue: "rpc_queue".to_owned(),
        queue_options: QueueOptions::classic(),
        prefetch: 1,
    };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("help") => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            Long("url") => options.url = arguments.value()?.string()?,
            Long("queue") => options.queue = arguments.value()?.string()?,
            Long("quorum") => options.queue_options = QueueOptions::quorum(),
            Long("existing") => options.queue_options = QueueOptions::existing(),
            Long("prefetch") => options.prefetch = arguments.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}
