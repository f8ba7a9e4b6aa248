//! `rpc stats`: the numbers of the instances and methods of a service.

mod rows;

use std::time::Duration;

use rpc_core::Client;
use rpc_core::instances::InstanceStats;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::app::App;
use crate::cli::duration;
use crate::failure::{Exit, Failure};
use crate::instances::no_instance;
use crate::output::{note, table, visible};
use crate::rates::{Meter, Rates};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Prints a line for each method of each instance, then the oldest calls in flight. Instances count from their start, and asking resets \
nothing. ERRORS are the service's own, FAULTS are calls that the library answered, such as those of handlers that panicked.

With --watch, prints the numbers again and again, with the rates since the round before; on a terminal in the same place. With --json, \
each round is one line.")]
pub(crate) struct Args {
    /// Name of the service.
    service: String,

    /// Asks again after each INTERVAL, until Ctrl-C.
    #[arg(
        long,
        short,
        value_name = "INTERVAL",
        num_args = 0..=1,
        default_missing_value = "2s",
        value_parser = duration
    )]
    watch: Option<Duration>,
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let client = app.client().await?;
    match args.watch {
        Some(pause) => watch(&client, &args.service, pause, app).await,
        None => once(&client, &args.service, app).await,
    }
}

async fn once(client: &Client, service: &str, app: &mut App) -> Result<(), Failure> {
    let stats = client.stats(service).within(app.global.within).await?;
    if stats.is_empty() {
        return Err(no_instance(service));
    }
    if app.out.is_json() {
        let stats: Vec<_> = stats.iter().map(rows::json).collect();
        return app.out.json(&stats);
    }
    app.out.table(rows::HEADER, rows::methods(&stats))?;
    let oldest = rows::oldest(&stats);
    if !oldest.is_empty() {
        app.out.line("")?;
        app.out.table(rows::OLDEST, oldest)?;
    }
    Ok(())
}

/// One round of a watch.
struct Round {
    stats: Vec<InstanceStats>,
    /// The rates of each method of each instance.
    rates: Vec<Vec<Option<Rates>>>,
}

async fn watch(
    client: &Client,
    service: &str,
    pause: Duration,
    app: &mut App,
) -> Result<(), Failure> {
    let mut meter = Meter::default();
    // A zero interval is not allowed, and means the same.
    let mut ticks = interval(pause.max(Duration::from_nanos(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match ask(client, service, &mut meter, app.global.within).await {
            Ok(round) => show(service, &round, app)?,
            Err(failure) if is_passing(failure.exit()) => show_trouble(&failure, app)?,
            Err(failure) => return Err(failure),
        }
    }
}

/// Returns `true` for a failure after which a later round may succeed: the connection was lost, or servers start again.
fn is_passing(exit: Exit) -> bool {
    matches!(exit, Exit::NoBroker | Exit::Timeout | Exit::Unroutable)
}

async fn ask(
    client: &Client,
    service: &str,
    meter: &mut Meter,
    within: Duration,
) -> Result<Round, Failure> {
    let stats = client.stats(service).within(within).await?;
    if stats.is_empty() {
        return Err(no_instance(service));
    }
    let now = Instant::now();
    let rates = stats.iter().map(|instance| meter.read(instance, now));
    let rates = rates.collect();
    meter.forget(now);
    Ok(Round { stats, rates })
}

fn show(service: &str, round: &Round, app: &mut App) -> Result<(), Failure> {
    if app.out.is_json() {
        let instances = round.stats.iter().zip(&round.rates);
        let instances = instances.map(|(stats, rates)| rows::json_with_rates(stats, rates));
        return app.out.json_line(&instances.collect::<Vec<_>>());
    }
    app.out.redraw(screen(service, round))
}

/// The lines of a round for people.
fn screen(service: &str, round: &Round) -> Vec<String> {
    let (service, count) = (visible(service), round.stats.len());
    let mut lines = vec![format!("{service}, instances: {count}")];
    let rows = rows::methods_with_rates(&round.stats, &round.rates);
    lines.extend(table(rows::HEADER_WITH_RATES, rows));
    let oldest = rows::oldest(&round.stats);
    if !oldest.is_empty() {
        lines.push(String::new());
        lines.extend(table(rows::OLDEST, oldest));
    }
    lines
}

fn show_trouble(failure: &Failure, app: &mut App) -> Result<(), Failure> {
    if app.out.is_json() {
        return app.out.json_line(&json!({ "error": failure.message() }));
    }
    // The next round takes the place of the remark on a terminal.
    note(failure.message());
    Ok(())
}
