//! Types that cannot be sent.

use std::borrow::Cow;

use rpc_core::rpc;

#[rpc]
trait Types {
    async fn text(name: &str) -> u64;
    async fn slice(numbers: &[u64]) -> u64;
    async fn reference(number: &u64) -> u64;
    async fn mutable(number: &mut Vec<u8>) -> u64;
    async fn nested(names: Vec<Option<&'static str>>) -> u64;
    async fn unsized_text(name: Box<str>, other: str, numbers: [u64]) -> u64;
    async fn borrowed(name: Cow<'_, str>) -> u64;
    async fn owned(name: Cow<'static, str>) -> u64;
    async fn opaque(name: impl Into<String>) -> u64;
    async fn object(shape: Box<dyn Send>) -> u64;
    async fn inferred(n: Vec<_>) -> u64;
    async fn itself(other: Box<Self>) -> u64;
    async fn size(numbers: [u8; Self::SIZE]) -> u64;
    async fn pointer(at: *const u8, call: fn(u8) -> u8) -> u64;

    async fn returns_text(&self) -> &str;
    async fn returns_opaque(&self) -> impl Iterator<Item = u64>;
    async fn returns_object(&self) -> Box<dyn Send>;
    async fn returns_inferred(&self) -> _;
    async fn returns_itself(&self) -> Result<Self, u64>;
    async fn returns_never(&self) -> !;
}

struct Handler;

impl Types for Handler {
    async fn text(&self, name: &str) -> u64 {
        name.len() as u64
    }
    async fn slice(&self, numbers: &[u64]) -> u64 {
        numbers.iter().sum()
    }
    async fn reference(&self, number: &u64) -> u64 {
        *number
    }
    async fn mutable(&self, number: &mut Vec<u8>) -> u64 {
        number.len() as u64
    }
    async fn nested(&self, names: Vec<Option<&'static str>>) -> u64 {
        names.len() as u64
    }
    async fn unsized_text(&self, name: Box<str>, _: Box<str>, _: Vec<u64>) -> u64 {
        name.len() as u64
    }
    async fn borrowed(&self, name: Cow<'_, str>) -> u64 {
        name.len() as u64
    }
    async fn owned(&self, name: Cow<'static, str>) -> u64 {
        name.len() as u64
    }
    async fn opaque(&self, name: impl Into<String>) -> u64 {
        name.into().len() as u64
    }
    async fn object(&self, _: Box<dyn Send>) -> u64 {
        0
    }
    async fn inferred(&self, n: Vec<u64>) -> u64 {
        n.len() as u64
    }
    async fn itself(&self, _: Box<Self>) -> u64 {
        0
    }
    async fn size(&self, _: [u8; 5]) -> u64 {
        0
    }
    async fn pointer(&self, _: *const u8, _: fn(u8) -> u8) -> u64 {
        0
    }
    async fn returns_text(&self) -> &str {
        "text"
    }
    async fn returns_opaque(&self) -> impl Iterator<Item = u64> {
        std::iter::empty()
    }
    async fn returns_object(&self) -> Box<dyn Send> {
        Box::new(5)
    }
    async fn returns_inferred(&self) -> u64 {
        5
    }
    async fn returns_itself(&self) -> Result<Self, u64> {
        Ok(Self)
    }
    async fn returns_never(&self) -> ! {
        loop {}
    }
}

fn main() {}
