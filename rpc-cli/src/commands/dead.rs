//! `rpc dead`: requests that were given up.

mod queues;
mod shown;

use rpc_core::RpcError;
use rpc_core::dead_letters::{DeadLetter, DeadLetters, Retried, Selection};
use serde_json::{Value, json};

use self::shown::{details, row};
use crate::app::App;
use crate::confirm;
use crate::failure::{Exit, Failure};
use crate::output::{note, visible};
use crate::units::count;

/// Number of letters that are listed of each queue, without `--limit`.
const LISTED: usize = 100;

/// Most letters that a dry run reads from a queue.
const MAX_DRY: usize = 1_000_000;

#[derive(clap::Args, Debug)]
#[command(
    subcommand_negates_reqs = true,
    after_help = "\
  rpc dead Fib                       lists the dead letters of Fib
  rpc dead Fib show 8d2f00c1a9b4     shows one, with its headers and arguments
  rpc dead Fib retry 8d2f00c1a9b4    sends it to its request queue again
  rpc dead Fib drop --all            destroys all, after a question
  rpc dead --queue jobs.given-up     the same for a queue of any name

The dead-letter queue of a service is <QUEUE>.dead for each of its request queues. Running servers tell the request queues; without one, \
it is rpc.<SERVICE>. A server with another dead-letter queue needs --queue."
)]
pub(crate) struct Args {
    /// Name of the service. Comes before the action.
    #[arg(required_unless_present = "queue")]
    service: Option<String>,

    /// Works on this dead-letter queue. Default: those of the service.
    #[arg(long, global = true, value_name = "NAME")]
    queue: Option<String>,

    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Lists the oldest dead letters, and leaves all where they are.
    List {
        /// Name of the service, if it does not come before `list`.
        service: Option<String>,
        /// Number of letters to list of each queue.
        #[arg(long, value_name = "N", default_value_t = LISTED)]
        limit: usize,
    },
    /// Shows one dead letter: reason, counts, time, headers and arguments.
    #[command(override_usage = "rpc dead <SERVICE> show <ID>")]
    Show {
        /// Id of the letter, from the list.
        id: String,
    },
    /// Sends dead letters to their request queues again, in transactions: nothing is lost or doubled if this program dies. A request queue that is
    /// full and refuses letters is an exception: if the program dies then, the refused letters are lost. So is a node of the broker that dies.
    ///
    /// A letter with the reason `delivery-limit` was given up because servers died while they ran it. It may end the servers that run it again.
    #[command(
        override_usage = "rpc dead <SERVICE> retry <ID>...\n       rpc dead <SERVICE> retry --all"
    )]
    Retry {
        #[command(flatten)]
        letters: Letters,
    },
    /// Destroys dead letters, after a question.
    #[command(
        override_usage = "rpc dead <SERVICE> drop <ID>...\n       rpc dead <SERVICE> drop --all"
    )]
    Drop {
        #[command(flatten)]
        letters: Letters,
        /// Asks no question before the letters are destroyed.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(clap::Args, Debug)]
struct Letters {
    /// Ids of letters, from the list.
    #[arg(required_unless_present = "all", value_name = "ID")]
    ids: Vec<String>,

    /// All letters that are in the queue now.
    #[arg(long, conflicts_with = "ids")]
    all: bool,

    /// Lists the letters, and changes nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Letters {
    /// Returns the selection without the letters that are known to be done.
    fn selection(&self) -> Selection {
        match self.all {
            true => Selection::All,
            false => self.ids.iter().cloned().collect(),
        }
    }

    fn has(&self, letter: &DeadLetter) -> bool {
        self.all || self.ids.contains(&letter.id)
    }
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let Args {
        service,
        queue,
        action,
    } = args;
    let action = action.unwrap_or(Action::List {
        service: None,
        limit: LISTED,
    });
    let service = match &action {
        Action::List { service: after, .. } => service.or_else(|| after.clone()),
        _ => service,
    };
    if let Action::Drop {
        letters,
        yes: false,
    } = &action
        && !letters.dry_run
    {
        confirm::require_terminal("drop destroys letters")?;
    }
    let queues = queues::find(service, queue, app).await?;
    match action {
        Action::List { limit, .. } => list(&queues, limit, app).await,
        Action::Show { id } => show(&queues, &id, app).await,
        Action::Retry { letters } | Action::Drop { letters, .. } if letters.dry_run => {
            dry_run(&queues, &letters, app).await
        }
        Action::Retry { letters } => retry(&queues, &letters, app).await,
        Action::Drop { letters, yes } => {
            if !yes {
                confirm_drop(&queues, &letters).await?;
            }
            discard(&queues, &letters, app).await
        }
    }
}

async fn list(queues: &[DeadLetters], limit: usize, app: &mut App) -> Result<(), Failure> {
    let mut letters = Vec::new();
    for dead in queues {
        letters.extend(dead.list(limit).await?);
        let waiting = app.broker.connection().await?.queue_status(dead.queue());
        let waiting = waiting.await?.map_or(0, |status| status.messages);
        if usize::try_from(waiting).is_ok_and(|waiting| waiting > limit) {
            let queue = dead.queue();
            note(format_args!(
                "{queue} has {waiting} letters: --limit lists more"
            ));
        }
    }
    print(&letters, app)
}

fn print(letters: &[DeadLetter], app: &mut App) -> Result<(), Failure> {
    if app.out.is_json() {
        let letters: Vec<_> = letters.iter().map(details).collect();
        return app.out.json(&letters);
    }
    if letters.is_empty() {
        note("no dead letters");
        return Ok(());
    }
    app.out.table(shown::HEADER, letters.iter().map(row))
}

async fn show(queues: &[DeadLetters], id: &str, app: &mut App) -> Result<(), Failure> {
    for dead in queues {
        if let Some(letter) = dead.find(id).await? {
            return match app.out.is_json() {
                true => app.out.json(&details(&letter)),
                false => shown::print(&letter, &mut app.out),
            };
        }
    }
    Err(not_found(&[id.to_owned()]))
}

async fn dry_run(queues: &[DeadLetters], letters: &Letters, app: &mut App) -> Result<(), Failure> {
    let mut selected = Vec::new();
    for dead in queues {
        let listed = dead.list(MAX_DRY).await?;
        selected.extend(listed.into_iter().filter(|letter| letters.has(letter)));
    }
    note(format_args!(
        "a dry run: {} selected, and nothing was changed",
        count(selected.len(), "letter")
    ));
    print(&selected, app)?;
    let found = |id: &&String| selected.iter().any(|letter| letter.id == **id);
    let missing: Vec<_> = letters
        .ids
        .iter()
        .filter(|id| !found(id))
        .cloned()
        .collect();
    all_found(&missing)
}

async fn retry(queues: &[DeadLetters], letters: &Letters, app: &mut App) -> Result<(), Failure> {
    let retrying = async |dead: &DeadLetters| dead.retry(letters.selection()).await;
    let (outcomes, failure) = each(queues, retrying).await;
    let sum = |number: fn(&Retried) -> usize| -> usize {
        outcomes.iter().map(|(_, it)| number(it)).sum()
    };
    let retried = sum(|outcome| outcome.retried.len());
    let failed = sum(|outcome| outcome.kept.len() + outcome.uncertain.len());
    for (_, outcome) in &outcomes {
        for kept in &outcome.kept {
            let doubt = match outcome.may_exist_twice.contains(&kept.id) {
                true => "; it may be in its request queue as well",
                false => "",
            };
            note(format_args!("{} stays: {}{doubt}", kept.id, kept.reason));
        }
        for id in &outcome.uncertain {
            note(format_args!(
                "{id} is retried or stays: the connection was lost before the broker answered"
            ));
        }
    }
    match app.out.is_json() {
        true => app.out.json(&results(&outcomes))?,
        false => app
            .out
            .line(format_args!("{} retried", count(retried, "letter")))?,
    }
    let missing = missing(letters, outcomes.iter().map(|(_, it)| &it.not_found));
    let interrupted = outcomes.into_iter().find_map(|(_, it)| it.interrupted);
    if let Some(error) = interrupted.or(failure) {
        return Err(error.into());
    }
    all_found(&missing)?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::new(
            Exit::Failed,
            format!("{} not retried", count(failed, "letter")),
        )),
    }
}

async fn discard(queues: &[DeadLetters], letters: &Letters, app: &mut App) -> Result<(), Failure> {
    let discarding = async |dead: &DeadLetters| dead.discard(letters.selection()).await;
    let (outcomes, failure) = each(queues, discarding).await;
    let dropped: usize = outcomes.iter().map(|(_, it)| it.discarded.len()).sum();
    let uncertain = outcomes.iter().flat_map(|(_, it)| &it.uncertain);
    for id in uncertain {
        note(format_args!(
            "{id} is dropped or stays: the connection was lost before the broker answered"
        ));
    }
    match app.out.is_json() {
        true => app.out.json(&results(&outcomes))?,
        false => app
            .out
            .line(format_args!("{} dropped", count(dropped, "letter")))?,
    }
    let missing = missing(letters, outcomes.iter().map(|(_, it)| &it.not_found));
    let interrupted = outcomes.into_iter().find_map(|(_, it)| it.interrupted);
    match interrupted.or(failure) {
        Some(error) => Err(error.into()),
        None => all_found(&missing),
    }
}

/// Asks before letters are destroyed.
async fn confirm_drop(queues: &[DeadLetters], letters: &Letters) -> Result<(), Failure> {
    let queues: Vec<_> = queues.iter().map(DeadLetters::queue).collect();
    let number = match letters.all {
        true => "all letters".to_owned(),
        false => count(letters.ids.len(), "letter"),
    };
    let queues = visible(&queues.join(", "));
    confirm::ask(&format!("Destroy {number} in {queues}?")).await
}

/// Works on one queue after another, up to the first error. Returns the outcomes by queue, which are to be printed before the error.
async fn each<T>(
    queues: &[DeadLetters],
    work: impl AsyncFn(&DeadLetters) -> Result<T, RpcError>,
) -> (Vec<(&str, T)>, Option<RpcError>) {
    let mut outcomes = Vec::new();
    for dead in queues {
        match work(dead).await {
            Ok(outcome) => outcomes.push((dead.queue(), outcome)),
            Err(error) => return (outcomes, Some(error)),
        }
    }
    (outcomes, None)
}

fn results<T: serde::Serialize>(outcomes: &[(&str, T)]) -> Value {
    let outcomes = outcomes.iter();
    outcomes
        .map(|(queue, outcome)| json!({ "queue": queue, "outcome": outcome }))
        .collect()
}

/// Returns the ids that no queue has.
fn missing<'a>(letters: &Letters, not_found: impl Iterator<Item = &'a Vec<String>>) -> Vec<String> {
    let not_found: Vec<_> = not_found.collect();
    let ids = letters.ids.iter();
    let missing = ids.filter(|id| not_found.iter().all(|missing| missing.contains(id)));
    missing.cloned().collect()
}

fn all_found(missing: &[String]) -> Result<(), Failure> {
    match missing.is_empty() {
        true => Ok(()),
        false => Err(not_found(missing)),
    }
}

fn not_found(ids: &[String]) -> Failure {
    let ids = ids.join(", ");
    Failure::new(
        Exit::Failed,
        format!("no dead letter has the id {ids}: `rpc dead SERVICE` lists them"),
    )
}
