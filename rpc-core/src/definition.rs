//! Definitions of a service and its methods, which generated code fills in, and the names of a deployment's queues.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Definition of a method in a trait.
#[derive(Debug)]
pub struct Method {
    pub(crate) name: &'static str,
    docs: &'static [&'static str],
    pub(crate) arguments: &'static [&'static str],
    /// The method's queue, or `None` if its requests go to the service's queue.
    pub(crate) queue: Option<&'static str>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) oneway: bool,
    pub(crate) idempotent: bool,
    pub(crate) at_most_once: bool,
    pub(crate) default: bool,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    /// The method returns a stream.
    pub(crate) streams_items: bool,
    /// Name of the argument that is a stream.
    pub(crate) stream_argument: Option<&'static str>,
}

impl Method {
    /// Creates a method with the names of its arguments, in the order of their declaration.
    #[must_use]
    pub const fn new(name: &'static str, arguments: &'static [&'static str]) -> Self {
        Self {
            name,
            docs: &[],
            arguments,
            queue: None,
            timeout: None,
            oneway: false,
            idempotent: false,
            at_most_once: false,
            default: false,
            persistent: false,
            priority: None,
            streams_items: false,
            stream_argument: None,
        }
    }

    /// Sets the doc comment: the texts of the `#[doc]` attributes, in order.
    #[must_use]
    pub const fn docs(mut self, docs: &'static [&'static str]) -> Self {
        self.docs = docs;
        self
    }

    /// Sets the queue of the method's requests. Default: the service's queue.
    #[must_use]
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Sets the timeout of the method's calls. Default: the client's timeout.
    #[must_use]
    pub const fn timeout_millis(mut self, millis: u64) -> Self {
        self.timeout = Some(Duration::from_millis(millis));
        self
    }

    /// Declares that the method has no reply.
    #[must_use]
    pub const fn oneway(mut self) -> Self {
        self.oneway = true;
        self
    }

    /// Declares that the method may run twice, so that clients retry requests after temporary failures.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Declares that the method never runs twice: requests are acknowledged before they run, and a crash loses them.
    #[must_use]
    pub const fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }

    /// Declares that the method serves requests without a method name.
    #[must_use]
    pub const fn default_method(mut self) -> Self {
        self.default = true;
        self
    }

    /// Declares that the method's requests survive a restart of the broker.
    #[must_use]
    pub const fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// Sets the AMQP priority of the method's requests. Default: none.
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Declares that the method returns a stream.
    #[must_use]
    pub const fn streams_items(mut self) -> Self {
        self.streams_items = true;
        self
    }

    /// Declares that the caller sends a stream as the argument of this name. The names of the other arguments are those of
    /// [`Method::new`].
    #[must_use]
    pub const fn stream_argument(mut self, name: &'static str) -> Self {
        self.stream_argument = Some(name);
        self
    }

    /// Returns `true` if items flow in at least one direction.
    pub(crate) fn is_streaming(&self) -> bool {
        self.streams_items || self.stream_argument.is_some()
    }

    /// Returns the doc comment.
    pub(crate) fn doc_comment(&self) -> Option<String> {
        doc_comment(self.docs)
    }
}

/// Definition of a service, made from a trait.
#[derive(Debug)]
pub struct Service {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) methods: &'static [&'static Method],
    pub(crate) version: Option<&'static str>,
    docs: &'static [&'static str],
}

impl Service {
    /// Creates a service with its default queue.
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
            version: None,
            docs: &[],
        }
    }

    /// Sets the version. Default: none.
    #[must_use]
    pub const fn version(mut self, version: Option<&'static str>) -> Self {
        self.version = version;
        self
    }

    /// Sets the doc comment: the texts of the `#[doc]` attributes, in order.
    #[must_use]
    pub const fn docs(mut self, docs: &'static [&'static str]) -> Self {
        self.docs = docs;
        self
    }

    /// Returns the doc comment.
    pub(crate) fn doc_comment(&self) -> Option<String> {
        doc_comment(self.docs)
    }

    /// Returns the method with this name. Without a name, returns the only method or the default method.
    pub(crate) fn resolve(&self, name: Option<&str>) -> Option<&'static Method> {
        Some(self.methods[self.position_of_name(name)?])
    }

    /// Returns the index of the method with this name. Without a name, returns the index of the only method or of the
    /// default method.
    pub(crate) fn position_of_name(&self, name: Option<&str>) -> Option<usize> {
        let mut methods = self.methods.iter();
        match name {
            Some(name) => methods.position(|method| method.name == name),
            None if self.methods.len() == 1 => Some(0),
            None => methods.position(|method| method.default),
        }
    }

    /// Returns the index of a method of this service; `None` for a method of another service, even if its name is the same.
    pub(crate) fn position(&self, method: &'static Method) -> Option<usize> {
        // Methods are compared by address: generated code defines each as a static.
        let mut methods = self.methods.iter();
        methods.position(|own| std::ptr::eq(*own, method))
    }
}

/// Joins the texts of `#[doc]` attributes. Each line of a comment begins with a space, which is not part of the text. The lines of an
/// included file need not begin with one.
fn doc_comment(texts: &[&str]) -> Option<String> {
    let mut lines = Vec::new();
    for text in texts {
        let indented = text
            .lines()
            .all(|line| line.is_empty() || line.starts_with(' '));
        let width = usize::from(indented);
        // An empty text has no lines, and is an empty line of the comment.
        lines.extend(text.lines().map(|line| line.get(width..).unwrap_or("")));
        lines.extend(text.is_empty().then_some(""));
    }
    let joined = lines.join("\n");
    let docs = joined.trim_matches('\n').trim_end();
    (!docs.is_empty()).then(|| docs.to_owned())
}

/// Names of a service's queues in one deployment.
#[derive(Clone)]
pub(crate) struct Queues {
    definition: &'static Service,
    /// The queue of methods that have no queue of their own.
    common: Arc<str>,
    /// The prefix of all names.
    prefix: Arc<str>,
}

impl Queues {
    /// Returns the queue names that the trait declares.
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

    /// Returns the queue of a method's requests.
    pub(crate) fn of_method(&self, method: &Method) -> Cow<'_, str> {
        self.prefixed(method.queue.unwrap_or(&self.common))
    }

    /// Returns the queue of methods without a queue of their own.
    pub(crate) fn common_queue(&self) -> Cow<'_, str> {
        self.prefixed(&self.common)
    }

    /// Returns the queue of a method's requests as a shared string.
    pub(crate) fn shared_of_method(&self, method: &Method) -> Arc<str> {
        match method.queue {
            None if self.prefix.is_empty() => self.common.clone(),
            _ => self.of_method(method).into(),
        }
    }

    /// Returns each queue once. The service's queue is included even if all methods have separate queues, because it
    /// receives requests without a method name and requests of clients that do not know a method's queue.
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
    fn request_without_method_name_resolves_to_the_only_or_default_method() {
        let one = Service::new("One", "one", &[ADD]);
        let two = Service::new("Two", "two", &[ADD, SUB]);
        let three = Service::new("Three", "three", &[ADD, SUB, SUM]);
        assert_eq!(one.resolve(None).map(|m| m.name), Some("add"));
        assert_eq!(two.resolve(None).map(|m| m.name), None);
        assert_eq!(three.resolve(None).map(|m| m.name), Some("sum"));
        assert_eq!(three.resolve(Some("sub")).map(|m| m.name), Some("sub"));
        assert_eq!(three.resolve(Some("mul")).map(|m| m.name), None);
    }

    #[test]
    fn docs_are_the_text_of_the_comment() {
        let method = |docs| Method::new("get", &[]).docs(docs).doc_comment();
        assert_eq!(
            method(&[" Gets.", "", "   indented", " last "]).as_deref(),
            Some("Gets.\n\n  indented\nlast")
        );
        assert_eq!(
            method(&["# File\n\n - item\n"]).as_deref(),
            Some("# File\n\n - item")
        );
        assert_eq!(
            method(&["\n Block\n comment\n "]).as_deref(),
            Some("Block\ncomment")
        );
        assert_eq!(method(&[]), None);
        assert_eq!(method(&["", " "]), None);
    }

    #[test]
    fn a_method_is_found_by_identity_and_not_by_its_name() {
        static FIRST: Method = Method::new("get", &["key"]);
        static SECOND: Method = Method::new("put", &["key"]);
        static FOREIGN: Method = Method::new("put", &["key"]);
        static SERVICE: Service = Service::new("Store", "store", &[&FIRST, &SECOND]);
        assert_eq!(SERVICE.position(&SECOND), Some(1));
        assert_eq!(SERVICE.position(&FOREIGN), None);
        assert_eq!(SERVICE.position_of_name(Some("put")), Some(1));
    }

    const SLOW: &Method = &Method::new("slow", &[]).queue("slow");
    const SLOWER: &Method = &Method::new("slower", &[]).queue("slow");
    const SERVICE: &Service = &Service::new("Sums", "sums", &[ADD, SLOW, SLOWER]);

    #[test]
    fn queue_of_several_methods_is_listed_once() {
        let queues = Queues::of(SERVICE);
        assert_eq!(Vec::from_iter(queues.distinct()), ["slow", "sums"]);
        let queues = queues.with_common("slow".to_owned());
        assert_eq!(Vec::from_iter(queues.distinct()), ["slow"]);
    }

    #[test]
    fn queue_override_spares_methods_with_separate_queues_and_prefix_applies_to_all() {
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
