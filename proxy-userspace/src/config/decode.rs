//! Tree → the types of [`super::file`], without stopping at the first fault.
//!
//! A serde deserializer returns at the first error. Here each value of the file's types is a
//! [`Field`], which is where an error is caught: it is noted in the report with the value's place,
//! the field becomes [`Field::Bad`], and reading goes on beside it. Keys are checked against the
//! type's own list, so that every unknown key is found, with a suggestion.
//!
//! The types stay plain `#[derive(Deserialize)]`. What serde has no word for is asked for by
//! names that begin with `$` ([`FIELD`], [`RAW`], [`TEXT`], [`TEXT_OR_KEYS`]).

use super::fault::Code;
use super::report::{Draft, Place, Report};
use super::yaml::{Kind, NodeId, Number, Scalar, Step};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Visitor, value::StrDeserializer,
};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Name by which [`Field`] asks for its value and its node.
const FIELD: &str = "$field";

/// Name of a newtype whose visitor gets the text of any scalar, number or not.
pub(crate) const RAW: &str = "$raw";

/// Name of a newtype whose visitor gets the text of a scalar that YAML does not take for a number.
pub(crate) const TEXT: &str = "$text";

/// Name of an enum of two newtype variants: the first for a scalar, the second for a map.
pub(crate) const TEXT_OR_KEYS: &str = "$text-or-keys";

/// One value of the file.
#[derive(Clone, Debug, Default)]
pub(crate) enum Field<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// It is there, but at fault; the fault is noted.
    Bad,
    /// It is there.
    Given(At<T>),
}

/// A value and the node it comes from.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    /// The value.
    pub(crate) value: T,
    /// Its node, for faults that are found later.
    pub(crate) node: NodeId,
}

impl<T> Field<T> {
    /// The value with its node, if it is there and good.
    pub(crate) fn given(&self) -> Option<&At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Absent | Self::Bad => None,
        }
    }

    /// The value, if it is there and good.
    pub(crate) fn value(&self) -> Option<&T> {
        self.given().map(|at| &at.value)
    }

    /// True if the key is not there.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As an option, because that is what serde lets be absent without a default.
        deserializer.deserialize_option(FieldVisitor(PhantomData))
    }
}

/// A field has the schema of its value.
impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Field::Absent)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_tuple_struct(FIELD, 2, self)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let value = access.next_element()?;
        let node = access.next_element()?;
        Ok(match (value, node) {
            (Some(value), Some(node)) => Field::Given(At {
                value,
                node: NodeId(node),
            }),
            _ => Field::Bad,
        })
    }
}

/// Reads a whole document as `T`. Faults go to the report.
pub(crate) fn decode<'d, T: Deserialize<'d>>(report: &Report<'d>, root: NodeId) -> Field<T> {
    let reader = Reader { report, node: root };
    Field::deserialize(reader).unwrap_or(Field::Bad)
}

/// Why a value could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Said already.
    Reported,
    /// To be said by the next [`Field`] outwards.
    Wrong(Box<Draft>),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration does not have the expected form")
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Draft::new(Code::InvalidValue, message.to_string()).into()
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Draft::new(Code::WrongType, format!("{found} does not belong here"))
            .expected(expected.to_string())
            .into()
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Str(text) => format!("`{text}`"),
            other => other.to_string(),
        };
        Draft::new(Code::InvalidValue, format!("{found} is not valid here"))
            .expected(expected.to_string())
            .into()
    }
}

impl From<Draft> for ReadError {
    fn from(draft: Draft) -> Self {
        Self::Wrong(Box::new(draft))
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
struct Reader<'r, 'd> {
    report: &'r Report<'d>,
    node: NodeId,
}

impl<'r, 'd> Reader<'r, 'd> {
    fn kind(&self) -> &'d Kind {
        &self.report.document().node(self.node).kind
    }

    fn at(&self, node: NodeId) -> Self {
        Self {
            report: self.report,
            node,
        }
    }

    /// The scalar, or what is there instead.
    fn scalar(&self, expected: &str) -> Result<&'d Scalar, ReadError> {
        match self.kind() {
            Kind::Scalar(scalar) if scalar.at_fault => Err(ReadError::Reported),
            Kind::Scalar(scalar) if scalar.is_null() => Err(Draft::new(
                Code::WrongType,
                "there is no value after the colon",
            )
            .expected(expected)
            .fix("give a value, or remove the key")
            .into()),
            Kind::Scalar(scalar) => Ok(scalar),
            Kind::List(_) | Kind::Map(_) => Err(self.wrong_type(expected)),
        }
    }

    fn wrong_type(&self, expected: &str) -> ReadError {
        let (found, fix) = match self.kind() {
            Kind::Scalar(scalar) if scalar.is_null() => (
                "there is no value here".to_owned(),
                Some("give a value, or remove the key".to_owned()),
            ),
            Kind::Scalar(scalar) if expected.contains("list") => (
                format!("`{}` is a single value", scalar.text),
                Some(format!("write it in brackets: `[{}]`", scalar.text)),
            ),
            Kind::Scalar(scalar) => (format!("`{}` is a single value", scalar.text), None),
            Kind::List(_) if !expected.contains("list") => (
                "a list does not belong here".to_owned(),
                self.starts_with_bracket()
                    .then(|| "put text that starts with `[` in quotes".to_owned()),
            ),
            Kind::List(_) => ("a list does not belong here".to_owned(), None),
            Kind::Map(_) => ("a map of keys does not belong here".to_owned(), None),
        };
        let draft = Draft::new(Code::WrongType, found).expected(expected);
        match fix {
            Some(fix) => draft.fix(fix).into(),
            None => draft.into(),
        }
    }

    fn starts_with_bracket(&self) -> bool {
        let span = self.report.document().node(self.node).span;
        span.end > span.start
    }

    /// The text of a scalar that is text by YAML's rules.
    fn text(&self, expected: &str) -> Result<&'d str, ReadError> {
        let scalar = self.scalar(expected)?;
        if scalar.is_text() || scalar.substituted {
            return Ok(&scalar.text);
        }
        let text = &scalar.text;
        let what = if scalar.is_bool() {
            "a truth value"
        } else {
            "a number"
        };
        Err(
            Draft::new(Code::WrongType, format!("`{text}` is {what} in YAML"))
                .expected(expected)
                .fix(format!("put it in quotes: `\"{text}\"`"))
                .into(),
        )
    }

    fn number(&self, expected: &str) -> Result<Number, ReadError> {
        let scalar = self.scalar(expected)?;
        let number = scalar.number();
        match number {
            Some(number) if !scalar.quoted || scalar.substituted => Ok(number),
            Some(_) => Err(Draft::new(
                Code::WrongType,
                format!("`{}` is in quotes, which makes it text", scalar.text),
            )
            .expected(expected)
            .fix("remove the quotes")
            .into()),
            None => Err(Draft::new(
                Code::WrongType,
                format!("`{}` is not a number", scalar.text),
            )
            .expected(expected)
            .into()),
        }
    }

    fn whole(&self, most: u64) -> Result<u64, ReadError> {
        let expected = format!("a whole number from 0 to {most}");
        let wrong = |text: String| {
            Draft::new(Code::InvalidValue, format!("{text} is out of range"))
                .expected(expected.clone())
                .into()
        };
        match self.number(&expected)? {
            Number::Whole(number) => match u64::try_from(number) {
                Ok(small) if small <= most => Ok(small),
                _ => Err(wrong(number.to_string())),
            },
            Number::Real(number) => Err(wrong(number.to_string())),
        }
    }

    /// Notes every key of the map that is not in `known`.
    fn check_keys(&self, children: &[NodeId], known: &'static [&'static str]) {
        for child in children {
            let Step::Key(key, _) = &self.report.document().node(*child).step else {
                continue;
            };
            if known.contains(&key.as_str()) {
                continue;
            }
            let draft = Draft::new(Code::UnknownKey, format!("there is no key `{key}` here"))
                .expected(format!("one of {}", list(known)));
            let draft = match super::file::other_word(key, known) {
                Some(word) => draft.fix(format!("did you mean `{word}`?")),
                None => draft.did_you_mean(key, known.iter().copied()),
            };
            self.report.error(Place::Key(*child), draft);
        }
    }
}

/// What a visitor expects, as text.
struct Expected<'a, V>(&'a V);

impl<'d, V: Visitor<'d>> fmt::Display for Expected<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}

/// Words as `a`, `b` or `c`.
fn list(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $ty:ty),*) => {$(
        fn $method<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
            let number = self.whole(<$ty>::MAX.into())?;
            // In range: `whole` has just checked it.
            visitor.$visit(number as $ty)
        }
    )*};
}

impl<'d> Deserializer<'d> for Reader<'_, 'd> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.kind() {
            Kind::Scalar(_) => self.deserialize_str(visitor),
            Kind::List(_) => self.deserialize_seq(visitor),
            Kind::Map(_) => self.deserialize_map(visitor),
        }
    }

    whole_numbers!(
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64
    );

    fn deserialize_f64<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.number("a number")? {
            Number::Whole(number) => visitor.visit_f64(number as f64),
            Number::Real(number) if number.is_finite() => visitor.visit_f64(number),
            Number::Real(number) => Err(Draft::new(
                Code::InvalidValue,
                format!("{number} is not valid here"),
            )
            .expected("a finite number")
            .into()),
        }
    }

    fn deserialize_str<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_borrowed_str(self.text("text")?)
    }

    fn deserialize_string<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'d>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let expected = Expected(&visitor).to_string();
        match name {
            RAW => visitor.visit_borrowed_str(&self.scalar(&expected)?.text),
            TEXT => visitor.visit_borrowed_str(self.text(&expected)?),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let Kind::List(items) = self.kind() else {
            return Err(self.wrong_type("a list"));
        };
        visitor.visit_seq(Items {
            reader: self,
            items: items.iter(),
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'d>>(
        self,
        name: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if name != FIELD {
            return self.deserialize_seq(visitor);
        }
        visitor.visit_seq(FieldAccess {
            reader: self,
            next: FieldPart::Value,
        })
    }

    fn deserialize_map<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let Kind::Map(children) = self.kind() else {
            return Err(self.wrong_type("a map of keys"));
        };
        visitor.visit_map(Entries {
            reader: self,
            children: children.iter(),
            value: None,
            known: None,
        })
    }

    fn deserialize_struct<V: Visitor<'d>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let Kind::Map(children) = self.kind() else {
            return Err(self.wrong_type(&format!("a map of the keys {}", list(known))));
        };
        self.check_keys(children, known);
        visitor.visit_map(Entries {
            reader: self,
            children: children.iter(),
            value: None,
            known: Some(known),
        })
    }

    fn deserialize_enum<V: Visitor<'d>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if name == TEXT_OR_KEYS {
            let index = match self.kind() {
                Kind::Map(_) => 1,
                Kind::Scalar(_) | Kind::List(_) => 0,
            };
            let variant = variants.get(index).copied().unwrap_or_default();
            return visitor.visit_enum(Variant {
                reader: self,
                variant,
            });
        }
        let word = self.text(&list(variants))?;
        match variants.iter().find(|variant| **variant == word) {
            Some(variant) => visitor.visit_enum(Variant {
                reader: self,
                variant,
            }),
            None => Err(
                Draft::new(Code::InvalidValue, format!("`{word}` is not valid here"))
                    .expected(list(variants))
                    .did_you_mean(word, variants.iter().copied())
                    .into(),
            ),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'d>>
        bool i8 i16 i32 i64 i128 u128 f32 char bytes byte_buf unit unit_struct tuple identifier
    }
}

/// The elements of a list.
struct Items<'r, 'd> {
    reader: Reader<'r, 'd>,
    items: std::slice::Iter<'d, NodeId>,
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
struct Entries<'r, 'd> {
    reader: Reader<'r, 'd>,
    children: std::slice::Iter<'d, NodeId>,
    value: Option<NodeId>,
    known: Option<&'static [&'static str]>,
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
enum FieldPart {
    Value,
    Node,
    Nothing,
}

/// What a [`Field`] is made of: its value, unless that is at fault, and its node.
struct FieldAccess<'r, 'd> {
    reader: Reader<'r, 'd>,
    next: FieldPart,
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
struct Variant<'r, 'd> {
    reader: Reader<'r, 'd>,
    variant: &'static str,
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
