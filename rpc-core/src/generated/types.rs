//! Types of a method's arguments and return values, and the checks that they can be sent.
//!
//! A type that cannot be sent is the most frequent mistake in a service. The compiler would report the type at every bound, a dozen times
//! for one type. So generated code states the bounds in one place that never runs ([`check_argument`], [`check_return`]), and uses
//! `Signature` everywhere else, which compiles with any type.

use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor, value};

use crate::client::{Reading, Streaming};
use crate::codec::{self, ContentType};
use crate::context::Context;
use crate::error::{CallError, ErrorKind, RpcError};
use crate::instances::description::Direction;
use crate::message::{Outcome, Response, StreamError};

/// A type that can be sent: an argument, a returned value, or an error.
pub trait Value: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Value for T {}

/// A [`Value`] that a method returns, with advice for types that cannot be sent.
///
/// `Unnamed` is the type of [`unnamed`], which no program can write. The compiler therefore does not propose this trait as a bound of a
/// type parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent over the wire",
    label = "not `Serialize + DeserializeOwned + Send + 'static`",
    note = "for a type of your own, write `#[derive(serde::Serialize, serde::Deserialize)]`",
    note = "for a type of another crate, enable the feature `serde` of that crate, if it has one",
    note = "for a type parameter of the trait, write the bounds: `trait Store<T: Serialize + DeserializeOwned + Send + 'static>`"
)]
pub trait Sent<Unnamed> {}

#[diagnostic::do_not_recommend]
impl<T: Value, Unnamed> Sent<Unnamed> for T {}

/// A [`Value`] that is an argument without `#[ctx]`, which may be the context under another name or inside another type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent over the wire",
    label = "not `Serialize + DeserializeOwned + Send + 'static`",
    note = "for a type of your own, write `#[derive(serde::Serialize, serde::Deserialize)]`",
    note = "for a type of another crate, enable the feature `serde` of that crate, if it has one",
    note = "for a type parameter of the trait, write the bounds: `trait Store<T: Serialize + DeserializeOwned + Send + 'static>`",
    note = "for the context of the call, which the server gives to a handler and callers do not send, write `#[ctx] cx: rpc_core::Context`"
)]
pub trait SentArgument<Unnamed> {}

#[diagnostic::do_not_recommend]
impl<T: Value, Unnamed> SentArgument<Unnamed> for T {}

/// A [`Value`] that is an argument whose type is called `Context` and has no `#[ctx]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent over the wire, and the argument is not marked `#[ctx]`",
    label = "neither marked `#[ctx]` nor `Serialize + DeserializeOwned + Send + 'static`",
    note = "the server gives a handler its `rpc_core::Context`, and callers do not send it: write `#[ctx]` before the argument, as in \
            `#[ctx] cx: Context`",
    note = "for a type of your own that is called `Context`, write `#[derive(serde::Serialize, serde::Deserialize)]`"
)]
pub trait SentContext<Unnamed> {}

#[diagnostic::do_not_recommend]
impl<T: Value, Unnamed> SentContext<Unnamed> for T {}

/// A [`Value`] that is a service's own error.
#[diagnostic::on_unimplemented(
    message = "the error `{Self}` cannot be sent over the wire",
    label = "its error is not `Serialize + DeserializeOwned + Send + 'static`",
    note = "for an error of your own, write `#[derive(Debug, serde::Serialize, serde::Deserialize)]`",
    note = "serde knows nothing of `anyhow::Error`, `std::io::Error` and their like: return an error type of your own, and have the handler \
            turn others into it, such as with `.map_err(|error| OrderError::Internal(error.to_string()))`",
    note = "every call can fail with `RpcError`: instead of `Result<u64, RpcError>` return `u64`",
    note = "for a type parameter of the trait, write the bounds: `trait Store<E: Serialize + DeserializeOwned + Send + 'static>`"
)]
pub trait SentError<Unnamed> {}

#[diagnostic::do_not_recommend]
impl<T: Value, Unnamed> SentError<Unnamed> for T {}

/// A function whose type has no name.
pub fn unnamed() {}

/// The type of an argument that is marked `#[ctx]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is marked `#[ctx]` and is not the context of a call",
    label = "not `rpc_core::Context`",
    note = "write `#[ctx] cx: rpc_core::Context`, or remove `#[ctx]` from an argument that callers send"
)]
pub trait FromContext {
    /// Gives the handler its context.
    fn from_context(context: Context) -> Self;
}

impl FromContext for Context {
    fn from_context(context: Context) -> Self {
        context
    }
}

/// The return type of a method: with `FALLIBLE` a `Result` whose error is the service's own, else any type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is called a `Result` and is not one",
    label = "not a `core::result::Result`",
    note = "`#[rpc]` on a generic trait recognizes a `Result` by its name: use another name, or an alias with another name"
)]
pub trait Return<const FALLIBLE: bool> {
    /// Output of the call that the client awaits.
    type Awaited;
    /// The value in a reply of type `result`.
    type Value;
    /// The value in a reply of type `error`.
    type Error;
    /// The error of [`Self::Awaited`].
    type Failure: From<RpcError>;
}

impl<T> Return<false> for T {
    type Awaited = Result<T, RpcError>;
    type Value = T;
    type Error = ();
    type Failure = RpcError;
}

impl<T, E> Return<true> for Result<T, E> {
    type Awaited = Result<T, CallError<E>>;
    type Value = T;
    type Error = E;
    type Failure = CallError<E>;
}

/// A return type that can be sent, of a method or of the items of its stream.
pub trait SentReturn<const FALLIBLE: bool>: Return<FALLIBLE> + Send + 'static {
    /// Encodes what the handler returned.
    fn into_response(self, content_type: ContentType) -> Result<Response, RpcError>;

    /// Encodes an error that the handler returned in place of a stream.
    fn refusal(error: Self::Error, content_type: ContentType) -> Result<Response, RpcError>;

    /// Decodes the response of a call.
    fn from_response(response: Result<Response, RpcError>, call: &mut Reading) -> Self::Awaited;

    /// Encodes an item of the handler's stream.
    fn into_item(self, content_type: ContentType) -> Result<Bytes, StreamError>;

    /// Decodes the value of an item.
    fn value(item: &[u8], content_type: ContentType) -> Result<Self::Value, RpcError>;

    /// Decodes the service's own error.
    fn failure(body: &[u8], content_type: ContentType) -> Result<Self::Failure, RpcError>;
}

impl<T: Value> SentReturn<false> for T {
    fn into_response(self, content_type: ContentType) -> Result<Response, RpcError> {
        Response::encode(Outcome::Result, content_type, &self)
    }

    fn refusal(error: (), content_type: ContentType) -> Result<Response, RpcError> {
        Response::encode(Outcome::Error, content_type, &error)
    }

    fn from_response(
        response: Result<Response, RpcError>,
        call: &mut Reading,
    ) -> Result<T, RpcError> {
        let response = response?;
        let (body, content_type) = (&response.body, response.content_type);
        match response.outcome {
            Outcome::Result => read(decode(body, content_type), call),
            Outcome::Error => read(Err(undeclared()), call),
        }
    }

    fn into_item(self, content_type: ContentType) -> Result<Bytes, StreamError> {
        encode_item(&self, content_type)
    }

    fn value(item: &[u8], content_type: ContentType) -> Result<T, RpcError> {
        decode(item, content_type)
    }

    fn failure(_: &[u8], _: ContentType) -> Result<RpcError, RpcError> {
        Err(undeclared())
    }
}

impl<T: Value, E: Value> SentReturn<true> for Result<T, E> {
    fn into_response(self, content_type: ContentType) -> Result<Response, RpcError> {
        match self {
            Ok(value) => Response::encode(Outcome::Result, content_type, &value),
            Err(error) => Response::encode(Outcome::Error, content_type, &error),
        }
    }

    fn refusal(error: E, content_type: ContentType) -> Result<Response, RpcError> {
        Response::encode(Outcome::Error, content_type, &error)
    }

    fn from_response(
        response: Result<Response, RpcError>,
        call: &mut Reading,
    ) -> Result<T, CallError<E>> {
        let response = response?;
        let (body, content_type) = (&response.body, response.content_type);
        match response.outcome {
            Outcome::Result => Ok(read(decode(body, content_type), call)?),
            Outcome::Error => Err(CallError::App(read(decode(body, content_type), call)?)),
        }
    }

    fn into_item(self, content_type: ContentType) -> Result<Bytes, StreamError> {
        match self {
            Ok(value) => encode_item(&value, content_type),
            Err(error) => Err(StreamError::Own(encode_item(&error, content_type)?)),
        }
    }

    fn value(item: &[u8], content_type: ContentType) -> Result<T, RpcError> {
        decode(item, content_type)
    }

    fn failure(body: &[u8], content_type: ContentType) -> Result<CallError<E>, RpcError> {
        decode(body, content_type).map(CallError::App)
    }
}

fn decode<T: Value>(body: &[u8], content_type: ContentType) -> Result<T, RpcError> {
    codec::decode(body, content_type).map_err(|cause| {
        RpcError::new(
            ErrorKind::BadReply,
            format!("the reply could not be decoded: {cause}"),
        )
    })
}

/// Records a response that could not be decoded.
fn read<T>(decoded: Result<T, RpcError>, call: &mut Reading) -> Result<T, RpcError> {
    if decoded.is_err() {
        call.unreadable();
    }
    decoded
}

fn undeclared() -> RpcError {
    RpcError::new(
        ErrorKind::BadReply,
        "the server answered with an error of its own, but the method declares none",
    )
}

fn encode_item<T: Value>(item: &T, content_type: ContentType) -> Result<Bytes, StreamError> {
    codec::encode(item, content_type).map_err(|cause| {
        let error = format!("an item of the stream could not be encoded: {cause}");
        StreamError::Rpc(RpcError::new(ErrorKind::BadReply, error))
    })
}

/// Output of a call that returns a stream of `I`, in place of the `()` in `O`.
pub(super) type AwaitedStream<I, O, const FALLIBLE_ITEMS: bool, const FALLIBLE: bool> = Result<
    Streaming<<I as Return<FALLIBLE_ITEMS>>::Value, <I as Return<FALLIBLE_ITEMS>>::Failure>,
    <O as Return<FALLIBLE>>::Failure,
>;

/// Decodes the response of a call that returns a stream of `I`, in place of the `()` in `O`.
pub(super) fn stream_from_response<
    I: SentReturn<FALLIBLE_ITEMS>,
    O: SentReturn<FALLIBLE>,
    const FALLIBLE_ITEMS: bool,
    const FALLIBLE: bool,
>(
    response: Result<Response, RpcError>,
    call: &mut Reading,
) -> AwaitedStream<I, O, FALLIBLE_ITEMS, FALLIBLE> {
    let response = response?;
    if response.outcome == Outcome::Error {
        let failure = read(O::failure(&response.body, response.content_type), call);
        return Err(failure.unwrap_or_else(O::Failure::from));
    }
    Ok(Streaming::from_response(
        response,
        item::<I, FALLIBLE_ITEMS>,
        call,
    )?)
}

/// Decodes an item, or the error that ends a stream.
fn item<I: SentReturn<FALLIBLE>, const FALLIBLE: bool>(
    item: Result<Bytes, StreamError>,
    content_type: ContentType,
    is_unreadable: &mut bool,
) -> Result<I::Value, I::Failure> {
    let decoded = match item {
        Ok(item) => I::value(&item, content_type).map(Ok),
        Err(StreamError::Own(error)) => I::failure(&error, content_type).map(Err),
        Err(StreamError::Rpc(error)) => return Err(error.into()),
    };
    decoded.unwrap_or_else(|error| {
        *is_unreadable = true;
        Err(error.into())
    })
}

/// Asserts that an argument can be sent.
pub fn check_argument<A: SentArgument<U>, U>(_unnamed: U) {}

/// Asserts that an argument whose type is called `Context` can be sent.
pub fn check_context<A: SentContext<U>, U>(_unnamed: U) {}

/// Asserts that a return type can be sent.
pub fn check_return<const FALLIBLE: bool, T, U>(_unnamed: U)
where
    T: Return<FALLIBLE, Value: Sent<U>, Error: SentError<U>>,
{
}

/// Tells at compile time if a type is a `Result`, under any alias: the compiler prefers inherent items to those of a trait,
/// wherever the inherent ones apply.
#[derive(Debug)]
pub struct Probe<T>(PhantomData<T>);

/// [`Probe::SHAPE`] of a `Result`.
#[derive(Debug)]
pub struct IsResult;

/// [`Probe::SHAPE`] of any other type.
#[derive(Debug)]
pub struct IsPlain;

impl<T, E> Probe<Result<T, E>> {
    /// `true`: the type is a `Result`.
    pub const IS_RESULT: bool = true;
    /// The same as a type.
    pub const SHAPE: IsResult = IsResult;
}

/// See [`Probe`].
pub trait NotResult {
    /// `false`: the type is not a `Result`.
    const IS_RESULT: bool = false;
    /// The same as a type.
    const SHAPE: IsPlain = IsPlain;
}

impl<T> NotResult for Probe<T> {}

/// Answers of a type about its description, as far as the type has the traits: see [`Probe`].
impl<T: DeserializeOwned> Probe<T> {
    /// Returns `true` if serde's derives read a missing field of this type, as for an `Option`.
    #[must_use]
    pub fn accepts_missing() -> bool {
        T::deserialize(Missing).is_ok()
    }
}

#[cfg(feature = "schema")]
impl<T: schemars::JsonSchema> Probe<T> {
    /// Returns the JSON Schema of the values that the described program writes or reads.
    #[must_use]
    pub fn schema(direction: Direction) -> Option<String> {
        use schemars::generate::SchemaSettings;

        let settings = SchemaSettings::draft2020_12();
        let settings = match direction {
            Direction::Sent => settings.for_serialize(),
            Direction::Received => settings.for_deserialize(),
        };
        let schema = settings.into_generator().into_root_schema_for::<T>();
        serde_json::to_string(&schema).ok()
    }
}

/// Answers of types that lack the traits, and of types whose arguments have another form: see [`Probe`].
pub trait Undescribed {
    /// `false`: a request has to have an argument of this type.
    #[must_use]
    fn accepts_missing() -> bool {
        false
    }

    /// `None`: the type has no schema.
    #[must_use]
    fn schema(_: Direction) -> Option<String> {
        None
    }
}

impl<T> Undescribed for Probe<T> {}

/// The deserializer of a missing field, as serde's derives have one: only `Option`s and types that are read like them have a value.
struct Missing;

impl<'de> Deserializer<'de> for Missing {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(value::Error::custom("missing"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_none()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

/// The shape that [`check_is_plain`] accepts.
#[diagnostic::on_unimplemented(
    message = "this type is a `Result` under another name",
    label = "an alias of `core::result::Result`",
    note = "`#[rpc]` on a generic trait recognizes a `Result` by its name: write `Result<T, E>`, or an alias whose name ends in `Result`"
)]
pub trait Plain {}

impl Plain for IsPlain {}

/// Asserts that a type with another name is not a `Result`. The check needs [`Probe::SHAPE`], a type, because the value of a constant is
/// not known in generic code.
pub fn check_is_plain<P: Plain>(_: P) {}
