//! Stand-in for TLS in a build without the feature `tls`. URLs that ask for TLS are refused earlier.

use std::convert::Infallible;
use std::io;

use super::options::Options;
use crate::error::OpenError;

/// A maker of TLS streams, which cannot exist.
#[derive(Clone)]
pub(super) struct Connector(Infallible);

impl Connector {
    pub(super) fn new(_: &Options) -> Result<Self, OpenError> {
        Err(OpenError::InvalidUrl(
            "amqps:// needs the feature `tls` of rpc-core".to_owned(),
        ))
    }

    pub(super) async fn secure<S>(&self, _: S, _: &str) -> io::Result<S> {
        match self.0 {}
    }

    pub(super) fn explain(&self, _: &io::Error) -> Option<&'static str> {
        match self.0 {}
    }
}
