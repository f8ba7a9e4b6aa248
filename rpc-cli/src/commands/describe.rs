//! `rpc describe`: the contract of a service.

mod rust;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rpc_core::instances::{InstanceInfo, ServiceInfo};

use crate::app::App;
use crate::description;
use crate::failure::Failure;
use crate::instances::{instance_that_starts, no_instance, only};
use crate::output::note;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Prints the contract as a trait that #[rpc] accepts; its types are named, not defined. With --json, prints the whole description, with the \
JSON Schemas of the types if the servers have them. --schema reads such a file:

  rpc describe Fib --json > fib.json
  rpc describe --schema fib.json")]
pub(crate) struct Args {
    /// Name of the service. With --schema, it may be left out.
    #[arg(required_unless_present = "schema")]
    service: Option<String>,

    /// Describes the contract with this hash, or this beginning of a hash.
    #[arg(long, value_name = "HASH", conflicts_with_all = ["instance", "schema"])]
    contract: Option<String>,

    /// Describes the contract of the instance with this id, or this beginning of an id.
    #[arg(long, value_name = "ID", conflicts_with = "schema")]
    instance: Option<String>,

    /// Reads the description from a file that `rpc describe --json` wrote, or from standard input if FILE is -. Asks no server.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let service = match &args.schema {
        Some(file) => description::from_file(file, args.service.as_deref())?,
        None => ask(&args, app).await?,
    };
    match app.out.is_json() {
        true => app.out.json(&service),
        false => app.out.line(rust::text(&service).trim_end()),
    }
}

/// Asks the running servers.
async fn ask(args: &Args, app: &App) -> Result<ServiceInfo, Failure> {
    let name = args.service.as_deref().unwrap_or_default();
    let client = app.client().await?;
    let within = app.global.within;
    let instances = client.instances(name).within(within).await?;
    if instances.is_empty() {
        return Err(no_instance(name));
    }
    // The same instances answer again, so that the second question need not wait for others.
    let question = client.describe(name).within(within).expect(instances.len());
    let question = match (&args.contract, &args.instance) {
        (Some(start), _) => question.contract(contract_that_starts(start, &instances)?),
        (_, Some(start)) => question.instance(&instance_that_starts(start, &instances)?.id),
        _ => {
            note_contracts(&instances);
            question
        }
    };
    Ok(question.await?)
}

fn contract_that_starts(start: &str, instances: &[InstanceInfo]) -> Result<String, Failure> {
    let hashes = by_contract(instances).into_keys();
    only(
        "contract",
        start,
        hashes.filter(|hash| hash.starts_with(start)),
    )
}

/// Tells that instances serve different contracts.
fn note_contracts(instances: &[InstanceInfo]) {
    let contracts = by_contract(instances);
    if contracts.len() < 2 {
        return;
    }
    note(format_args!(
        "the instances serve {} contracts, and this is the one that most of them serve; --contract HASH selects another:",
        contracts.len()
    ));
    for (hash, instances) in contracts {
        let versions: std::collections::BTreeSet<_> = instances
            .iter()
            .map(|instance| &*instance.version)
            .collect();
        let versions: Vec<_> = versions.into_iter().collect();
        note(format_args!(
            "  {hash}  version {}, instances: {}",
            crate::output::visible(&versions.join(", ")),
            instances.len()
        ));
    }
}

fn by_contract(instances: &[InstanceInfo]) -> BTreeMap<String, Vec<&InstanceInfo>> {
    let mut contracts = BTreeMap::<_, Vec<_>>::new();
    for instance in instances {
        let hash = instance.contract.clone();
        contracts.entry(hash).or_default().push(instance);
    }
    contracts
}
