//! The instances that a user means: those of a service, or the one whose id begins with a text.

use std::collections::BTreeMap;

use rpc_core::instances::InstanceInfo;

use crate::failure::{Exit, Failure};

/// Failure of a command that needs an instance of a service.
pub(crate) fn no_instance(service: &str) -> Failure {
    let message = format!(
        "no instance of {service} answers: is a server of {service} running on this virtual host, with introspection, and may its user \
         bind queues to the exchange 'amq.direct'? `rpc list` lists the services that answer"
    );
    Failure::new(Exit::Unroutable, message)
}

/// Returns the instance with an id, or with the beginning of an id.
pub(crate) fn instance_that_starts<'a>(
    start: &str,
    instances: &'a [InstanceInfo],
) -> Result<&'a InstanceInfo, Failure> {
    let instances = instances.iter();
    let found = instances.filter(|instance| instance.id.starts_with(start));
    // A server that serves several contracts of a service answers with an entry for each.
    let by_id: BTreeMap<_, _> = found.map(|instance| (&*instance.id, instance)).collect();
    let id = only("instance", start, by_id.keys().copied())?;
    Ok(by_id[id])
}

/// Returns the only hash or id that was found.
pub(crate) fn only<T: AsRef<str>>(
    what: &str,
    start: &str,
    found: impl Iterator<Item = T>,
) -> Result<T, Failure> {
    let mut found: Vec<T> = found.collect();
    match found.pop() {
        Some(one) if found.is_empty() => Ok(one),
        Some(_) => Err(Failure::usage(format!(
            "more than one {what} starts with '{start}': write more of it; `rpc list SERVICE --json` prints all of them"
        ))),
        None => Err(Failure::new(
            Exit::Unroutable,
            format!("no running {what} starts with '{start}': `rpc list SERVICE` lists them"),
        )),
    }
}
