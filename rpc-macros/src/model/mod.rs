//! Syntax to meaning: a checked [`Service`] with its [`Method`]s. Every rule is checked here, before expansion begins, and
//! all mistakes are collected.

mod argument;
mod duration;
mod method;
mod options;
mod owned;
mod service;

pub(crate) use argument::{Argument, Role};
pub(crate) use method::{Answer, Method, Running};
pub(crate) use service::{Alternatives, Broken, Service, is_rewritten, is_supertrait};
