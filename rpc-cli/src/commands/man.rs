//! `rpc man`: the manual.

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::app::App;
use crate::cli::Cli;
use crate::failure::Failure;
use crate::files;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
  rpc man | man -l -                         shows the page
  rpc man --dir ~/.local/share/man/man1      installs all pages, such as rpc-list(1)")]
pub(crate) struct Args {
    /// Writes the pages of the program and of all its commands to this folder, which is created if it is missing.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    // The command `help` has the texts of the others.
    let command = Cli::command().disable_help_subcommand(true);
    match args.dir {
        Some(dir) => fs::create_dir_all(&dir)
            .and_then(|()| clap_mangen::generate_to(command, &dir))
            .map_err(|error| files::unwritable(&dir, &error)),
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            app.out.line(String::from_utf8_lossy(&page).trim_end())
        }
    }
}
