//! The method that a command calls: from the words of the command line to a client that knows the contract.

use std::path::PathBuf;

use rpc_core::instances::{MethodInfo, MethodKind, ServiceInfo};
use rpc_core::{Client, ErrorKind, UntypedClient};
use serde_json::Value;

use crate::app::App;
use crate::arguments;
use crate::description;
use crate::failure::Failure;
use crate::output::note;

/// Options that name a method.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct MethodArgs {
    /// Name of the service.
    pub(crate) service: String,

    /// Name of the method.
    pub(crate) method: String,

    /// Reads the description from a file that `rpc describe --json` wrote, or from standard input if FILE is -. Asks no server.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,

    /// Sends the request to this queue. Default: the queue that the running servers read, else rpc.<SERVICE>.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,

    /// Sends a plain request, without the name of the method, to a server that does not use this library. Asks no server for its contract.
    #[arg(long, requires = "queue", conflicts_with = "schema")]
    plain: bool,

    /// Kind of the method, if no server describes it.
    #[arg(long, value_enum, default_value = "unary")]
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Unary,
    Oneway,
    ServerStreaming,
    ClientStreaming,
    Bidirectional,
}

impl From<Kind> for MethodKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Unary => Self::Unary,
            Kind::Oneway => Self::Oneway,
            Kind::ServerStreaming => Self::ServerStreaming,
            Kind::ClientStreaming => Self::ClientStreaming,
            Kind::Bidirectional => Self::Bidirectional,
        }
    }
}

/// A method to call.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) client: UntypedClient,
    /// Name of the method; empty in a plain request.
    pub(crate) method: String,
    pub(crate) kind: MethodKind,
    /// Description of the method; `None` if no server describes the service.
    pub(crate) info: Option<MethodInfo>,
    /// The request is plain.
    pub(crate) is_plain: bool,
}

impl Target {
    /// Finds a method. Asks a running server for the contract, unless the options give it.
    pub(crate) async fn find(args: MethodArgs, app: &App) -> Result<Self, Failure> {
        let service = if args.plain {
            None
        } else if let Some(file) = &args.schema {
            Some(description::from_file(file, Some(&args.service))?)
        } else {
            ask(&args, &app.client().await?, app).await?
        };
        let info = match &service {
            Some(service) => Some(method(service, &args.method)?),
            None => None,
        };
        let connection = app.broker.connection().await?;
        let client = match args.plain {
            true => connection.client_builder().plain().build(),
            false => connection.client(),
        };
        let client = match service {
            Some(service) => UntypedClient::described(client, service),
            None => UntypedClient::new(client, &args.service),
        };
        Ok(Self {
            client: match args.queue {
                Some(queue) => client.with_queue(queue),
                None => client,
            },
            method: args.method,
            kind: info.as_ref().map_or(args.kind.into(), |info| info.kind),
            info,
            is_plain: args.plain,
        })
    }

    /// Returns the arguments that words stand for, checked against the description of the method.
    pub(crate) fn arguments(&self, words: &[String]) -> Result<Value, Failure> {
        let info = self.info.as_ref();
        if !arguments::is_stdin(words) {
            let value = arguments::parse(words, info)?;
            return match (self.is_plain, value) {
                // The servers of plain requests take the bare argument.
                (true, Value::Array(mut values)) if values.len() == 1 => Ok(values.remove(0)),
                (_, value) => Ok(value),
            };
        }
        let text = std::io::read_to_string(std::io::stdin())?;
        let value = serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("standard input is not JSON: {error}")))?;
        arguments::check(value, info)
    }
}

/// Asks for the contract; `None` if no server describes it.
async fn ask(
    args: &MethodArgs,
    client: &Client,
    app: &App,
) -> Result<Option<ServiceInfo>, Failure> {
    let question = client.describe(&*args.service).within(app.global.within);
    let question = match &args.queue {
        // Instances on other queues answer as well, perhaps earlier.
        Some(queue) => question.on_queue(queue),
        None => question.expect(1),
    };
    match question.await {
        Ok(service) => Ok(Some(service)),
        Err(error) if is_silence(error.kind()) => {
            note(format_args!(
                "no instance of {} describes itself, so the arguments are not checked: {error}",
                args.service
            ));
            note_without_server(args, app).await;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the request queue of a service whose trait names none.
pub(crate) fn default_queue(service: &str) -> String {
    format!("rpc.{service}")
}

/// Tells that no server reads the queue of the requests, so that a call waits for one.
async fn note_without_server(args: &MethodArgs, app: &App) {
    let queue = args.queue.clone();
    let queue = queue.unwrap_or_else(|| default_queue(&args.service));
    // A user without the permission to look at the queue gets no remark.
    if let Ok(connection) = app.broker.connection().await
        && let Ok(Some(status)) = connection.queue_status(&queue).await
        && status.consumers == 0
    {
        note(format_args!(
            "no server reads the queue {queue}: a request waits there for a server until its timeout"
        ));
    }
}

/// Returns `true` if the method can be called although no server has described it.
fn is_silence(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unroutable | ErrorKind::Timeout | ErrorKind::PermissionDenied
    )
}

fn method(service: &ServiceInfo, name: &str) -> Result<MethodInfo, Failure> {
    let mut methods = service.methods.iter();
    methods
        .find(|method| method.name == name)
        .cloned()
        .ok_or_else(|| {
            let names: Vec<_> = service.methods.iter().map(|method| &*method.name).collect();
            Failure::usage(format!(
                "{} has no method '{name}': it has {}",
                service.name,
                names.join(", ")
            ))
        })
}
