//! The command line as a user types it.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::connect::PRECEDENCE;
use crate::contexts::Certificates;
use crate::failure::EXIT_CODES;

/// Looks at the services on a RabbitMQ broker, and calls them.
#[derive(Debug, Parser)]
#[command(name = "rpc", version, propagate_version = true, after_help = PRECEDENCE)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of all commands.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// URL of the broker, such as amqp://user:password@host:5672/vhost. Default: the variable RPC_URL; `rpc help` has the order.
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) url: Option<String>,

    /// Uses the saved connection of this name. Default: the variable RPC_CONTEXT.
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) context: Option<String>,

    #[command(flatten)]
    pub(crate) certificates: Certificates,

    /// Prints JSON instead of text for people.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Time for which answers of running servers are gathered.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration, global = true)]
    pub(crate) within: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the services and their instances on the broker.
    List(commands::list::Args),
    /// Prints the contract of a service as a Rust trait.
    Describe(commands::describe::Args),
    /// Calls a method, with JSON in and out.
    Call(commands::call::Args),
    /// Asks the instances of a service for a sign of life.
    Ping(commands::ping::Args),
    /// Prints the numbers of calls, errors and times of the instances of a service.
    Stats(commands::stats::Args),
    /// Shows all services of the broker, live.
    Top(commands::top::Args),
    /// Shows the requests and answers of running servers as they happen.
    Tail(commands::tail::Args),
    /// Lists requests that were given up, runs them again, or destroys them.
    Dead(commands::dead::Args),
    /// Calls a method many times, and measures the answers.
    Bench(commands::bench::Args),
    /// Writes the contract of a service as an AsyncAPI document or as JSON Schemas.
    Export(commands::export::Args),
    /// Saves connections, and chooses one.
    Context(commands::context::Args),
    /// Prints a script with which a shell completes commands and options.
    Completions(commands::completions::Args),
    /// Prints the manual page, or writes all pages.
    Man(commands::man::Args),
    /// Prints the exit codes.
    #[command(long_about = EXIT_CODES)]
    ExitCodes,
}

/// Parses a time such as `500ms`, `30s`, `5m` or `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let advice = || {
        format!("'{text}' is not a time: write a number and a unit, such as 500ms, 30s, 5m or 1h")
    };
    let number: f64 = number.parse().map_err(|_| advice())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(advice()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| advice())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for text in ["", "5", "s", "-1s", "1d", "1 s", "1e400s", "1.2.3s"] {
            let error = duration(text).expect_err(text);
            assert!(error.contains("is not a time"), "{error}");
        }
    }
}
