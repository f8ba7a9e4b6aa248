//! `rpc top`: all services of a broker, live in a terminal.
//!
//! `survey` asks the servers, `state` has the user's choices and follows the keys, `view` draws both.

mod state;
mod survey;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use crossterm::event::EventStream;
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use tokio::select;
use tokio::time::sleep;

use self::state::{Next, State};
use self::survey::{Survey, Surveyor};
use crate::app::App;
use crate::cli::duration;
use crate::failure::{Exit, Failure};

#[derive(clap::Args, Debug)]
#[command(after_help = state::KEYS)]
pub(crate) struct Args {
    /// Pause between two looks at the broker. A look takes the time of --within as well.
    #[arg(long, short, value_name = "TIME", default_value = "1s", value_parser = duration)]
    interval: Duration,

    /// Shows only services whose names contain this text.
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    filter: String,
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    if app.out.is_json() {
        return Err(Failure::usage(
            "rpc top draws on a terminal: programs use `rpc list --json` and `rpc stats SERVICE --watch --json`",
        ));
    }
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(Failure::usage(
            "rpc top needs a terminal for its input and its output: without one, use `rpc list` and `rpc stats SERVICE`",
        ));
    }
    // A refusal of the login is told before the terminal changes.
    let connection = app.broker.connection().await?.clone();
    let surveyor = Surveyor::new(connection, app.global.within);
    let mut screen = Screen::open()?;
    watch(
        surveyor,
        State::new(args.filter),
        args.interval,
        &mut screen,
    )
    .await
}

/// The terminal in the mode for drawing. Dropping it gives the terminal back as it was, also after a panic.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| give_back())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // A terminal that is gone needs nothing back.
    let _ = ratatui::try_restore();
}

/// Draws until the user quits.
async fn watch(
    surveyor: Surveyor,
    mut state: State,
    pause: Duration,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let mut events = EventStream::new();
    let mut looking = Box::pin(look(surveyor, Duration::ZERO));
    loop {
        screen.0.draw(|frame| view::draw(frame, &state))?;
        select! {
            event = events.next() => match event {
                Some(event) => match state.handle(&event?) {
                    Next::Draw => {}
                    Next::Quit => return Ok(()),
                    Next::Interrupt => return Err(Failure::interrupted()),
                },
                // The terminal is gone.
                None => return Ok(()),
            },
            (surveyor, result) = &mut looking => {
                match result {
                    Ok(survey) => state.update(survey),
                    Err(failure) if failure.exit() == Exit::PermissionDenied => return Err(failure),
                    // The connection comes back by itself.
                    Err(failure) => state.trouble(failure.message()),
                }
                looking = Box::pin(look(surveyor, pause));
            }
        }
    }
}

/// Looks at the broker after a pause.
async fn look(mut surveyor: Surveyor, pause: Duration) -> (Surveyor, Result<Survey, Failure>) {
    sleep(pause).await;
    let survey = surveyor.survey().await;
    (surveyor, survey)
}
