//! Stand-in for `metrics.rs` in builds without the feature `metrics`. Records nothing.

use std::borrow::Cow;

use super::attributes::Side;
use crate::transport::Message;

pub(super) const ARE_KEPT: bool = false;

#[derive(Debug)]
pub(crate) struct Measured;

impl Measured {
    pub(super) fn begin(_: Side, _: impl Into<Cow<'static, str>>, _: &str) -> Self {
        Self
    }

    pub(super) fn started(&self, _: &Message, _: bool) {}

    pub(super) fn ended(&self, _: &'static str) {}
}

#[derive(Debug)]
pub(crate) struct StreamMeter;

impl StreamMeter {
    pub(crate) fn of_client(_: impl Into<Cow<'static, str>>, _: &str) -> Self {
        Self
    }

    pub(crate) fn of_server(_: &'static str, _: &str) -> Self {
        Self
    }

    pub(crate) fn none() -> Self {
        Self
    }

    pub(crate) fn opened(&self) {}

    pub(crate) fn closed(&self) {}

    pub(crate) fn sent(&self, _: u64, _: u64) {}

    pub(crate) fn received(&self, _: u64, _: u64) {}
}

pub(crate) fn describe() {}

pub(crate) fn retried(_: impl Into<Cow<'static, str>>, _: &str) {}

pub(crate) fn given_up(_: &'static str, _: &str, _: &'static str) {}

pub(crate) fn dead_letter_dropped(_: &'static str, _: &str, _: &'static str) {}

pub(crate) fn reply_dropped(_: &'static str) {}

pub(crate) fn requests_sent(_: usize) {}

pub(crate) fn replies_sent(_: usize) {}

pub(crate) fn reconnected() {}
