//! Tree → the types of [`super::file`], without stopping at the first fault.
//!
//! A serde deserializer returns at the first error. Here each value of the file's types is a
//! [`Field`], which is where an error is caught: it is noted in the report with the value's place,
//! the field becomes [`Field::Bad`], and reading goes on beside it. Keys are checked against the
//! type's own list, so that every unknown key is found, with a suggestion.
//!
//! The types stay plain `#[derive(Deserialize)]`. What serde has no word for is asked for by
//! names that begin with `$` ([`FIELD`], [`RAW`], [`TEXT`], [`TEXT_OR_KEYS`]).

mod access;
mod pairs;
mod reader;

pub(crate) use pairs::Pairs;

use super::fault::Code;
use super::report::{Draft, Report};
use super::yaml::NodeId;
use reader::Reader;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{self, Deserialize, Deserializer, Visitor};
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
