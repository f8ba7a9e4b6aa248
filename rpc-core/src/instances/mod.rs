//! Running servers seen from outside: instances, descriptions of their services, and statistics.
//!
//! Every running server is an *instance*. An instance answers questions about itself, which [`Client`](crate::Client) asks.

mod asking;
mod contract;
pub(crate) mod description;
mod info;
mod schema;
mod tap;

pub(crate) use self::asking::{Asking, Entry, ServedContract, Told, contracts};
pub use self::contract::{Contract, Difference, ServiceClient};
pub use self::info::{
    ArgumentInfo, CallInFlight, InstanceInfo, InstanceStats, MethodInfo, MethodKind, MethodStats,
    ServiceInfo, TypeInfo,
};
pub(crate) use self::tap::TapFilter;
pub use self::tap::{
    TapAnswer, TapBody, TapEvent, TapEventKind, TapFault, TapHeaders, TapItems, TapOutcome,
    TapRequest, TappedCall,
};
