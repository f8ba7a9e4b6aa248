//! One look at all services of a broker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use rpc_core::Connection;
use rpc_core::instances::{InstanceInfo, InstanceStats};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::rates::{Meter, Rates, failures};

/// Asks the servers, and remembers their counters.
#[derive(Debug)]
pub(super) struct Surveyor {
    connection: Connection,
    within: Duration,
    meter: Meter,
}

/// All services at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    /// Sorted by name.
    pub(super) services: Vec<Service>,
}

/// The numbers of a service, of a method, or of an instance.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Numbers {
    /// `None` before the second look.
    pub(super) rates: Option<Rates>,
    pub(super) calls: u64,
    /// Calls that did not end with a value.
    pub(super) errors: u64,
    pub(super) in_flight: u64,
    pub(super) streams: u64,
    /// The highest of all methods and instances.
    pub(super) p99: Duration,
}

impl Numbers {
    fn add(&mut self, other: &Self) {
        if let Some(rates) = other.rates {
            *self.rates.get_or_insert_default() += rates;
        }
        self.calls = self.calls.saturating_add(other.calls);
        self.errors = self.errors.saturating_add(other.errors);
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.streams = self.streams.saturating_add(other.streams);
        self.p99 = self.p99.max(other.p99);
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    pub(super) name: String,
    /// Without repetitions.
    pub(super) versions: String,
    /// Messages that wait in all queues of the service; `None` if the broker does not tell.
    pub(super) depth: Option<u64>,
    pub(super) numbers: Numbers,
    pub(super) instances: Vec<Instance>,
    /// By name.
    pub(super) methods: BTreeMap<String, Numbers>,
}

#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) uptime: Duration,
    pub(super) numbers: Numbers,
}

impl Surveyor {
    pub(super) fn new(connection: Connection, within: Duration) -> Self {
        Self {
            connection,
            within,
            meter: Meter::default(),
        }
    }

    /// Asks for the instances, then for their statistics and the numbers of their queues.
    pub(super) async fn survey(&mut self) -> Result<Survey, Failure> {
        let client = self.connection.client();
        let infos = client.all_instances().within(self.within).await?;
        let mut expected = BTreeMap::<_, usize>::new();
        for info in &infos {
            *expected.entry(&*info.service).or_default() += 1;
        }
        // The instances that have just answered answer again, so that the end of the time limit is rarely waited for.
        let asked = expected.iter().map(|(service, count)| {
            let question = client.stats(*service).within(self.within).expect(*count);
            question.into_future()
        });
        let queues: BTreeSet<_> = infos.iter().flat_map(|info| &info.queues).collect();
        let depths = queues.into_iter().map(async |queue| {
            let status = self.connection.queue_status(queue).await;
            // A queue that the broker does not tell about has no depth.
            let depth = status
                .ok()
                .flatten()
                .map(|status| u64::from(status.messages));
            (queue.clone(), depth)
        });
        let (stats, depths) = tokio::join!(join_all(asked), join_all(depths));
        let now = Instant::now();
        let mut read = Vec::new();
        for stats in stats {
            for stats in stats? {
                let rates = self.meter.read(&stats, now);
                read.push((stats, rates));
            }
        }
        self.meter.forget(now);
        let depths = depths.into_iter().collect();
        Ok(Survey::new(infos, read, &depths, SystemTime::now()))
    }
}

impl Survey {
    /// Sums the numbers up.
    fn new(
        infos: Vec<InstanceInfo>,
        stats: Vec<(InstanceStats, Vec<Option<Rates>>)>,
        depths: &BTreeMap<String, Option<u64>>,
        now: SystemTime,
    ) -> Self {
        let mut services = BTreeMap::<String, (Service, BTreeSet<String>, BTreeSet<String>)>::new();
        for info in infos {
            let (service, versions, queues) = services.entry(info.service.clone()).or_default();
            service.name = info.service;
            versions.insert(info.version.clone());
            queues.extend(info.queues);
            service.instances.push(Instance {
                id: info.id,
                name: info.name,
                version: info.version,
                uptime: now.duration_since(info.started).unwrap_or_default(),
                numbers: Numbers::default(),
            });
        }
        for (stats, rates) in stats {
            // An instance that started between the two questions comes with the next look.
            let Some((service, ..)) = services.get_mut(&stats.service) else {
                continue;
            };
            let instances = &mut service.instances;
            let Some(instance) = instances.iter_mut().find(|it| it.id == stats.id) else {
                continue;
            };
            for (method, rates) in stats.methods.into_iter().zip(rates) {
                let numbers = Numbers {
                    rates,
                    calls: method.calls,
                    errors: failures(&method),
                    in_flight: method.in_flight,
                    streams: method.streams,
                    p99: method.p99,
                };
                instance.numbers.add(&numbers);
                service.numbers.add(&numbers);
                service
                    .methods
                    .entry(method.name)
                    .or_default()
                    .add(&numbers);
            }
        }
        let services = services
            .into_values()
            .map(|(mut service, versions, queues)| {
                let versions: Vec<_> = versions.into_iter().collect();
                service.versions = versions.join(", ");
                let depths = queues
                    .iter()
                    .map(|queue| depths.get(queue).copied().flatten());
                service.depth = depths.sum();
                service
            });
        Self {
            services: services.collect(),
        }
    }
}

/// Surveys for the tests of other files.
#[cfg(test)]
pub(super) fn sample(services: &[(&str, f64, u64)]) -> Survey {
    let services = services.iter().map(|(name, calls, depth)| {
        let numbers = Numbers {
            rates: Some(Rates {
                calls: *calls,
                errors: 0.5,
            }),
            calls: 10,
            errors: 1,
            in_flight: 2,
            streams: 0,
            p99: Duration::from_millis(12),
        };
        Service {
            name: (*name).to_owned(),
            versions: "1.0".to_owned(),
            depth: Some(*depth),
            numbers: numbers.clone(),
            instances: vec![Instance {
                id: format!("{name}-instance"),
                name: "worker".to_owned(),
                version: "1.0".to_owned(),
                uptime: Duration::from_secs(60),
                numbers: numbers.clone(),
            }],
            methods: [("run".to_owned(), numbers)].into(),
        }
    });
    Survey {
        services: services.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples;

    fn info(id: &str, service: &str, queues: &[&str]) -> InstanceInfo {
        samples::instance(id, service, json!({ "version": id, "queues": queues }))
    }

    #[test]
    fn the_numbers_of_instances_are_summed_up() {
        let rates = |calls| {
            vec![Some(Rates {
                calls,
                errors: calls / 10.0,
            })]
        };
        let stats = vec![
            (samples::stats("a", "Fib", 10, 1), rates(5.0)),
            (samples::stats("b", "Fib", 20, 0), vec![None]),
            (samples::stats("c", "Fib", 40, 0), rates(1.0)), // Did not answer the first question.
            (samples::stats("a", "Shop", 7, 0), vec![None]),
        ];
        let infos = vec![
            info("a", "Fib", &["rpc.Fib"]),
            info("a", "Shop", &["rpc.Shop", "hidden"]),
            info("b", "Fib", &["rpc.Fib", "slow"]),
        ];
        let depths = [
            ("rpc.Fib", Some(3)),
            ("slow", Some(4)),
            ("rpc.Shop", Some(1)),
            ("hidden", None),
        ];
        let depths = depths
            .map(|(queue, depth)| (queue.to_owned(), depth))
            .into();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(160);
        let survey = Survey::new(infos, stats, &depths, now);
        let [fib, shop] = &survey.services[..] else {
            panic!("{survey:?}");
        };
        assert_eq!(
            (&*fib.name, &*fib.versions, fib.depth),
            ("Fib", "a, b", Some(7))
        );
        assert_eq!((fib.numbers.calls, fib.numbers.errors), (30, 1));
        assert_eq!(fib.numbers.rates.unwrap().calls, 5.0);
        assert_eq!(fib.numbers.in_flight, 2);
        assert_eq!(fib.methods["fib"], fib.numbers);
        assert_eq!(fib.instances[0].uptime, Duration::from_secs(60));
        assert_eq!(fib.instances[1].numbers.calls, 20);
        assert_eq!((shop.numbers.rates, shop.depth), (None, None));
    }
}
