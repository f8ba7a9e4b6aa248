//! `rpc call`: calls a method with JSON, and prints its result as JSON.

mod items;
mod results;

use std::time::Duration;

use rpc_core::instances::MethodKind;
use rpc_core::{Call, CallError, ContentType, Encoded, RpcError};
use serde_json::Value;

use self::items::CallerItems;
use self::results::Results;
use crate::app::App;
use crate::arguments;
use crate::cli::duration;
use crate::failure::Failure;
use crate::header::HeaderArgument;
use crate::target::{MethodArgs, Target};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Results go to standard output as JSON, and everything else to standard error. A stream is one line of JSON for each item; the items that a \
method takes are read from standard input as JSON, one after the other. The exit code tells the outcome: see `rpc help exit-codes`.

  rpc call Fib fib 30
  rpc call Shop order '{\"article\":7,\"count\":2}' --header tenant=a
  rpc call Logs tail file=app.log --take 10
  seq 5 | rpc call Sums sum")]
pub(crate) struct Args {
    #[command(flatten)]
    method: MethodArgs,

    #[arg(value_name = "ARGUMENT", help = "Arguments of the method: values in order, or name=value", long_help = arguments::HELP)]
    arguments: Vec<String>,

    /// Sends a header: NAME=VALUE with text, NAME:=JSON with a number, true or false. May be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<HeaderArgument>,

    /// Time for the call. For streams: the longest silence of the server. Default: the method's, else 30s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,

    /// Calls all instances of the service, and prints the answers that arrive in the time of --within, each as a line of JSON with the id of its instance.
    #[arg(long, conflicts_with = "count")]
    all: bool,

    /// With --all: ends after this number of answers.
    #[arg(long, value_name = "N", requires = "all")]
    expect: Option<usize>,

    /// Calls the method N times, one call after the other. Ends at the first failure.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,

    /// Ends a stream after N items.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    take: Option<u64>,

    /// Prints a result that is text without quotes and escapes.
    #[arg(long, conflicts_with_all = ["json", "all"])]
    raw: bool,

    /// Prints the headers of the reply to standard error.
    #[arg(long, conflicts_with = "all")]
    reply_headers: bool,

    /// Format of the arguments on the wire. Servers without the feature `json` take MessagePack only.
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Msgpack,
}

/// Settings of each call.
struct Settings {
    headers: Vec<HeaderArgument>,
    timeout: Option<Duration>,
}

impl Settings {
    fn apply<R>(&self, mut call: Call<R>) -> Call<R> {
        for HeaderArgument { name, value } in &self.headers {
            call = call.header(name, value.clone());
        }
        match self.timeout {
            Some(timeout) => call.timeout(timeout),
            None => call,
        }
    }
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let Args {
        method,
        arguments: words,
        header,
        timeout,
        all,
        expect,
        count,
        take,
        raw,
        reply_headers,
        format,
    } = args;
    let target = Target::find(method, app).await?;
    if target.kind.takes_items() && (count > 1 || arguments::is_stdin(&words)) {
        return Err(Failure::usage(
            "the method takes a stream, which is read from standard input: `-` and --count cannot be used with it",
        ));
    }
    let value = target.arguments(&words)?;
    let arguments = encode(&value, format)?;
    let settings = Settings {
        headers: header,
        timeout,
    };
    let mut results = Results {
        out: &mut app.out,
        is_raw: raw,
        shows_headers: reply_headers,
    };
    let Target {
        client,
        method,
        kind,
        info,
        ..
    } = target;
    if all {
        let call = settings.apply(client.call(&method, arguments));
        let gather = call.to_all_instances().within(app.global.within);
        let gather = match expect {
            Some(expected) => gather.expect(expected),
            None => gather,
        };
        return results.of_instances(gather.send().await?).await;
    }
    for _ in 0..count {
        let arguments = arguments.clone();
        match kind {
            MethodKind::Oneway => {
                let call = settings.apply(client.oneway(&method, arguments));
                call.await.map_err(failed)?;
            }
            MethodKind::ServerStreaming => {
                let call = settings.apply(client.server_streaming(&method, arguments));
                results.of_stream(call.await, take).await?;
            }
            MethodKind::ClientStreaming => {
                let (items, problem) = CallerItems::from_stdin(info.as_ref());
                let call = settings.apply(client.client_streaming(&method, arguments, items));
                problem.or(async { results.of_call(call).await }).await?;
            }
            MethodKind::Bidirectional => {
                let (items, problem) = CallerItems::from_stdin(info.as_ref());
                let call = settings.apply(client.bidirectional(&method, arguments, items));
                let reading = async { results.of_stream(call.await, take).await };
                problem.or(reading).await?;
            }
            _ => {
                let call = settings.apply(client.call(&method, arguments));
                results.of_call(call).await?;
            }
        }
    }
    Ok(())
}

fn encode(value: &Value, format: Format) -> Result<Encoded, RpcError> {
    let content_type = match format {
        Format::Json => ContentType::Json,
        Format::Msgpack => ContentType::MessagePack,
    };
    Encoded::encode(content_type, value)
}

/// Failure of a call. The message tells if the request may have run.
fn failed(error: RpcError) -> Failure {
    let note = match error.may_have_executed() {
        true => "the request may have run",
        false => "the request did not run",
    };
    Failure::from(error).with_note(note)
}

/// Failure of a call, or the service's own error.
fn failed_call(error: CallError<Encoded>) -> Failure {
    match error {
        CallError::App(error) => Failure::service_error(&results::text(&error)),
        CallError::Rpc(error) => failed(error),
    }
}
