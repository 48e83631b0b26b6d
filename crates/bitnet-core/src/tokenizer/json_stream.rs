//! Walks the large parts of a JSON file entry by entry.
//!
//! A vocabulary of 128,000 entries and twice as many merges take tens of megabytes as a tree of values; they
//! are handed over one at a time instead, straight from the text.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// How a walk ended other than well.
pub(super) enum WalkError<E> {
    /// The text is not an object or a list, or not JSON.
    Shape(serde_json::Error),
    /// The callback refused an entry.
    Entry(E),
}

/// Hands each entry of an object to `each`, in the order of the text, repeated keys included.
pub(super) fn for_each_entry<E>(
    raw: &RawValue,
    mut each: impl FnMut(String, Value) -> Result<(), E>,
) -> Result<(), WalkError<E>> {
    let mut refused = None;
    let walk = Walk {
        entry: |key, value| keep(&mut refused, each(key, value)),
        item: |_| false,
        expected: "an object",
    };
    finish(walk.deserialize(&mut serde_json::Deserializer::from_str(raw.get())), refused)
}

/// Hands each item of a list to `each`, in order.
pub(super) fn for_each_item<E>(
    raw: &RawValue,
    mut each: impl FnMut(Value) -> Result<(), E>,
) -> Result<(), WalkError<E>> {
    let mut refused = None;
    let walk =
        Walk { entry: |_, _| false, item: |value| keep(&mut refused, each(value)), expected: "a list" };
    finish(walk.deserialize(&mut serde_json::Deserializer::from_str(raw.get())), refused)
}

/// Remembers a refusal; returns whether to go on.
fn keep<E>(refused: &mut Option<E>, outcome: Result<(), E>) -> bool {
    *refused = outcome.err();
    refused.is_none()
}

fn finish<E>(walked: Result<(), serde_json::Error>, refused: Option<E>) -> Result<(), WalkError<E>> {
    match (refused, walked) {
        (Some(error), _) => Err(WalkError::Entry(error)),
        (None, walked) => walked.map_err(WalkError::Shape),
    }
}

/// A visitor that keeps nothing.
struct Walk<F, G> {
    entry: F,
    item: G,
    expected: &'static str,
}

impl<'de, F, G> DeserializeSeed<'de> for Walk<F, G>
where
    F: FnMut(String, Value) -> bool,
    G: FnMut(Value) -> bool,
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.expected {
            "a list" => deserializer.deserialize_seq(self),
            _ => deserializer.deserialize_map(self),
        }
    }
}

impl<'de, F, G> Visitor<'de> for Walk<F, G>
where
    F: FnMut(String, Value) -> bool,
    G: FnMut(Value) -> bool,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if !(self.entry)(key, value) {
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element::<Value>()? {
            if !(self.item)(value) {
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
