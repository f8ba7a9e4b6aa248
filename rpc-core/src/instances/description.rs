//! Descriptions of services, made from the definitions of their traits.

use super::info::{ArgumentInfo, MethodInfo, MethodKind, ServiceInfo, TypeInfo};
use crate::definition::{Method, Queues, Service};

/// Describes a service with the queues of one deployment.
pub(crate) fn describe(service: &'static Service, queues: &Queues) -> ServiceInfo {
    ServiceInfo {
        name: service.name.to_owned(),
        version: String::new(),
        docs: None,
        queue: queues.common_queue().into_owned(),
        contract: String::new(),
        methods: service
            .methods
            .iter()
            .map(|method| describe_method(method, queues))
            .collect(),
    }
}

fn describe_method(method: &'static Method, queues: &Queues) -> MethodInfo {
    let unknown = || TypeInfo {
        rust: String::new(),
        schema: None,
    };
    MethodInfo {
        name: method.name.to_owned(),
        docs: None,
        kind: match method.oneway {
            true => MethodKind::Oneway,
            false => MethodKind::Unary,
        },
        queue: method.queue.map(|_| queues.of_method(method).into_owned()),
        arguments: method
            .arguments
            .iter()
            .map(|name| ArgumentInfo {
                name: (*name).to_owned(),
                ty: unknown(),
                optional: false,
                stream: false,
            })
            .collect(),
        result: unknown(),
        error: None,
        item_error: None,
        idempotent: method.idempotent,
        at_most_once: method.at_most_once,
        persistent: method.persistent,
        default: method.default,
        priority: method.priority,
        timeout: method.timeout,
    }
}
