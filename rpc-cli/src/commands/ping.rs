//! `rpc ping`: the instances of a service, and the time that each needs for an answer.

mod rounds;

use std::time::Duration;

use rpc_core::Client;
use rpc_core::instances::InstanceInfo;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use self::rounds::Rounds;
use crate::app::App;
use crate::cli::duration;
use crate::failure::{Exit, Failure};
use crate::instances::{instance_that_starts, no_instance};
use crate::units;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Asks the running instances of a service for a sign of life, which no method of the service takes part in. Prints a line for each answer, \
and a summary after several rounds.

Exits with 0 if enough instances answered in every round, otherwise with 6: at least one, the one of --instance, or the number of \
--expect. Without --expect, a round takes the whole time of --within. A probe of Kubernetes:

  exec:
    command: [rpc, ping, Fib, --expect, '1', --quiet]")]
pub(crate) struct Args {
    /// Name of the service.
    service: String,

    /// Number of rounds.
    #[arg(long, short = 'c', value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    /// Time from the beginning of a round to that of the next one.
    #[arg(long, short = 'i', value_name = "TIME", default_value = "1s", value_parser = duration)]
    interval: Duration,

    /// Expects an answer of the instance with this id, or this beginning of an id, and shows no others.
    #[arg(long, value_name = "ID", conflicts_with = "expect")]
    instance: Option<String>,

    /// Expects answers of this number of instances. A round ends as soon as they have answered.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    expect: Option<u32>,

    /// Prints no answers.
    #[arg(long, short)]
    quiet: bool,
}

impl Args {
    /// Number of instances that a round needs.
    fn needed(&self) -> usize {
        self.expect.map_or(1, |expect| expect as usize)
    }
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let client = app.client().await?;
    let mut rounds = Rounds::default();
    let mut failure = None;
    // A zero interval is not allowed, and means the same.
    let mut ticks = interval(args.interval.max(Duration::from_nanos(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 1..=args.count {
        ticks.tick().await;
        let answers = match ask(&client, &args, app.global.within).await {
            Ok(answers) => answers,
            // An instance that is away may come back in a later round.
            Err(missing) if missing.exit() == Exit::Unroutable => {
                failure.get_or_insert(missing);
                Vec::new()
            }
            Err(other) => return Err(other),
        };
        if !args.quiet {
            for answer in &answers {
                print(answer, round, app)?;
            }
        }
        if answers.len() < args.needed() {
            failure.get_or_insert_with(|| too_few(&args, round, answers.len()));
        }
        rounds.add(answers);
    }
    if args.count > 1 && !args.quiet {
        match app.out.is_json() {
            true => app
                .out
                .json_line(&json!({ "summary": rounds.instances() }))?,
            false => {
                app.out.line("")?;
                app.out.table(rounds::HEADER, rounds.rows())?;
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Asks once. Fails with [`Exit::Unroutable`] without any instance, or without the one that is named.
async fn ask(client: &Client, args: &Args, within: Duration) -> Result<Vec<InstanceInfo>, Failure> {
    let mut question = client.instances(&args.service).within(within);
    if let Some(expect) = args.expect {
        question = question.expect(expect as usize);
    }
    let answers = question.await?;
    if answers.is_empty() {
        return Err(no_instance(&args.service));
    }
    match &args.instance {
        Some(start) => Ok(vec![instance_that_starts(start, &answers)?.clone()]),
        None => Ok(answers),
    }
}

fn too_few(args: &Args, round: u32, answered: usize) -> Failure {
    let message = format!(
        "{answered} of {} instances of {} answered in round {round}",
        args.needed(),
        args.service
    );
    Failure::new(Exit::Unroutable, message)
}

fn print(answer: &InstanceInfo, round: u32, app: &mut App) -> Result<(), Failure> {
    let InstanceInfo {
        id,
        name,
        version,
        round_trip,
        ..
    } = answer;
    if app.out.is_json() {
        return app.out.json_line(&json!({
            "round": round,
            "instance": id,
            "name": name,
            "version": version,
            "round_trip_ms": units::millis(*round_trip),
        }));
    }
    let (name, version) = (
        crate::output::visible(name),
        crate::output::visible(version),
    );
    app.out.line(format_args!(
        "{}  {name}  version {version}  {}",
        crate::output::visible(id),
        units::duration(*round_trip)
    ))
}
