//! Lists whose length is checked before memory is set aside for them, by both sides.
//!
//! A few bytes on the wire can announce millions of elements, and an empty element of one byte takes dozens
//! in memory. So every field that is a list says how many elements it may have, and byte strings are read in
//! one piece. On the wire this looks like any other list.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
    ser,
};

/// A variable's name and value.
type Pair = (Vec<u8>, Vec<u8>);

/// For `#[serde(with)]`: a list of at most `MAX` elements.
pub(crate) struct AtMost<const MAX: usize>;

/// For `#[serde(with)]`: at most `MAX` byte strings.
pub(crate) struct BytesAtMost<const MAX: usize>;

/// For `#[serde(with)]`: at most `MAX` pairs of byte strings.
pub(crate) struct PairsAtMost<const MAX: usize>;

/// For `#[serde(with)]`: a byte string that may be missing.
pub(crate) struct MaybeBytes;

impl<const MAX: usize> AtMost<MAX> {
    pub(crate) fn serialize<T: Serialize, S: Serializer>(items: &[T], to: S) -> Result<S::Ok, S::Error> {
        write::<MAX, _, _>(items.iter(), to)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<T>, D::Error> {
        read::<MAX, T, _>(from)
    }
}

impl<const MAX: usize> BytesAtMost<MAX> {
    pub(crate) fn serialize<S: Serializer>(items: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        write::<MAX, _, _>(items.iter().map(|item| Piece(item)), to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
        Ok(read::<MAX, Bytes, _>(from)?.into_iter().map(|Bytes(item)| item).collect())
    }
}

impl<const MAX: usize> PairsAtMost<MAX> {
    pub(crate) fn serialize<S: Serializer>(items: &[Pair], to: S) -> Result<S::Ok, S::Error> {
        write::<MAX, _, _>(items.iter().map(|(name, value)| (Piece(name), Piece(value))), to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Pair>, D::Error> {
        let pairs = read::<MAX, (Bytes, Bytes), _>(from)?;
        Ok(pairs.into_iter().map(|(Bytes(name), Bytes(value))| (name, value)).collect())
    }
}

impl MaybeBytes {
    // serde calls it with a reference to the field.
    #[allow(clippy::ref_option)]
    pub(crate) fn serialize<S: Serializer>(item: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        item.as_deref().map(Piece).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Bytes>::deserialize(from)?.map(|Bytes(item)| item))
    }
}

fn write<const MAX: usize, I, S>(items: I, to: S) -> Result<S::Ok, S::Error>
where
    I: ExactSizeIterator<Item: Serialize>,
    S: Serializer,
{
    match items.len() {
        count if count > MAX => Err(ser::Error::custom(format_args!("{count} elements; the limit is {MAX}"))),
        _ => to.collect_seq(items),
    }
}

fn read<'de, const MAX: usize, T, D>(from: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    from.deserialize_seq(Elements::<T, MAX>(std::marker::PhantomData))
}

struct Elements<T, const MAX: usize>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let too_many = |count| de::Error::invalid_length(count, &self);
        let announced = seq.size_hint().unwrap_or(0);
        if announced > MAX {
            return Err(too_many(announced));
        }
        let mut items = Vec::with_capacity(announced);
        while let Some(item) = seq.next_element()? {
            if items.len() == MAX {
                return Err(too_many(MAX + 1));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// A byte string read in one piece; `Vec<u8>` would read itself as a list of numbers.
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        from.deserialize_byte_buf(Whole)
    }
}

/// A byte string written in one piece.
struct Piece<'a>(&'a [u8]);

impl Serialize for Piece<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}
