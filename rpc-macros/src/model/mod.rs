//! Syntax to model: a checked [`Service`] with its [`Method`]s. All rules are checked here, before expansion begins, and all
//! errors are collected.

mod argument;
mod duration;
mod method;
mod options;
mod service;
pub(crate) mod stream;
mod wire_type;

pub(crate) use argument::{Argument, Role, SerdeForm};
pub(crate) use method::{Execution, Fallibility, Method, Streamed};
pub(crate) use service::{Conflict, InvalidTrait, Service, is_rewritten, is_supertrait};
