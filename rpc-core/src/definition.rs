//! What a trait says of itself: the service and its methods, as constants that the generated code fills in; and the names
//! that a deployment gives to the queues.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A method of a service, as the trait declares it.
#[derive(Debug)]
pub struct Method {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static [&'static str],
    /// Its own, if that is not the service's.
    pub(crate) queue: Option<&'static str>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) oneway: bool,
    pub(crate) idempotent: bool,
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
            queue: None,
            timeout: None,
            oneway: false,
            idempotent: false,
            at_most_once: false,
            default: false,
            persistent: false,
            priority: None,
        }
    }

    /// The queue that its requests go to instead of the service's.
    #[must_use]
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = Some(queue);
        self
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

/// The queues of a service as clients and servers of one deployment name them.
#[derive(Clone)]
pub(crate) struct Queues {
    definition: &'static Service,
    /// Of the methods that have none of their own.
    common: Arc<str>,
    /// Before the name of each.
    prefix: Arc<str>,
}

impl Queues {
    /// As the trait names them.
    pub(crate) fn of(definition: &'static Service) -> Self {
        Self {
            definition,
            common: definition.queue.into(),
            prefix: Arc::default(),
        }
    }

    pub(crate) fn with_common(self, queue: String) -> Self {
        Self {
            common: queue.into(),
            ..self
        }
    }

    pub(crate) fn with_prefix(self, prefix: String) -> Self {
        Self {
            prefix: prefix.into(),
            ..self
        }
    }

    /// Where the requests for a method go.
    pub(crate) fn of_method(&self, method: &Method) -> Cow<'_, str> {
        self.prefixed(method.queue.unwrap_or(&self.common))
    }

    /// The same, to be kept.
    pub(crate) fn shared_of_method(&self, method: &Method) -> Arc<str> {
        match method.queue {
            None if self.prefix.is_empty() => self.common.clone(),
            _ => self.of_method(method).into(),
        }
    }

    /// All of them, each once. The service's own is among them even if every method has another: requests that name no
    /// method, or come from clients that know nothing of a method's queue, arrive there.
    pub(crate) fn distinct(&self) -> BTreeSet<Cow<'_, str>> {
        let of_methods = self.definition.methods.iter();
        of_methods
            .map(|method| self.of_method(method))
            .chain([self.prefixed(&self.common)])
            .collect()
    }

    fn prefixed<'a>(&self, queue: &'a str) -> Cow<'a, str> {
        if self.prefix.is_empty() {
            Cow::Borrowed(queue)
        } else {
            Cow::Owned([&*self.prefix, queue].concat())
        }
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.distinct()).finish()
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

    const SLOW: &Method = &Method::new("slow", &[]).queue("slow");
    const SLOWER: &Method = &Method::new("slower", &[]).queue("slow");
    const SERVICE: &Service = &Service::new("Sums", "sums", &[ADD, SLOW, SLOWER]);

    #[test]
    fn a_queue_that_several_methods_name_is_listed_once() {
        let queues = Queues::of(SERVICE);
        assert_eq!(Vec::from_iter(queues.distinct()), ["slow", "sums"]);
        let queues = queues.with_common("slow".to_owned());
        assert_eq!(Vec::from_iter(queues.distinct()), ["slow"]);
    }

    #[test]
    fn another_queue_is_for_methods_without_one_and_a_prefix_for_all() {
        let names =
            |queues: &Queues| [ADD, SLOW].map(|method| queues.of_method(method).into_owned());
        let moved = Queues::of(SERVICE).with_common("moved".to_owned());
        assert_eq!(names(&moved), ["moved", "slow"]);
        let prefixed = moved.clone().with_prefix("test.".to_owned());
        assert_eq!(names(&prefixed), ["test.moved", "test.slow"]);
        let other_order = Queues::of(SERVICE)
            .with_prefix("test.".to_owned())
            .with_common("moved".to_owned());
        assert_eq!(names(&other_order), names(&prefixed));
        assert_eq!(names(&prefixed.with_prefix(String::new())), names(&moved));
    }
}
