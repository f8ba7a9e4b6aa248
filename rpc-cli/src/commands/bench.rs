//! `rpc bench`: calls a method many times, and measures the answers.

mod chart;
mod consent;
mod load;
mod plot;
mod progress;
mod record;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rpc_core::instances::MethodKind;
use rpc_core::{Call, CallError, ContentType, Encoded, UntypedClient};
use tokio::time::Instant;

use self::load::{End, Pace};
use self::progress::Progress;
use self::record::{Outcome, Record};
use self::report::{Load, Report};
use crate::app::App;
use crate::arguments;
use crate::cli::duration;
use crate::confirm;
use crate::failure::Failure;
use crate::output::note;
use crate::target::{MethodArgs, Target};

/// Time of a run without `--duration` and `--count`.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Time before a run with a duration, unless `--warm-up` says otherwise.
const DEFAULT_WARM_UP: Duration = Duration::from_secs(1);

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Every call really runs: a method that is not marked `idempotent` needs --yes, or an answer on the terminal.

Without --rate, --concurrency callers each wait for an answer before the next call: the rate follows from the service. With --rate, calls \
start at that rate whatever the answers do, and the time of a call counts from its planned start. A service that stops for a second then \
shows in the percentiles, as its callers would feel it.

The percentiles count results, errors of the service and timeouts. Other failures are counted, without their times. A call of a oneway \
method ends when the broker has confirmed the request. Ctrl-C ends a run, and prints what was measured until then. The exit code is that of \
the most frequent failure if no call had a result.

  rpc bench Fib fib 30
  rpc bench Fib fib 30 --concurrency 50 --duration 1m
  rpc bench Shop price article=7 --rate 500 --plot latency.svg")]
pub(crate) struct Args {
    #[command(flatten)]
    method: MethodArgs,

    #[arg(value_name = "ARGUMENT", help = "Arguments of the method: values in order, or name=value", long_help = arguments::HELP)]
    arguments: Vec<String>,

    /// Number of callers that wait for their answers.
    #[arg(long, short, value_name = "N", default_value_t = 1, conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,

    /// Starts this number of calls per second, whatever the answers do.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,

    /// Time of the run, without the warm-up. Default: 10s, unless --count ends the run.
    #[arg(long, short, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,

    /// Ends the run after this number of calls.
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Time of calls before the run that are not measured. Default: 1s, or none with --count.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    warm_up: Option<Duration>,

    /// Time for each call. Default: the method's, else 30s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,

    /// Asks no question before calls of a method that is not idempotent.
    #[arg(long, short)]
    yes: bool,

    /// Prints a table of percentiles as comma-separated values.
    #[arg(long, conflicts_with = "json")]
    csv: bool,

    /// Draws the percentiles into a file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Parses a number of calls per second.
fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.trim_end_matches("/s").parse().ok();
    // Times between calls have nanoseconds, and fit into the clock.
    let rate = rate.filter(|rate| (1e-5..=1e9).contains(rate));
    rate.ok_or_else(|| {
        format!("'{text}' is not a rate: write a number of calls per second, such as 500")
    })
}

impl Args {
    fn load(&self) -> Load {
        match self.rate {
            Some(per_second) => Load::Open { per_second },
            None => Load::Closed {
                callers: self.concurrency,
            },
        }
    }

    /// Returns the longest time of the run.
    fn limit(&self) -> Option<Duration> {
        match (self.duration, self.count) {
            (None, None) => Some(DEFAULT_DURATION),
            (duration, _) => duration,
        }
    }

    fn warm_up(&self) -> Duration {
        let default = match self.count {
            Some(_) => Duration::ZERO,
            None => DEFAULT_WARM_UP,
        };
        self.warm_up.unwrap_or(default)
    }
}

/// A call that is made again and again.
struct Repeated {
    client: UntypedClient,
    method: Arc<str>,
    arguments: Encoded,
    is_oneway: bool,
    timeout: Option<Duration>,
}

impl Repeated {
    fn timed<R>(&self, call: Call<R>) -> Call<R> {
        match self.timeout {
            Some(timeout) => call.timeout(timeout),
            None => call,
        }
    }

    async fn call(&self) -> Outcome {
        let arguments = self.arguments.clone();
        if self.is_oneway {
            let call = self.timed(self.client.oneway(&self.method, arguments));
            return match call.await {
                Ok(()) => Outcome::Result,
                Err(error) => Outcome::Failed(error),
            };
        }
        match self.timed(self.client.call(&self.method, arguments)).await {
            Ok(_) => Outcome::Result,
            Err(CallError::App(error)) => Outcome::Error(error),
            Err(CallError::Rpc(error)) => Outcome::Failed(error),
        }
    }
}

/// Runs the command. Ctrl-C ends the measuring part by itself: its numbers are printed, and the failure is returned after that.
pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let (load, limit, warm_up) = (args.load(), args.limit(), args.warm_up());
    let (repeated, name) = tokio::select! {
        prepared = prepare(&args, limit, app) => prepared?,
        failure = crate::interrupted() => return Err(failure),
    };
    let mut record = Record::new();
    let measuring = async {
        if !warm_up.is_zero() {
            let mut ignored = Record::new();
            let end = End::after(warm_up);
            run_load(&load, end, &repeated, &mut ignored, &Progress::warm_up()).await;
        }
        let progress = Progress::of(limit, args.count);
        let end = End {
            at: limit.map(|limit| Instant::now() + limit),
            count: args.count,
        };
        record.begin();
        run_load(&load, end, &repeated, &mut record, &progress).await;
    };
    let interrupted = tokio::select! {
        () = measuring => None,
        failure = crate::interrupted() => Some(failure),
    };
    let report = Report::of(&record, name, load);
    if let Some(file) = &args.plot {
        plot::write(file, &report, &record)?;
    }
    if args.csv {
        app.out.line(report::csv(&record).trim_end())?;
    } else if app.out.is_json() {
        app.out.json(&report)?;
    } else {
        report.print(&record, &mut app.out)?;
    }
    match interrupted.or_else(|| record.failure()) {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// Finds the method, checks the arguments, and asks for consent. Returns the call, and its name.
async fn prepare(
    args: &Args,
    limit: Option<Duration>,
    app: &App,
) -> Result<(Repeated, String), Failure> {
    let target = Target::find(args.method.clone(), app).await?;
    let is_oneway = target.kind == MethodKind::Oneway;
    if !is_oneway && target.kind != MethodKind::Unary {
        return Err(Failure::usage(
            "the method has a stream: `rpc bench` calls methods with one answer or none",
        ));
    }
    let value = target.arguments(&args.arguments)?;
    let name = format!("{}.{}", args.method.service, target.method);
    let is_idempotent = target.info.as_ref().is_some_and(|info| info.idempotent);
    if !is_idempotent && !args.yes {
        let reason = consent::reason(&name, target.info.is_some(), args.count, limit);
        confirm::require_terminal(&reason)?;
        confirm::ask(&format!("{reason}. Continue?")).await?;
    }
    if is_oneway {
        note(format_args!(
            "{name} is oneway: the time of a call ends with the confirm of the broker"
        ));
    }
    let repeated = Repeated {
        client: target.client,
        method: target.method.into(),
        arguments: Encoded::encode(ContentType::Json, &value)?,
        is_oneway,
        timeout: args.timeout,
    };
    Ok((repeated, name))
}

async fn run_load(
    load: &Load,
    end: End,
    repeated: &Repeated,
    record: &mut Record,
    progress: &Progress,
) {
    let pace = match *load {
        Load::Closed { callers } => Pace::Closed {
            callers: callers as usize,
        },
        Load::Open { per_second } => Pace::Open(load::schedule(per_second)),
    };
    load::run(
        pace,
        end,
        || repeated.call(),
        record,
        |record| {
            progress.show(record);
        },
    )
    .await;
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(options: &str) -> Result<Args, clap::Error> {
        let words = ["rpc", "bench", "Fib", "fib", "30"].into_iter();
        let words = words.chain(options.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Command::Bench(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_run_ends_after_ten_seconds_unless_the_options_say_otherwise() {
        let seconds = Duration::from_secs;
        for (options, limit, warm_up) in [
            ("", Some(seconds(10)), seconds(1)),
            ("--count 5", None, seconds(0)),
            ("--count 5 --duration 2s", Some(seconds(2)), seconds(0)),
            ("--duration 2s", Some(seconds(2)), seconds(1)),
            ("-n 5 --warm-up 3s", None, seconds(3)),
        ] {
            let args = args(options).expect(options);
            assert_eq!(
                (args.limit(), args.warm_up()),
                (limit, warm_up),
                "{options}"
            );
        }
    }

    #[test]
    fn a_rate_is_an_open_loop() {
        let load = |options| args(options).map(|args| args.load());
        assert_eq!(load("").ok(), Some(Load::Closed { callers: 1 }));
        assert_eq!(load("-c 8").ok(), Some(Load::Closed { callers: 8 }));
        let open = Load::Open { per_second: 0.5 };
        assert_eq!(load("--rate 0.5/s").ok(), Some(open));
        for options in [
            "--rate 0",
            "--rate -1",
            "--rate x",
            "--rate 5 -c 2",
            "-c 0",
            "-n 0",
            "--rate inf",
        ] {
            assert!(load(options).is_err(), "{options}");
        }
    }
}
