//! The dead-letter queues of a service.

use std::collections::BTreeSet;

use rpc_core::dead_letters::DeadLetters;

use crate::app::App;
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::target::default_queue;

/// Returns the dead-letter queue that is named, else those of a service that exist.
pub(super) async fn find(
    service: Option<String>,
    queue: Option<String>,
    app: &App,
) -> Result<Vec<DeadLetters>, Failure> {
    let connection = app.broker.connection().await?;
    let Some(service) = service.filter(|_| queue.is_none()) else {
        let queue = queue.ok_or_else(|| {
                Failure::usage("name a service before the action, as in `rpc dead Fib list`, or a dead-letter queue with --queue")
            })?;
        return Ok(vec![connection.dead_letters(queue)]);
    };
    let mut queues = BTreeSet::new();
    let mut is_known = false;
    for queue in request_queues(&service, app).await? {
        let dead = format!("{queue}.dead");
        if connection.queue_status(&dead).await?.is_some() {
            queues.insert(dead);
        } else {
            is_known |= connection.queue_status(&queue).await?.is_some();
        }
    }
    if queues.is_empty() {
        if !is_known {
            return Err(Failure::new(
                Exit::Unroutable,
                format!(
                    "there is no service {service}: no instance answers, and there is neither a queue rpc.{service} nor one of its dead letters; \
                     --queue names another dead-letter queue"
                ),
            ));
        }
        note(format_args!(
            "{service} has no dead-letter queue: a server declares it when it gives up its first request, and --queue names another"
        ));
    }
    let dead = queues.into_iter().map(|it| connection.dead_letters(it));
    Ok(dead.collect())
}

/// Returns the request queues that running servers tell, else the default one.
async fn request_queues(service: &str, app: &App) -> Result<BTreeSet<String>, Failure> {
    let client = app.client().await?;
    let asked = client.instances(service).within(app.global.within).await;
    let mut queues = BTreeSet::from([default_queue(service)]);
    match asked.map_err(Failure::from) {
        Ok(instances) => queues.extend(instances.into_iter().flat_map(|it| it.queues)),
        // An operator may lack the permission to ask servers.
        Err(failure) if failure.exit() == Exit::PermissionDenied => note(format_args!(
            "servers cannot be asked for their queues, so this is rpc.{service}.dead: {failure}"
        )),
        Err(failure) => return Err(failure),
    }
    Ok(queues)
}
