//! TLS in a build without the feature `tls`: none. URLs that ask for it are refused before.

use std::convert::Infallible;
use std::io;

use super::options::Options;
use crate::error::OpenError;

/// A maker of TLS streams, which no one can have.
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
