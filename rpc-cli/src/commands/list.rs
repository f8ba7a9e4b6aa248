//! `rpc list`: the services on a broker, and their instances.

use crate::app::App;
use crate::failure::Failure;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Lists the instances of this service only.
    service: Option<String>,
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let client = app.client().await?;
    let question = match args.service {
        Some(service) => client.instances(service),
        None => client.all_instances(),
    };
    let instances = question.within(app.global.within).await?;
    if app.out.is_json() {
        return app.out.json(&instances);
    }
    let rows = instances.into_iter().map(|instance| {
        [
            instance.service,
            instance.version,
            instance.id,
            instance.name,
        ]
    });
    app.out
        .table(["service", "version", "instance", "name"], rows)
}
