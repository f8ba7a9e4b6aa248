//! The client of RabbitMQ's RPC tutorial, in Rust. It calls `fib_server` or the tutorial's own server.
//!
//! ```text
//! cargo run --example fib_client -- [--url URL] [--queue NAME] [N]
//! ```
//!
//! The program prints `[x] Requesting fib(30)` and `[.] Got 832040`. By default, the URL is that of `AMQP_URL`, else
//! `amqp://guest:guest@127.0.0.1:5672/%2f`, and the queue is `rpc_queue`.

use std::error::Error;
use std::process::ExitCode;

use lexopt::prelude::*;
use rpc_core::Connection;
use rpc_examples::{FibClient, default_url, exit_code};

const USAGE: &str = "usage: fib_client [--url URL] [--queue NAME] [N]";

struct Options {
    url: String,
    queue: String,
    n: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("fib_client", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let Options { url, queue, n } = options().map_err(|error| format!("{error}; {USAGE}"))?;
    let connection = Connection::builder(url).name("fib_client").open().await?;
    // A plain client sends the tutorial's messages, so the server need not use this crate.
    let fib = FibClient::new(connection.client_builder().plain().build()).with_queue(queue);
    println!("[x] Requesting fib({n})");
    let number = fib.fib(n).await?;
    println!("[.] Got {number}");
    connection.close().await;
    Ok(())
}

fn options() -> Result<Options, lexopt::Error> {
    let mut options = Options {
        url: default_url(),
        queue: "rpc_queue".to_owned(),
        n: 30,
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
            Value(number) => options.n = number.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}
