//! Checks of values while they are encoded.
//!
//! A value is refused if no receiver could decode the same value. `rmp_serde` and `serde_json` do not limit the nesting of the values
//! that they write, so the stack would overflow, and `serde_json` writes `null` in place of NaN and infinity.

use std::fmt::Display;

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::nesting::{MAX_DEPTH, TOO_DEEP};

/// Rules for a value, at its place inside the encoded value.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// The number of levels that the value may have.
    levels: usize,
    /// The format has no NaN and no infinity.
    finite: bool,
}

/// A value or a serializer with the rules that apply to it.
pub(super) struct Checked<T>(T, Rules);

impl Rules {
    /// Rules of MessagePack.
    pub(super) const MESSAGE_PACK: Self = Self {
        levels: MAX_DEPTH,
        finite: false,
    };

    /// Rules of JSON.
    #[cfg(feature = "json")]
    pub(super) const JSON: Self = Self {
        finite: true,
        ..Self::MESSAGE_PACK
    };

    /// Returns a value that is checked, with all values inside it, while it is serialized.
    pub(super) fn check<T>(self, value: T) -> Checked<T> {
        Checked(value, self)
    }

    /// Returns the rules for values `depth` arrays or maps further inside.
    #[inline]
    fn inside<E: Error>(self, depth: usize) -> Result<Self, E> {
        if self.levels <= depth {
            return Err(too_deep());
        }
        Ok(Self {
            levels: self.levels - depth,
            ..self
        })
    }

    #[inline]
    fn number<E: Error>(self, is_finite: bool) -> Result<(), E> {
        match is_finite || !self.finite {
            true => Ok(()),
            false => Err(not_finite()),
        }
    }
}

#[cold]
fn too_deep<E: Error>() -> E {
    E::custom(TOO_DEEP)
}

#[cold]
fn not_finite<E: Error>() -> E {
    E::custom(
        "JSON has no NaN and no infinity: use MessagePack, or an `Option` that is `None` in their place",
    )
}

impl<T: Serialize> Serialize for Checked<T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Checked(serializer, self.1))
    }
}

/// Implements methods for values that hold no others.
macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {
        $(
            #[inline]
            fn $name(self, $($arg: $type),*) -> Result<S::Ok, S::Error> {
                self.0.$name($($arg),*)
            }
        )*
    };
}

/// Implements methods for values that hold others, `$depth` levels further inside.
macro_rules! enter {
    ($($name:ident($($arg:ident: $type:ty),*) -> $inside:ident, $depth:literal;)*) => {
        $(
            #[inline]
            fn $name(self, $($arg: $type),*) -> Result<Checked<S::$inside>, S::Error> {
                let rules = self.1.inside($depth)?;
                Ok(Checked(self.0.$name($($arg),*)?, rules))
            }
        )*
    };
}

impl<S: Serializer> Serializer for Checked<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Checked<S::SerializeSeq>;
    type SerializeTuple = Checked<S::SerializeTuple>;
    type SerializeTupleStruct = Checked<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Checked<S::SerializeTupleVariant>;
    type SerializeMap = Checked<S::SerializeMap>;
    type SerializeStruct = Checked<S::SerializeStruct>;
    type SerializeStructVariant = Checked<S::SerializeStructVariant>;

    forward! {
        serialize_bool(value: bool);
        serialize_i8(value: i8);
        serialize_i16(value: i16);
        serialize_i32(value: i32);
        serialize_i64(value: i64);
        serialize_i128(value: i128);
        serialize_u8(value: u8);
        serialize_u16(value: u16);
        serialize_u32(value: u32);
        serialize_u64(value: u64);
        serialize_u128(value: u128);
        serialize_char(value: char);
        serialize_str(value: &str);
        serialize_none();
        serialize_unit();
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    enter! {
        serialize_seq(len: Option<usize>) -> SerializeSeq, 1;
        serialize_tuple(len: usize) -> SerializeTuple, 1;
        serialize_tuple_struct(name: &'static str, len: usize) -> SerializeTupleStruct, 1;
        serialize_map(len: Option<usize>) -> SerializeMap, 1;
        serialize_struct(name: &'static str, len: usize) -> SerializeStruct, 1;
        // One level for the variant's name, one for its content.
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, len: usize) -> SerializeTupleVariant, 2;
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, len: usize) -> SerializeStructVariant, 2;
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.1.number(value.is_finite())?;
        self.0.serialize_f32(value)
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        self.1.number(value.is_finite())?;
        self.0.serialize_f64(value)
    }

    /// Counts as a level: bytes are an array in JSON.
    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<S::Ok, S::Error> {
        self.1.inside(1)?;
        self.0.serialize_bytes(value)
    }

    /// Counts as a level: a unit struct is an empty array in MessagePack.
    #[inline]
    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.1.inside(1)?;
        self.0.serialize_unit_struct(name)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Checked(value, self.1))
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = Checked(value, self.1);
        self.0.serialize_newtype_struct(name, &value)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = Checked(value, self.1.inside(1)?);
        self.0
            .serialize_newtype_variant(name, index, variant, &value)
    }

    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// Implements the traits for parts of arrays and maps.
macro_rules! parts {
    ($($trait:ident { $($name:ident($($key:ident: $type:ty)?);)* })*) => {
        $(
            impl<S: $trait> $trait for Checked<S> {
                type Ok = S::Ok;
                type Error = S::Error;

                $(
                    #[inline]
                    fn $name<T: Serialize + ?Sized>(
                        &mut self,
                        $($key: $type,)?
                        value: &T,
                    ) -> Result<(), S::Error> {
                        self.0.$name($($key,)? &Checked(value, self.1))
                    }
                )*

                #[inline]
                fn end(self) -> Result<S::Ok, S::Error> {
                    self.0.end()
                }
            }
        )*
    };
}

parts! {
    SerializeSeq { serialize_element(); }
    SerializeTuple { serialize_element(); }
    SerializeTupleStruct { serialize_field(); }
    SerializeTupleVariant { serialize_field(); }
    SerializeMap { serialize_key(); serialize_value(); }
    SerializeStruct { serialize_field(key: &'static str); }
    SerializeStructVariant { serialize_field(key: &'static str); }
}
