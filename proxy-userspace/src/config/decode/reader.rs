//! The deserializer over one node of the tree.

use super::access::{Entries, FieldAccess, FieldPart, Items, Variant};
use super::{FIELD, RAW, ReadError, TEXT, TEXT_OR_KEYS};
use crate::config::fault::Code;
use crate::config::file::other_word;
use crate::config::report::{Draft, Place, Report, similar};
use crate::config::yaml::{Kind, NodeId, Number, Scalar, Step};
use serde::de::{Deserializer, Visitor};
use std::fmt;

/// Reads one node.
#[derive(Clone, Copy)]
pub(super) struct Reader<'r, 'd> {
    pub(super) report: &'r Report<'d>,
    pub(super) node: NodeId,
}

impl<'r, 'd> Reader<'r, 'd> {
    fn kind(&self) -> &'d Kind {
        &self.report.document().node(self.node).kind
    }

    pub(super) fn at(&self, node: NodeId) -> Self {
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
            Kind::List(_) if self.starts_with_bracket() => Err(self
                .wrong("a list does not belong here", expected)
                .fix("put text that starts with `[` in quotes")
                .into()),
            Kind::List(_) | Kind::Map(_) => Err(self.wrong_type(expected)),
        }
    }

    /// Another kind of value is here than the one that is wanted.
    fn wrong_type(&self, expected: &str) -> ReadError {
        let draft = match self.kind() {
            Kind::Scalar(scalar) if scalar.is_null() => self
                .wrong("there is no value here", expected)
                .fix("give a value, or remove the key"),
            Kind::Scalar(scalar) => {
                self.wrong(format!("`{}` is a single value", scalar.text), expected)
            }
            Kind::List(_) => self.wrong("a list does not belong here", expected),
            Kind::Map(_) => self.wrong("a map of keys does not belong here", expected),
        };
        draft.into()
    }

    fn wrong(&self, message: impl Into<String>, expected: &str) -> Draft {
        Draft::new(Code::WrongType, message).expected(expected)
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
            let draft = Draft::new(Code::UnknownKey, format!("there is no key `{key}` here"));
            let draft = match known {
                [] => draft.expected("no keys: `{}`"),
                _ => draft.expected(format!("one of {}", list(known))),
            };
            let meant = other_word(key, known).or_else(|| similar(key, known.iter().copied()));
            let draft = match meant {
                Some(word) => {
                    self.report.expect_key(self.node, word);
                    draft.fix(format!("did you mean `{word}`?"))
                }
                None => draft,
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

    fn deserialize_bool<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let scalar = self.scalar("`true` or `false`")?;
        let is_word = scalar.is_bool() && (!scalar.quoted || scalar.substituted);
        if is_word {
            return visitor.visit_bool(scalar.text.eq_ignore_ascii_case("true"));
        }
        let draft = Draft::new(
            Code::WrongType,
            format!("`{}` is not a truth value", scalar.text),
        )
        .expected("`true` or `false`");
        let draft = match scalar.text.to_lowercase().as_str() {
            "true" | "false" => draft.fix("remove the quotes"),
            "yes" | "on" | "y" => draft.fix("write `true`"),
            "no" | "off" | "n" => draft.fix("write `false`"),
            _ => draft,
        };
        Err(draft.into())
    }

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
        let items = match self.kind() {
            Kind::List(items) => items,
            Kind::Scalar(scalar) if !scalar.is_null() => {
                let text = &scalar.text;
                return Err(self
                    .wrong(format!("`{text}` is a single value"), "a list")
                    .fix(format!("write it in brackets: `[{text}]`"))
                    .into());
            }
            Kind::Map(_) => {
                return Err(self
                    .wrong("a map of keys does not belong here", "a list")
                    .fix("begin each element with `- `")
                    .into());
            }
            Kind::Scalar(_) => return Err(self.wrong_type("a list")),
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
            return Err(self.wrong_type(&match known {
                [] => "an empty map: `{}`".to_owned(),
                _ => format!("a map of the keys {}", list(known)),
            }));
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
        let word = self.scalar(&list(variants))?.text.as_str();
        match variants.iter().find(|variant| **variant == word) {
            Some(variant) => visitor.visit_enum(Variant {
                reader: self,
                variant,
            }),
            None => {
                let draft = Draft::new(Code::InvalidValue, format!("`{word}` is not valid here"))
                    .expected(list(variants));
                Err(match other_word(word, variants) {
                    Some(ours) => draft.fix(format!("did you mean `{ours}`?")),
                    None => draft.did_you_mean(word, variants.iter().copied()),
                }
                .into())
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'d>>
        i8 i16 i32 i64 i128 u128 f32 char bytes byte_buf unit unit_struct tuple identifier
    }
}
