//! What a trait says of itself: the service and its methods, as constants that the generated code fills in.

use std::time::Duration;

/// A method of a service, as the trait declares it.
#[derive(Debug)]
pub struct Method {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) timeout: Option<Duration>,
    pub(crate) oneway: bool,
    pub(crate) idempotent: bool,
    #[allow(dead_code, reason = "servers are about to read it")]
    pub(crate) at_most_once: bool,
    pub(crate) default: bool,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
}

impl Method {
    /// A method with the names of its arguments, in the order of their declaration.
    #[must_use]
    pub const fn new(name: &'static str, arguments: &'static [&'static str]) -> Self {
        Self {
            name,
            arguments,
            timeout: None,
            oneway: false,
            idempotent: false,
            at_most_once: false,
            default: false,
            persistent: false,
            priority: None,
        }
    }

    /// The default deadline of its calls.
    #[must_use]
    pub const fn timeout_millis(mut self, millis: u64) -> Self {
        self.timeout = Some(Duration::from_millis(millis));
        self
    }

    /// It has no reply.
    #[must_use]
    pub const fn oneway(mut self) -> Self {
        self.oneway = true;
        self
    }

    /// It may run twice, so its client sends it again after a failure that may pass.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// It never runs twice: its requests are acknowledged before they run, and a server that dies loses them.
    #[must_use]
    pub const fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }

    /// The method that serves requests which name none.
    #[must_use]
    pub const fn default_method(mut self) -> Self {
        self.default = true;
        self
    }

    /// Its requests survive a restart of the broker.
    #[must_use]
    pub const fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// The priority of its requests.
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }
}

/// A service, as the trait declares it.
#[derive(Debug)]
pub struct Service {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) methods: &'static [&'static Method],
}

impl Service {
    /// A service with its default queue.
    #[must_use]
    pub const fn new(
        name: &'static str,
        queue: &'static str,
        methods: &'static [&'static Method],
    ) -> Self {
        Self {
            name,
            queue,
            methods,
        }
    }

    /// The method of that name; without a name the default method, or the only one.
    pub(crate) fn resolve(&self, name: Option<&str>) -> Option<&'static Method> {
        match name {
            Some(name) => self.methods.iter().find(|method| method.name == name),
            None => match self.methods {
                [only] => Some(only),
                methods => methods.iter().find(|method| method.default),
            },
        }
        .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: &Method = &Method::new("add", &["a", "b"]);
    const SUB: &Method = &Method::new("sub", &["a", "b"]);
    const SUM: &Method = &Method::new("sum", &["numbers"]).default_method();

    #[test]
    fn a_request_without_a_name_goes_to_the_only_or_the_default_method() {
        let one = Service::new("One", "one", &[ADD]);
        let two = Service::new("Two", "two", &[ADD, SUB]);
        let three = Service::new("Three", "three", &[ADD, SUB, SUM]);
        assert_eq!(one.resolve(None).map(|m| m.name), Some("add"));
        assert_eq!(two.resolve(None).map(|m| m.name), None);
        assert_eq!(three.resolve(None).map(|m| m.name), Some("sum"));
        assert_eq!(three.resolve(Some("sub")).map(|m| m.name), Some("sub"));
        assert_eq!(three.resolve(Some("mul")).map(|m| m.name), None);
    }
}
