//! Names and limits on the wire that the macro shares with `rpc_core::names`.
//!
//! `rpc-core` depends on this crate, so the macro keeps a copy. A unit test of `rpc-core`
//! (`names::tests::macro_and_library_agree_on_names`) includes this file and compares every constant.

/// Prefix of the default name of a service's queue. The service's name follows.
pub(crate) const QUEUE_PREFIX: &str = "rpc.";

/// Prefix of the names of built-in methods. No method of a trait may have such a name.
pub(crate) const METHOD_PREFIX: &str = "rpc.";

/// Prefix of the topics of cancel notices. The queue's name follows.
pub(crate) const CANCEL_TOPIC_PREFIX: &str = "rpc.cancel.";

/// Prefix of the topics of questions to the instances of a service. The service's name follows.
pub(crate) const SERVICE_TOPIC_PREFIX: &str = "rpc.instances.";

/// Prefix of the names of queues that AMQP reserves for brokers.
pub(crate) const BROKER_QUEUE_PREFIX: &str = "amq.";

/// AMQP's limit for names, in bytes.
pub(crate) const MAX_NAME: usize = 255;

/// The longest name of a request queue, in bytes: the topic of its cancel notices must fit into [`MAX_NAME`].
pub(crate) const MAX_QUEUE_NAME: usize = MAX_NAME - CANCEL_TOPIC_PREFIX.len();

/// The longest name of a service, in bytes: the topic of questions to its instances must fit into [`MAX_NAME`].
pub(crate) const MAX_SERVICE_NAME: usize = MAX_NAME - SERVICE_TOPIC_PREFIX.len();
