//! `rpc list`: the services on a broker, and their instances.

mod rows;

use std::time::SystemTime;

use futures_util::future::join_all;
use rpc_core::instances::InstanceInfo;
use rpc_core::{Connection, RpcError};

use self::rows::ServiceRow;
use crate::app::App;
use crate::failure::Failure;
use crate::instances::no_instance;
use crate::output::note;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Without SERVICE, prints a line for each service and queue: the versions and the number of the running instances that read the queue, the \
messages that wait in the queue, and its consumers. Instances of one service on several queues are different deployments, or the service \
has queues for some of its methods.

With SERVICE or --instances, prints a line for each instance. Instances that differ in CONTRACT differ in their methods or types.")]
pub(crate) struct Args {
    /// Lists the instances of this service only.
    service: Option<String>,

    /// Lists instances instead of services.
    #[arg(long)]
    instances: bool,
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.broker.connection().await?.clone();
    let client = connection.client();
    let question = match &args.service {
        Some(service) => client.instances(service),
        None => client.all_instances(),
    };
    let instances = question.within(app.global.within).await?;
    if instances.is_empty() {
        match args.service {
            Some(service) => return Err(no_instance(&service)),
            None => note(
                "no server answers: are servers running on this virtual host, with introspection, and may their users bind queues to the \
                 exchange 'amq.direct'?",
            ),
        }
    }
    match args.instances || args.service.is_some() {
        true => list_instances(instances, app),
        false => list_services(&connection, instances, app).await,
    }
}

fn list_instances(instances: Vec<InstanceInfo>, app: &mut App) -> Result<(), Failure> {
    if app.out.is_json() {
        let instances: Vec<_> = instances.iter().map(rows::instance_json).collect();
        return app.out.json(&instances);
    }
    let now = SystemTime::now();
    let header = [
        "service", "version", "instance", "name", "uptime", "contract", "queues",
    ];
    let rows = instances
        .iter()
        .map(|instance| rows::instance(instance, now));
    app.out.table(header, rows)
}

async fn list_services(
    connection: &Connection,
    instances: Vec<InstanceInfo>,
    app: &mut App,
) -> Result<(), Failure> {
    let mut services = rows::services(&instances);
    if let Some(refusal) = ask_queues(connection, &mut services).await {
        note(format_args!(
            "some numbers of queues are missing: {refusal}"
        ));
    }
    if app.out.is_json() {
        return app.out.json(&services);
    }
    let header = [
        "service",
        "version",
        "instances",
        "contract",
        "queue",
        "ready",
        "consumers",
    ];
    app.out
        .table(header, services.iter().map(ServiceRow::cells))
}

/// Asks the broker for the numbers of the queues. A queue that the broker does not tell about keeps no numbers. Returns the first refusal.
async fn ask_queues(connection: &Connection, services: &mut [ServiceRow]) -> Option<RpcError> {
    let asked =
        services.iter_mut().map(
            async |row| match connection.queue_status(&row.queue).await {
                Ok(status) => {
                    row.ready = status.as_ref().map(|status| status.messages);
                    row.consumers = status.map(|status| status.consumers);
                    None
                }
                Err(error) => Some(error),
            },
        );
    join_all(asked).await.into_iter().flatten().next()
}
