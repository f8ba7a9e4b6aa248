//! The lines of `rpc list`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use rpc_core::instances::InstanceInfo;
use serde::Serialize;
use serde_json::{Value, json};

use crate::units;

/// The instances of a service that read one queue.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ServiceRow {
    service: String,
    /// Without repetitions, sorted.
    versions: BTreeSet<String>,
    /// Hashes of contracts, without repetitions, sorted.
    contracts: BTreeSet<String>,
    pub(super) queue: String,
    /// Number of instances.
    instances: usize,
    /// Messages in the queue that are ready for delivery; `None` if they are not known.
    pub(super) ready: Option<u32>,
    pub(super) consumers: Option<u32>,
}

impl ServiceRow {
    pub(super) fn cells(&self) -> [String; 7] {
        let versions: Vec<_> = self.versions.iter().map(String::as_str).collect();
        let contracts: Vec<_> = self
            .contracts
            .iter()
            .map(|it| units::short_id(it))
            .collect();
        [
            self.service.clone(),
            versions.join(", "),
            self.instances.to_string(),
            contracts.join(", "),
            self.queue.clone(),
            units::known(self.ready),
            units::known(self.consumers),
        ]
    }
}

/// Returns a line for each service and queue, without the numbers of the queue.
pub(super) fn services(instances: &[InstanceInfo]) -> Vec<ServiceRow> {
    let mut rows = BTreeMap::new();
    for instance in instances {
        for queue in &instance.queues {
            let row = rows
                .entry((&instance.service, queue))
                .or_insert_with(|| ServiceRow {
                    service: instance.service.clone(),
                    versions: BTreeSet::new(),
                    contracts: BTreeSet::new(),
                    queue: queue.clone(),
                    instances: 0,
                    ready: None,
                    consumers: None,
                });
            row.versions.insert(instance.version.clone());
            row.contracts.insert(instance.contract.clone());
            row.instances += 1;
        }
    }
    rows.into_values().collect()
}

/// Returns the line of an instance.
pub(super) fn instance(instance: &InstanceInfo, now: SystemTime) -> [String; 7] {
    [
        instance.service.clone(),
        instance.version.clone(),
        instance.id.clone(),
        instance.name.clone(),
        units::since(instance.started, now),
        units::short_id(&instance.contract),
        instance.queues.join(", "),
    ]
}

/// Returns an instance as JSON.
pub(super) fn instance_json(instance: &InstanceInfo) -> Value {
    json!({
        "id": instance.id,
        "name": instance.name,
        "service": instance.service,
        "version": instance.version,
        "queues": instance.queues,
        "started": units::moment(instance.started),
        "crate_version": instance.crate_version,
        "protocol": instance.protocol,
        "contract": instance.contract,
        "round_trip_ms": units::millis(instance.round_trip),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn info(service: &str, version: &str, queues: &[&str]) -> InstanceInfo {
        let contract = format!("{version}-contract");
        let changes = json!({ "version": version, "queues": queues, "contract": contract });
        samples::instance("6ba7b810-9dad-11d1-80b4-00c04fd430c8", service, changes)
    }

    #[test]
    fn a_line_counts_the_instances_of_a_service_on_one_queue() {
        let rows = services(&[
            info("Shop", "2", &["rpc.Shop", "rpc.Shop.slow"]),
            info("Shop", "1", &["rpc.Shop"]),
            info("Shop", "1", &["staging.rpc.Shop"]),
            info("Fib", "1", &["rpc.Fib"]),
        ]);
        let cells: Vec<_> = rows.iter().map(|row| row.cells().join("|")).collect();
        let expected = [
            "Fib|1|1|1-contra|rpc.Fib|-|-",
            "Shop|1, 2|2|1-contra, 2-contra|rpc.Shop|-|-",
            "Shop|2|1|2-contra|rpc.Shop.slow|-|-",
            "Shop|1|1|1-contra|staging.rpc.Shop|-|-",
        ];
        assert_eq!(cells, expected);
    }

    #[test]
    fn the_line_of_an_instance_has_its_whole_id() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(160);
        let cells = instance(&info("Fib", "1", &["a", "b"]), now).join("|");
        let expected = "Fib|1|6ba7b810-9dad-11d1-80b4-00c04fd430c8|worker|1 min 0 s|1-contra|a, b";
        assert_eq!(cells, expected);
    }
}
