//! The commands, one file for each.

pub(crate) mod bench;
pub(crate) mod call;
pub(crate) mod completions;
pub(crate) mod context;
pub(crate) mod dead;
pub(crate) mod describe;
pub(crate) mod export;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod ping;
pub(crate) mod stats;
pub(crate) mod tail;
pub(crate) mod top;

use crate::app::App;
use crate::cli::Command;
use crate::failure::{EXIT_CODES, Failure};

/// Runs a command.
pub(crate) async fn run(command: Command, app: &mut App) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(args, app).await,
        Command::Describe(args) => describe::run(args, app).await,
        Command::Call(args) => call::run(args, app).await,
        Command::Ping(args) => ping::run(args, app).await,
        Command::Stats(args) => stats::run(args, app).await,
        Command::Top(args) => top::run(args, app).await,
        Command::Tail(args) => tail::run(args, app).await,
        Command::Dead(args) => dead::run(args, app).await,
        Command::Bench(args) => bench::run(args, app).await,
        Command::Export(args) => export::run(args, app).await,
        Command::Context(args) => context::run(args, app),
        Command::Completions(args) => completions::run(&args, app),
        Command::Man(args) => man::run(args, app),
        Command::ExitCodes => app.out.line(EXIT_CODES),
    }
}

/// Returns `true` for a command that ends by itself when the program is interrupted.
pub(crate) fn ends_itself(command: &Command) -> bool {
    matches!(command, Command::Bench(_))
}
