//! `rpc context`: saved connections.

use std::io;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::{Value, json};

use crate::app::App;
use crate::contexts::{Certificates, Context, Secret, Store};
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::units::{UNKNOWN, known};

#[derive(ClapArgs, Debug)]
#[command(after_help = "\
The connections are in the file `rpc/contexts.json` of the user's configuration folder, XDG_CONFIG_HOME or ~/.config. Only its owner may \
read it. No command prints a password.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Saves a connection.
    Add(Box<Add>),
    /// Lists the saved connections. A star marks the current one.
    List,
    /// Prints a saved connection, without its password.
    Show {
        /// Name of the connection.
        name: String,
    },
    /// Makes a saved connection the current one, which commands use without another choice.
    Use {
        /// Name of the connection.
        name: String,
    },
    /// Removes a saved connection.
    Remove {
        /// Name of the connection.
        name: String,
    },
}

#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Other users of the machine may see the arguments of a program while it runs, and a shell may keep them, so prefer --password-stdin or \
--password-command to a password in URL. The options --ca, --cert and --key are saved too.

  rpc context add prod amqps://ada@rabbit.example/%2f --password-command 'pass show prod' --use
  rpc context add test amqp://ada@localhost --password-stdin < password.txt")]
struct Add {
    /// Name of the connection.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,

    /// URL of the broker, such as amqps://user@host:5671/vhost.
    #[arg(value_name = "BROKER")]
    address: String,

    /// Name of the user. Default: that of the URL.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Command whose first line of output is the password. It runs for each connection.
    #[arg(long, value_name = "COMMAND", conflicts_with = "password_stdin")]
    password_command: Option<String>,

    /// Reads the password from the first line of standard input.
    #[arg(long)]
    password_stdin: bool,

    /// Makes the connection the current one.
    #[arg(long = "use")]
    make_current: bool,

    /// Replaces a saved connection of the same name.
    #[arg(long)]
    replace: bool,
}

pub(crate) fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let store = Store::of_user()?;
    match args.action {
        Action::Add(add) => save(*add, &store, app),
        Action::List => list(&store, app),
        Action::Show { name } => show(&name, &store, app),
        Action::Use { name } => store.change(|contexts| {
            contexts.named(&name)?;
            contexts.current = Some(name);
            Ok(())
        }),
        Action::Remove { name } => store.change(|contexts| {
            if contexts.contexts.remove(&name).is_none() {
                return Err(contexts.unknown(&name));
            }
            if contexts.current.as_ref() == Some(&name) {
                contexts.current = None;
            }
            Ok(())
        }),
    }
}

fn save(add: Add, store: &Store, app: &App) -> Result<(), Failure> {
    let context = new_context(&add, app.global.certificates.clone())?;
    let Add {
        name,
        make_current,
        replace,
        ..
    } = add;
    store.change(|contexts| {
        if contexts.contexts.contains_key(&name) && !replace {
            return Err(Failure::usage(format!(
                "the context '{name}' exists: --replace replaces it"
            )));
        }
        if make_current {
            contexts.current = Some(name.clone());
        }
        contexts.contexts.insert(name, context);
        Ok(())
    })?;
    note(format_args!("saved in {}", store.file().display()));
    Ok(())
}

fn new_context(add: &Add, certificates: Certificates) -> Result<Context, Failure> {
    let mut context = Context::from_url(&add.address)?;
    context.user = add.user.clone().or(context.user);
    let has_other = add.password_stdin || add.password_command.is_some();
    if context.password.is_some() && has_other {
        return Err(Failure::usage(
            "the URL has a password, and an option names another one: remove one of them",
        ));
    }
    if add.password_stdin {
        context.password = Some(Secret(read_password()?));
    }
    context.password_command = add.password_command.clone();
    let has_password = context.password.is_some() || context.password_command.is_some();
    match context.user.is_some() {
        true if !has_password && !context.is_external() => {
            return Err(Failure::usage(
                "the user has no password: use --password-stdin or --password-command",
            ));
        }
        false if has_password => {
            return Err(Failure::usage(
                "the password belongs to no user: name one in the URL, as in amqps://user@host, or with --user",
            ));
        }
        _ => {}
    }
    context.certificates = certificates.absolute()?;
    Ok(context)
}

fn read_password() -> Result<String, Failure> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let password = line.trim_end_matches(['\r', '\n']);
    match password.is_empty() {
        true => Err(Failure::new(
            Exit::Usage,
            "standard input has no password in its first line",
        )),
        false => Ok(password.to_owned()),
    }
}

fn list(store: &Store, app: &mut App) -> Result<(), Failure> {
    let contexts = store.load()?;
    if app.out.is_json() {
        let shown: Vec<_> = contexts
            .contexts
            .iter()
            .map(|(name, context)| as_json(name, context, contexts.current.as_deref()))
            .collect();
        return app.out.json(&shown);
    }
    if contexts.contexts.is_empty() {
        note("no connection is saved: `rpc context add` saves one");
        return Ok(());
    }
    let rows = contexts.contexts.iter().map(|(name, context)| {
        let is_current = contexts.current.as_ref() == Some(name);
        [
            if is_current { "*" } else { "" }.to_owned(),
            name.clone(),
            context.url.clone(),
            known(context.user.as_deref()),
            password_in_words(context).to_owned(),
        ]
    });
    let header = ["", "name", "url", "user", "password"];
    app.out.table(header, rows)
}

fn show(name: &str, store: &Store, app: &mut App) -> Result<(), Failure> {
    let contexts = store.load()?;
    let context = contexts.named(name)?;
    if app.out.is_json() {
        let shown = as_json(name, context, contexts.current.as_deref());
        return app.out.json(&shown);
    }
    let Certificates { ca, cert, key } = &context.certificates;
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|it| it.display().to_string());
    let rows = [
        ("name", Some(name.to_owned())),
        ("url", Some(context.url.clone())),
        ("user", context.user.clone()),
        ("password", Some(password_in_words(context).to_owned())),
        ("password command", context.password_command.clone()),
        ("ca", path(ca)),
        ("cert", path(cert)),
        ("key", path(key)),
    ];
    for (title, value) in rows {
        if let Some(value) = value {
            app.out
                .line(format_args!("{title}: {}", crate::output::visible(&value)))?;
        }
    }
    Ok(())
}

fn password_in_words(context: &Context) -> &'static str {
    match (&context.password, &context.password_command) {
        (_, Some(_)) => "from a command",
        (Some(_), None) => "saved",
        (None, None) => UNKNOWN,
    }
}

/// A context without its password.
fn as_json(name: &str, context: &Context, current: Option<&str>) -> Value {
    let Context {
        url,
        user,
        password,
        password_command,
        certificates,
    } = context;
    json!({
        "name": name,
        "current": current == Some(name),
        "url": url,
        "user": user,
        "password_saved": password.is_some(),
        "password_command": password_command,
        "ca": certificates.ca,
        "cert": certificates.cert,
        "key": certificates.key,
    })
}
