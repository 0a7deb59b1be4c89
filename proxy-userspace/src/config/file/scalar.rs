//! Values of the file that are more than text or a number.
//!
//! Each is a newtype that parses the text of a scalar and says what it expects. The pattern in
//! the schema is for editors; the parser here decides.

/// Defines a newtype: its doc, name, content, whether it must be text by YAML's rules (`TEXT`)
/// or may be a number (`RAW`), what is expected, its parser and its schema.
macro_rules! scalar {
    ($(#[$doc:meta])* $name:ident($content:ty), $form:ident, $expected:literal, $parse:expr, $schema:tt) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $name(pub(crate) $content);

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct OfText;

                impl serde::de::Visitor<'_> for OfText {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        let parse: fn(&str) -> Option<$content> = $parse;
                        parse(text).map($name).ok_or_else(|| {
                            E::invalid_value(serde::de::Unexpected::Str(text), &self)
                        })
                    }
                }

                deserializer.deserialize_newtype_struct(crate::config::decode::$form, OfText)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

mod addresses;
mod numbers;
mod texts;

pub(crate) use addresses::{
    Address, Authority, CollectorUrl, Endpoint, Host, HostPort, Network, Port, PortRange,
    SocketAddress, SrvName,
};
pub(crate) use numbers::{
    BodyLimit, HttpsRedirect, Percent, Size, Status, Statuses, Time, Version,
};
pub(crate) use texts::{
    BackendName, CgroupPath, FilePath, InterfaceName, LogTarget, Name, Path, Scheme, Text, UrlPath,
};
