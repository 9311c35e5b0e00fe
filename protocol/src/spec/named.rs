//! A map in the document, a list in memory: a map of something large costs init more code than all that it does with it.
//! A name that is there twice is found when the document is checked.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

/// For `#[serde(with)]`.
pub(super) fn serialize<T: Serialize, S: Serializer>(
    items: &[(String, T)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(items.iter().map(|(name, item)| (name, item)))
}

/// For `#[serde(with)]`.
pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<(String, T)>, D::Error> {
    struct Named<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Named<T> {
        type Value = Vec<(String, T)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = map.next_entry()? {
                items.push(item);
            }
            Ok(items)
        }
    }
    from.deserialize_map(Named(PhantomData))
}
