//! The topics that private queues of instances are bound to.

use crate::names::{ALL_TOPIC_PREFIX, CANCEL_TOPIC_PREFIX, INSTANCES_TOPIC, SERVICE_TOPIC_PREFIX};

/// Returns the topic of notices to the servers of a queue.
pub(crate) fn cancel_topic(queue: &str) -> String {
    format!("{CANCEL_TOPIC_PREFIX}{queue}")
}

/// Returns the topic of calls to all servers of a queue.
pub(crate) fn all_topic(queue: &str) -> String {
    format!("{ALL_TOPIC_PREFIX}{queue}")
}

/// Returns the queue in a topic of [`all_topic`]; `None` for another topic.
pub(crate) fn queue_of_all_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix(ALL_TOPIC_PREFIX)
}

/// Returns the topic of questions to the instances of a service, or to all instances.
pub(crate) fn instances_topic(service: Option<&str>) -> String {
    match service {
        Some(service) => format!("{SERVICE_TOPIC_PREFIX}{service}"),
        None => INSTANCES_TOPIC.to_owned(),
    }
}

/// Returns the service in a topic of [`instances_topic`]; `None` for another topic, and for that of all instances.
pub(crate) fn service_of_instances_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix(SERVICE_TOPIC_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_name_the_queue_or_the_service() {
        let all = all_topic("rpc.Fib");
        let (fib, every) = (instances_topic(Some("Fib")), instances_topic(None));
        assert_eq!(cancel_topic("rpc.Fib"), "rpc.cancel.rpc.Fib");
        assert_eq!(all, "rpc.all.rpc.Fib");
        assert_eq!((&*fib, &*every), ("rpc.instances.Fib", "rpc.instances"));
        let topics = [&*all, &*fib, &*every];
        let queues = topics.map(queue_of_all_topic);
        assert_eq!(queues, [Some("rpc.Fib"), None, None]);
        let services = topics.map(service_of_instances_topic);
        assert_eq!(services, [None, Some("Fib"), None]);
    }
}
