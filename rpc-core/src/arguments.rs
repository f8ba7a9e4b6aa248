//! The arguments of a request in MessagePack: a map of their names, or an array of all of them.
//!
//! `rmp_serde` has code for whatever a value could be, and the compiler makes a copy of it for every type that is read, another one
//! for the names of its fields. The arguments of a method are a type of their own, so here all methods share what reads them, down
//! to the single values.

use rmp_serde::decode::Error;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::codec::MessagePack;
use crate::error::BoxError;

/// Reads arguments, which may borrow from the body; bytes left over after them are an error.
pub(crate) fn decode<'a, A: Deserialize<'a>>(body: &'a [u8]) -> Result<A, BoxError> {
    let mut arguments = Arguments::open(body)?;
    let decoded = A::deserialize(&mut arguments)?;
    arguments.end()?;
    Ok(decoded)
}

/// A map or an array, from behind its length on.
struct Arguments<'a> {
    form: Form,
    left: u32,
    rest: MessagePack<'a>,
}

#[derive(Clone, Copy)]
enum Form {
    Map,
    Array,
}

impl<'a> Arguments<'a> {
    fn open(body: &'a [u8]) -> Result<Self, BoxError> {
        let (mut map, mut array) = (body, body);
        let (form, left, rest) = if let Ok(len) = rmp::decode::read_map_len(&mut map) {
            (Form::Map, len, map)
        } else if let Ok(len) = rmp::decode::read_array_len(&mut array) {
            (Form::Array, len, array)
        } else {
            return Err("they are neither a map nor an array".into());
        };
        Ok(Self {
            form,
            left,
            rest: MessagePack::inside(rest)?,
        })
    }

    /// Whether there is another element, which is about to be read.
    fn next(&mut self) -> bool {
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }

    fn end(self) -> Result<(), BoxError> {
        match self.left {
            0 => self.rest.end(),
            left => Err(format!("there are too many, by {left}").into()),
        }
    }
}

impl<'de> Deserializer<'de> for &mut Arguments<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.form {
            Form::Map => visitor.visit_map(self),
            Form::Array => visitor.visit_seq(self),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for &mut Arguments<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        while self.next() {
            if let Some(name) = Name::read(&mut self.rest)? {
                return seed.deserialize(name).map(Some);
            }
            IgnoredAny::deserialize(self.rest.value())?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.rest.value())
    }
}

impl<'de> SeqAccess<'de> for &mut Arguments<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        match self.next() {
            true => seed.deserialize(self.rest.value()).map(Some),
            false => Ok(None),
        }
    }
}

/// The name of an argument. Only text is one: what has a number or anything else in its place is not known here, and skipped.
struct Name<'de>(&'de str);

impl<'de> Name<'de> {
    fn read(from: &mut MessagePack<'de>) -> Result<Option<Self>, Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Option<Name<'de>>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of an argument")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Some(Name(text)))
            }

            fn visit_borrowed_bytes<E: de::Error>(self, _: &'de [u8]) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
        }

        from.value().deserialize_any(Reading)
    }
}

impl<'de> Deserializer<'de> for Name<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, ContentType};
    use serde::{Deserialize, Serialize};

    const MESSAGE_PACK: ContentType = ContentType::MessagePack;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Transfer {
        amount: u64,
        #[serde(rename = "to", alias = "recipient")]
        target: Option<String>,
        #[serde(default)]
        tags: Vec<(String, i8)>,
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Nothing {}

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Flat {
        a: u8,
        #[serde(flatten)]
        others: std::collections::BTreeMap<String, u8>,
    }

    /// All that consists of up to three bytes with which something begins, some of it with more, and the beginnings of real bodies.
    fn bodies() -> Vec<Vec<u8>> {
        let transfer = Transfer {
            amount: 300,
            target: Some("Zoë".to_owned()),
            tags: vec![("urgent".to_owned(), -1)],
        };
        let named = rmp_serde::to_vec_named(&transfer).unwrap();
        let array = rmp_serde::to_vec(&transfer).unwrap();
        let mut bodies: Vec<Vec<u8>> = [named, array]
            .iter()
            .flat_map(|body| (0..=body.len()).map(|len| body[..len].to_vec()))
            .collect();
        let some = [0x00, 0x80, 0x81, 0x82, 0x90, 0x91, 0x93, 0xa1, 0xc0, 0xc1];
        let more = [0xc4, 0xcc, 0xd4, 0xdc, 0xdd, 0xde, 0xdf, 0xff, b'a', b'0'];
        let bytes = || some.into_iter().chain(more);
        for first in bytes() {
            bodies.push(vec![first]);
            for second in bytes() {
                bodies.push(vec![first, second]);
                for third in bytes() {
                    bodies.extend([
                        vec![first, second, third],
                        vec![first, second, third, 0x07],
                        vec![first, second, b'a', third, 0x07],
                    ]);
                }
            }
        }
        bodies
    }

    fn reads_as_other_values_are_read<A>()
    where
        A: for<'a> Deserialize<'a> + std::fmt::Debug + PartialEq,
    {
        for body in bodies() {
            // Bytes that pass for an array of numbers, and names that are not texts, are all that it would read beyond this.
            if body.first() == Some(&0xc4) || has_another_name(&body) {
                continue;
            }
            let expected = codec::decode::<A>(&body, MESSAGE_PACK).ok();
            assert_eq!(decode::<A>(&body).ok(), expected, "{body:x?}");
        }
    }

    /// Tells whether it is a map with something in it that is named by anything but a text.
    fn has_another_name(body: &[u8]) -> bool {
        let Ok(mut arguments) = Arguments::open(body) else {
            return false;
        };
        while matches!(arguments.form, Form::Map) && arguments.next() {
            match Name::read(&mut arguments.rest) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
            if IgnoredAny::deserialize(arguments.rest.value()).is_err() {
                return false;
            }
        }
        false
    }

    #[test]
    fn arguments_are_read_as_other_values_are() {
        reads_as_other_values_are_read::<Transfer>();
        reads_as_other_values_are_read::<Nothing>();
        reads_as_other_values_are_read::<Flat>();
    }

    #[test]
    fn arguments_are_named_by_text_alone() {
        #[derive(Deserialize, Debug, PartialEq)]
        struct Two {
            a: u8,
            #[serde(default)]
            b: u8,
        }
        let others: [&[u8]; 8] = [
            &[0xc4, 1, b'b'],
            &[0xa1, 0xff],
            &[1],
            &[0xcc, 1],
            &[0xff],
            &[0xc3],
            &[0xc0],
            &[0xca, 0, 0, 0, 0],
        ];
        for other in others {
            let body = [&[0x82, 0xa1, b'a', 7], other, &[0x92, 9, 9]].concat();
            assert_eq!(decode::<Two>(&body).unwrap(), Two { a: 7, b: 0 });
            let alone = [&[0x81], other, &[7]].concat();
            decode::<Two>(&alone).expect_err("there is no `a`");
        }
        // A map or an array in place of a name is none.
        decode::<Two>(&[0x82, 0xa1, b'a', 7, 0x90, 7]).expect_err("an array");
        decode::<Two>(&[0x82, 0xa1, b'a', 7, 0x80, 7]).expect_err("a map");
    }

    #[test]
    fn nesting_is_limited() {
        #[derive(Deserialize)]
        struct Deep {
            #[serde(rename = "a")]
            _a: IgnoredAny,
        }
        let body = |depth: usize| {
            let mut body = vec![0x81, 0xa1, b'a'];
            body.resize(3 + depth, 0x91);
            body.push(0x00);
            body
        };
        for depth in [0, 1, 100, 120, 125, 126, 127, 128, 129, 1_000, 100_000] {
            let body = body(depth);
            let expected = codec::decode::<Deep>(&body, MESSAGE_PACK).is_ok();
            assert_eq!(decode::<Deep>(&body).is_ok(), expected, "{depth}");
        }
    }

    #[test]
    fn what_is_no_list_of_arguments_is_said_to_be_none() {
        let error = decode::<Nothing>(&[0x07]).unwrap_err().to_string();
        assert_eq!(error, "they are neither a map nor an array");
        let error = decode::<(u8,)>(&[0x92, 1, 2]).unwrap_err().to_string();
        assert_eq!(error, "there are too many, by 1");
    }
}
