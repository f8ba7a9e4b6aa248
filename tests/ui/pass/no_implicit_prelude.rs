//! A crate without a prelude.
#![no_implicit_prelude]
#![deny(warnings)]

use ::rpc_core::{Context, rpc};
use ::std::default::Default;
use ::std::result::Result::{self, Ok};
use ::std::string::String;

#[rpc(name = "bare", queue = "bare", timeout = "1m")]
trait Bare<T: ::serde::Serialize + ::serde::de::DeserializeOwned + ::std::marker::Send + 'static> {
    async fn value(value: T, #[serde(default)] n: u64) -> T;
    async fn fallible(&self, #[ctx] cx: Context) -> Result<(), String> {
        let _ = cx;
        Ok(())
    }
    #[rpc(blocking, oneway)]
    fn new();
}

struct Handler;

impl Bare<u8> for Handler {
    async fn value(&self, value: u8, n: u64) -> u8 {
        value + n as u8
    }
    fn new(&self) {}
}

fn main() {
    let client = BareClient::new(BareDispatcher::new(Handler));
    let _ = client.value(5, Default::default());
    let _ = client.fallible();
    let _ = client.new();
}
