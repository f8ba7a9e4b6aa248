//! `rpc tail`: the calls of running servers, as they happen.

mod line;
mod record;

use std::time::Duration;

use rpc_core::instances::{TapBody, TapEventKind, TapOutcome};
use rpc_core::{ConnectionState, ContentType, Tap};
use tokio::time::timeout;

use self::line::{line, width};
use self::record::Record;
use crate::app::App;
use crate::cli::duration;
use crate::failure::{Exit, Failure};
use crate::instances::instance_that_starts;
use crate::output::{note, visible};
use crate::units::count;

/// Time for the last events of instances to arrive.
const GRACE: Duration = Duration::from_secs(2);

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Prints a line for each request and each answer. Watching changes nothing for callers and servers. The servers must allow it with \
`ServerBuilder::tap(true)`. The instances that run at the start are watched, and not those that start later. Times are in UTC, by the \
clock of the instance. Events that exceed the limits of a server are left out and counted.

  rpc tail Fib
  rpc tail Shop --method order --outcome error
  rpc tail Shop --header tenant=a --take 10")]
pub(crate) struct Args {
    /// Name of the service.
    service: String,

    /// Shows only the calls of this method.
    #[arg(long, value_name = "NAME")]
    method: Option<String>,

    /// Shows only calls whose requests have this header, or this value of it.
    #[arg(long, value_name = "NAME[=VALUE]")]
    header: Option<String>,

    /// Shows only calls with this outcome: the request and the answer, once the call has ended.
    #[arg(long)]
    outcome: Option<Outcome>,

    /// Shows only the calls of the instance with this id, or this beginning of an id.
    #[arg(long, value_name = "ID")]
    instance: Option<String>,

    /// Time for which calls are watched. A server shows them for 10 minutes at most.
    #[arg(long, short, value_name = "TIME", default_value = "1m", value_parser = duration)]
    duration: Duration,

    /// Ends after N events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    take: Option<u64>,
}

/// An outcome as a user types it.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Outcome {
    Result,
    Error,
    Fault,
}

impl From<Outcome> for TapOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Result => Self::Result,
            Outcome::Error => Self::Error,
            Outcome::Fault => Self::Fault,
        }
    }
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let tap = open(&args, app).await?;
    let limit = args.duration.saturating_add(GRACE);
    if let Ok(end) = timeout(limit, show(tap, &args, app)).await {
        return end;
    }
    note("an instance did not end in time: it may hang, and its last calls may be missing");
    Ok(())
}

/// Prints the events until all instances have ended, or until there are enough.
async fn show(mut tap: Tap, args: &Args, app: &mut App) -> Result<(), Failure> {
    let mut left = args.take.unwrap_or(u64::MAX);
    let mut last_error = None;
    while let Some(event) = tap.next().await {
        let is_event = match &event.kind {
            TapEventKind::Ended { error } => {
                if let Some(error) = error {
                    note(format_args!(
                        "the instance {} is watched no longer: {}",
                        visible(&event.instance),
                        visible(error)
                    ));
                }
                last_error = error.clone();
                false
            }
            // Skipped events are shown, and are not counted.
            kind => !matches!(kind, TapEventKind::Skipped { .. }),
        };
        match app.out.is_json() {
            true => app.out.json_line(&Record::of(&event))?,
            false => {
                if let Some(line) = line(&event) {
                    app.out.line(line.shown(width()))?;
                }
            }
        }
        left -= u64::from(is_event);
        if left == 0 {
            return Ok(());
        }
    }
    match last_error {
        None => Ok(()),
        Some(_) => {
            let connection = app.broker.connection().await?;
            let exit = match connection.state().current() {
                ConnectionState::Reconnecting { .. } => Exit::NoBroker,
                _ => Exit::Unroutable,
            };
            Err(Failure::new(
                exit,
                format!("no instance of {} is watched any longer", args.service),
            ))
        }
    }
}

/// Starts to watch, and tells on standard error which instances are watched and which are not.
async fn open(args: &Args, app: &App) -> Result<Tap, Failure> {
    let client = app.client().await?;
    let within = app.global.within;
    let mut query = client
        .tap(&args.service)
        .within(within)
        .duration(args.duration);
    if let Some(method) = &args.method {
        query = query.method(method);
    }
    match args.header.as_ref().map(|header| header.split_once('=')) {
        None => {}
        Some(Some((name, value))) => query = query.header_value(name, value),
        Some(None) => query = query.header(args.header.clone().unwrap_or_default()),
    }
    if let Some(outcome) = args.outcome {
        query = query.outcome(outcome.into());
    }
    if let Some(start) = &args.instance {
        let instances = client.instances(&args.service).within(within).await?;
        query = query.instance(&instance_that_starts(start, &instances)?.id);
    }
    let tap = query.await?;
    for (instance, error) in tap.refused() {
        note(format_args!(
            "the instance {} is not watched: {}",
            visible(&instance.id),
            visible(&error.to_string())
        ));
    }
    let watched = count(tap.instances().len(), "instance");
    note(format_args!("watching {watched} of {}", args.service));
    Ok(tap)
}

fn outcome(outcome: TapOutcome) -> &'static str {
    match outcome {
        TapOutcome::Result => "result",
        TapOutcome::Error => "error",
        _ => "fault",
    }
}

/// Returns a whole body as JSON; `None` if that is not possible.
fn json_of(body: &TapBody) -> Option<String> {
    body.encoded()?.to_json().ok()
}

/// Returns `true` for content that people can read although it is cut.
fn is_text(body: &TapBody) -> bool {
    match body.encoded() {
        Some(encoded) => encoded.content_type() != ContentType::MessagePack,
        None => {
            let content_type = body.content_type.as_deref().unwrap_or("text/plain");
            content_type.starts_with("text/") || content_type.contains("json")
        }
    }
}
