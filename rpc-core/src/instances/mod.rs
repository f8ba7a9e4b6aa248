//! Running servers seen from outside: instances, descriptions of their services, and statistics.
//!
//! Every running server is an *instance*. It answers questions about itself, which [`Client`](crate::Client) asks.

mod asking;
mod description;
mod info;

pub(crate) use self::asking::{Asking, Entry, ServedContract, Told, contracts};
pub(crate) use self::description::describe;
pub use self::info::{
    ArgumentInfo, CallInFlight, InstanceInfo, InstanceStats, MethodInfo, MethodKind, MethodStats,
    ServiceInfo, TypeInfo,
};
