//! What a line looks like. All formats append to a buffer and allocate nothing.

mod escape;
mod haproxy;
mod json;
mod number;
mod template;
#[cfg(test)]
mod tests;

use super::Record;
use crate::config::log_template::{self, LogTemplate, LogTemplateFault};
use crate::config::model::http::LogFormat;
use crate::observe::calendar::Calendar;

/// nginx's `combined`, in its own words.
const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" \
    $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

/// The Common Log Format, as Apache writes it.
const COMMON: &str =
    "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_clf";

/// What a line looks like.
#[derive(Clone, Debug)]
pub struct Format(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Json,
    Haproxy,
    Template(LogTemplate),
}

impl Format {
    /// Compiles a format.
    ///
    /// # Errors
    ///
    /// A template's first fault; none for a model that was validated.
    pub fn compile(format: &LogFormat) -> Result<Self, LogTemplateFault> {
        Ok(Self(match format {
            LogFormat::Json => Kind::Json,
            LogFormat::Haproxy => Kind::Haproxy,
            LogFormat::Combined => Kind::Template(log_template::parse(COMBINED)?),
            LogFormat::Common => Kind::Template(log_template::parse(COMMON)?),
            LogFormat::Template(text) => Kind::Template(log_template::parse(text)?),
        }))
    }

    /// Appends the line, its end included.
    pub fn line(&self, record: &Record<'_>, calendar: &mut Calendar, out: &mut Vec<u8>) {
        match &self.0 {
            Kind::Json => json::line(record, calendar, out),
            Kind::Haproxy => haproxy::line(record, calendar, out),
            Kind::Template(compiled) => template::line(compiled, record, calendar, out),
        }
        out.push(b'\n');
    }
}
