//! What a line looks like. All formats append to a buffer and allocate nothing.

mod escape;
mod haproxy;
mod json;
mod number;
mod template;
#[cfg(test)]
mod tests;

use super::Record;
use crate::config::log_template::{self, LogPart, LogTemplate, LogTemplateFault, LogVariable};
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
    /// And whether it has a request's id.
    Template(LogTemplate, bool),
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
            LogFormat::Combined => compiled(COMBINED)?,
            LogFormat::Common => compiled(COMMON)?,
            LogFormat::Template(text) => compiled(text)?,
        }))
    }

    /// True if lines tell how busy the proxy is.
    pub fn wants_counts(&self) -> bool {
        matches!(self.0, Kind::Haproxy)
    }

    /// True if lines have an id even where requests have none.
    pub fn wants_request_id(&self) -> bool {
        match &self.0 {
            Kind::Json | Kind::Haproxy => false,
            Kind::Template(_, has_id) => *has_id,
        }
    }

    /// Appends the line, its end included.
    pub fn line(&self, record: &Record<'_>, calendar: &mut Calendar, out: &mut Vec<u8>) {
        match &self.0 {
            Kind::Json => json::line(record, calendar, out),
            Kind::Haproxy => haproxy::line(record, calendar, out),
            Kind::Template(compiled, _) => template::line(compiled, record, calendar, out),
        }
        out.push(b'\n');
    }
}

fn compiled(text: &str) -> Result<Kind, LogTemplateFault> {
    let template = log_template::parse(text)?;
    let id = LogPart::Variable(LogVariable::RequestId);
    let has_id = template.parts.contains(&id);
    Ok(Kind::Template(template, has_id))
}
