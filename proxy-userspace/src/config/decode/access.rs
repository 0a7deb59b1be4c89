//! What a deserializer hands out one by one: elements, entries, the parts of a field, variants.

use super::ReadError;
use super::reader::Reader;
use crate::config::report::Place;
use crate::config::yaml::{NodeId, Step};
use serde::de::{self, DeserializeSeed, Deserializer, Visitor, value::StrDeserializer};

/// The elements of a list.
pub(super) struct Items<'r, 'd> {
    pub(super) reader: Reader<'r, 'd>,
    pub(super) items: std::slice::Iter<'d, NodeId>,
}

impl<'d> de::SeqAccess<'d> for Items<'_, 'd> {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'d>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ReadError> {
        match self.items.next() {
            Some(item) => seed.deserialize(self.reader.at(*item)).map(Some),
            None => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// The entries of a map; with `known`, only those.
pub(super) struct Entries<'r, 'd> {
    pub(super) reader: Reader<'r, 'd>,
    pub(super) children: std::slice::Iter<'d, NodeId>,
    pub(super) value: Option<NodeId>,
    pub(super) known: Option<&'static [&'static str]>,
}

impl<'d> de::MapAccess<'d> for Entries<'_, 'd> {
    type Error = ReadError;

    fn next_key_seed<S: DeserializeSeed<'d>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ReadError> {
        for child in self.children.by_ref() {
            let Step::Key(key, _) = &self.reader.report.document().node(*child).step else {
                continue;
            };
            if self
                .known
                .is_some_and(|known| !known.contains(&key.as_str()))
            {
                continue;
            }
            self.value = Some(*child);
            return seed.deserialize(StrDeserializer::new(key)).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'d>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        match self.value.take() {
            Some(child) => seed.deserialize(self.reader.at(child)),
            None => Err(ReadError::Reported),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum FieldPart {
    Value,
    Node,
    Nothing,
}

/// What a [`super::Field`] is made of: its value, unless that is at fault, and its node.
pub(super) struct FieldAccess<'r, 'd> {
    pub(super) reader: Reader<'r, 'd>,
    pub(super) next: FieldPart,
}

impl<'d> de::SeqAccess<'d> for FieldAccess<'_, 'd> {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'d>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ReadError> {
        match self.next {
            FieldPart::Value => {
                self.next = FieldPart::Node;
                match seed.deserialize(self.reader) {
                    Ok(value) => Ok(Some(value)),
                    Err(error) => {
                        self.next = FieldPart::Nothing;
                        if let ReadError::Wrong(draft) = error {
                            self.reader
                                .report
                                .error(Place::Value(self.reader.node), *draft);
                        }
                        Ok(None)
                    }
                }
            }
            FieldPart::Node => {
                self.next = FieldPart::Nothing;
                let node = de::value::U32Deserializer::new(self.reader.node.0);
                seed.deserialize(node).map(Some)
            }
            FieldPart::Nothing => Ok(None),
        }
    }
}

/// The chosen variant of an enum; its content, if any, is the node itself.
pub(super) struct Variant<'r, 'd> {
    pub(super) reader: Reader<'r, 'd>,
    pub(super) variant: &'static str,
}

impl<'r, 'd> de::EnumAccess<'d> for Variant<'r, 'd> {
    type Error = ReadError;
    type Variant = Reader<'r, 'd>;

    fn variant_seed<S: DeserializeSeed<'d>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), ReadError> {
        let name: StrDeserializer<'_, ReadError> = StrDeserializer::new(self.variant);
        let variant = seed.deserialize(name)?;
        Ok((variant, self.reader))
    }
}

impl<'d> de::VariantAccess<'d> for Reader<'_, 'd> {
    type Error = ReadError;

    fn unit_variant(self) -> Result<(), ReadError> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'d>>(self, seed: S) -> Result<S::Value, ReadError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'d>>(self, _: usize, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'d>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_struct("", fields, visitor)
    }
}
