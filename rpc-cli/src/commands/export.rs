//! `rpc export`: the contract of a service as a document for other tools.

mod asyncapi;
mod json_schema;
mod payloads;
#[cfg(test)]
mod samples;
mod schemas;
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::server::BrokerAddress;
use crate::app::App;
use crate::description;
use crate::failure::Failure;
use crate::files;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
  rpc export Fib
  rpc export Fib --format json-schema --output schemas/
  rpc describe Fib --json | rpc export --schema -")]
pub(crate) struct Args {
    /// Name of the service. With --schema, it may be left out.
    #[arg(required_unless_present = "schema")]
    service: Option<String>,

    /// Format of the document. Both are JSON, which is YAML too.
    #[arg(long, value_enum, default_value = "asyncapi")]
    format: Format,

    /// Reads the description from a file that `rpc describe --json` wrote, or from standard input if FILE is -. Asks no server.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,

    /// File for the document instead of standard output. With json-schema, a directory, or a name that ends in /: one file for each message.
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// AsyncAPI 3.0.0: channels, operations and messages.
    Asyncapi,
    /// JSON Schema, draft 2020-12: the body of every message.
    JsonSchema,
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let (service, broker) = match (&args.schema, args.service) {
        (Some(file), service) => (description::from_file(file, service.as_deref())?, None),
        (None, service) => {
            let description = app.client().await?.describe(service.unwrap_or_default());
            let description = description.within(app.global.within).await?;
            (description, BrokerAddress::of(&app.broker.url()?))
        }
    };
    let output = args.output.as_deref();
    if args.format == Format::JsonSchema
        && let Some(directory) = output.filter(|path| is_directory(path))
    {
        return write_all(directory, &json_schema::files(&service));
    }
    let document = match args.format {
        Format::Asyncapi => asyncapi::document(&service, broker.as_ref()),
        Format::JsonSchema => json_schema::document(&service),
    };
    match output {
        Some(file) => write(file, &document),
        None => app.out.json(&document),
    }
}

fn is_directory(path: &Path) -> bool {
    path.is_dir() || path.to_string_lossy().ends_with(std::path::MAIN_SEPARATOR)
}

fn write_all(directory: &Path, documents: &[(String, Value)]) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(|error| files::unwritable(directory, &error))?;
    let mut documents = documents.iter();
    documents.try_for_each(|(name, document)| write(&directory.join(name), document))
}

fn write(file: &Path, document: &Value) -> Result<(), Failure> {
    files::write(file, &(serde_json::to_string_pretty(document)? + "\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::failure::Exit;

    #[test]
    fn the_files_of_json_schema_are_one_for_each_message() {
        let directory = std::env::temp_dir().join(format!("rpc-export-{}", std::process::id()));
        let files = json_schema::files(&samples::everything());
        write_all(&directory.join("new"), &files).expect("files");
        for (name, document) in &files {
            let text = fs::read_to_string(directory.join("new").join(name)).expect(name);
            let read: Value = serde_json::from_str(&text).expect(name);
            assert_eq!(&read, document);
        }
        fs::remove_dir_all(&directory).expect("the directory");
        let failure = write(&directory.join("x"), &json!({})).expect_err("a failure");
        assert_eq!(failure.exit(), Exit::Failed);
    }
}
