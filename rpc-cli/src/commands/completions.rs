//! `rpc completions`: scripts that let a shell complete the commands and options of the program.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::app::App;
use crate::cli::Cli;
use crate::failure::Failure;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
  bash        rpc completions bash > ~/.local/share/bash-completion/completions/rpc
  zsh         rpc completions zsh > ~/.zfunc/_rpc, with fpath+=~/.zfunc before compinit in ~/.zshrc
  fish        rpc completions fish > ~/.config/fish/completions/rpc.fish
  powershell  rpc completions powershell | Out-String | Invoke-Expression, in $PROFILE")]
pub(crate) struct Args {
    /// Name of the shell.
    shell: Shell,
}

pub(crate) fn run(args: &Args, app: &mut App) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rpc", &mut script);
    app.out.line(String::from_utf8_lossy(&script).trim_end())
}
