//! Templates of access logs: text with nginx's variables, understood once.
//!
//! A template is what stands between the quotes of nginx's `log_format`, so that it can be copied:
//! `$name` or `${name}`, everything else as it is. It may begin, as there, with `escape=default `,
//! `escape=json ` or `escape=none `. Which octet a variable stands for is the log's business
//! (`observe::access_log`); which variables there are is said here, because a configuration with an
//! unknown one is refused.

use std::fmt;

/// A template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTemplate {
    /// How values are escaped.
    pub escape: LogEscape,
    /// What a line is made of.
    pub parts: Vec<LogPart>,
}

/// How values are escaped; text of the template itself never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogEscape {
    /// `"`, `\`, and what is not printable ASCII as `\xXX`; `-` for what is missing.
    #[default]
    Default,
    /// As in a JSON string; nothing for what is missing.
    Json,
    /// Not at all. A client can then forge lines.
    None,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPart {
    /// Text.
    Text(String),
    /// A value.
    Variable(LogVariable),
}

/// Why a template is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LogTemplateFault {
    /// Octets of the template before the fault.
    pub at: usize,
    /// What is wrong.
    pub kind: LogTemplateFaultKind,
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTemplateFaultKind {
    /// There is no such variable.
    Unknown {
        /// Its name.
        name: String,
        /// The one that was perhaps meant.
        suggestion: Option<String>,
    },
    /// A dollar sign without a name.
    NoName,
    /// `${` without `}`.
    Unclosed,
    /// An escaping that is not known.
    Escape(String),
}

impl fmt::Display for LogTemplateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            LogTemplateFaultKind::Unknown { name, suggestion } => {
                write!(f, "there is no variable `${name}`")?;
                match suggestion {
                    Some(suggestion) => write!(f, "; did you mean `${suggestion}`?"),
                    None => Ok(()),
                }
            }
            LogTemplateFaultKind::NoName => f.write_str("a `$` must be followed by a name"),
            LogTemplateFaultKind::Unclosed => f.write_str("a `${` is not closed"),
            LogTemplateFaultKind::Escape(name) => {
                write!(f, "`escape={name}`: there are `default`, `json` and `none`")
            }
        }
    }
}

macro_rules! variables {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $(| $alias:literal)*;)*) => {
        /// A variable.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum LogVariable {
            $($(#[$doc])* $variant,)*
            /// `$http_NAME`: a field of the request; the name in lower case with dashes.
            RequestField(Box<str>),
            /// `$sent_http_NAME`: a field of the response to the client.
            ResponseField(Box<str>),
            /// `$cookie_NAME`.
            Cookie(Box<str>),
            /// `$arg_NAME`: a parameter of the query.
            Argument(Box<str>),
        }

        impl LogVariable {
            /// Names of those that stand for one thing.
            pub const NAMES: &[&str] = &[$($name, $($alias,)*)*];

            /// The variable of this name, without its dollar sign.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name $(| $alias)* => return Some(Self::$variant),)*
                    _ => {}
                }
                let field = |rest: &str| rest.replace('_', "-").to_ascii_lowercase().into();
                let (kind, rest) = PREFIXES.iter().find_map(|&(prefix, kind)| {
                    let rest = name.strip_prefix(prefix)?;
                    (!rest.is_empty()).then_some((kind, rest))
                })?;
                Some(match kind {
                    Prefix::Request => Self::RequestField(field(rest)),
                    Prefix::Response => Self::ResponseField(field(rest)),
                    Prefix::Cookie => Self::Cookie(rest.into()),
                    Prefix::Argument => Self::Argument(rest.into()),
                })
            }
        }
    };
}

#[derive(Clone, Copy)]
enum Prefix {
    Request,
    Response,
    Cookie,
    Argument,
}

const PREFIXES: [(&str, Prefix); 4] = [
    ("http_", Prefix::Request),
    ("sent_http_", Prefix::Response),
    ("cookie_", Prefix::Cookie),
    ("arg_", Prefix::Argument),
];

variables! {
    /// Address of the client, behind trusted proxies too.
    RemoteAddr = "remote_addr";
    /// Port of the client's connection.
    RemotePort = "remote_port";
    /// Address at the other end of the connection.
    ConnectionAddr = "realip_remote_addr" | "proxy_protocol_addr";
    /// User of Basic authentication.
    RemoteUser = "remote_user";
    /// `28/Nov/2026:13:58:28 +0000`
    TimeLocal = "time_local";
    /// `2026-11-28T13:58:28+00:00`
    TimeIso8601 = "time_iso8601";
    /// Seconds since the epoch, with milliseconds.
    Msec = "msec";
    /// The request line.
    Request = "request";
    /// Method.
    RequestMethod = "request_method";
    /// Target as the client sent it.
    RequestUri = "request_uri";
    /// Path as it was served, after rewriting.
    Uri = "uri" | "document_uri";
    /// Query.
    Args = "args" | "query_string";
    /// `?` if there is a query.
    IsArgs = "is_args";
    /// Octets of the request.
    RequestLength = "request_length" | "bytes_received";
    /// Seconds, with milliseconds, that the exchange took.
    RequestTime = "request_time" | "session_time";
    /// `OK` if the exchange was completed.
    RequestCompletion = "request_completion";
    /// Id of the request.
    RequestId = "request_id";
    /// `http` or `https`.
    Scheme = "scheme";
    /// `on`, or nothing.
    Https = "https";
    /// `TLSv1.3`
    SslProtocol = "ssl_protocol";
    /// Cipher suite, by OpenSSL's name.
    SslCipher = "ssl_cipher";
    /// Name that the client asked for (SNI).
    SslServerName = "ssl_server_name";
    /// `r` if the connection took an earlier session up again, else `.`.
    SslSessionReused = "ssl_session_reused";
    /// Whose the client's certificate is.
    SslClientSDn = "ssl_client_s_dn";
    /// `SUCCESS`, or `NONE` without a certificate.
    SslClientVerify = "ssl_client_verify";
    /// Our address.
    ServerAddr = "server_addr";
    /// Our port.
    ServerPort = "server_port";
    /// Name of the listener.
    Listener = "listener" | "server_name";
    /// The cgroup of the program that opened the connection, where that was redirected.
    Workload = "workload";
    /// `TCP` or `UDP`
    Protocol = "protocol";
    /// `HTTP/1.1`
    ServerProtocol = "server_protocol";
    /// Host without its port.
    Host = "host";
    /// Status.
    Status = "status";
    /// Octets sent after the head.
    BodyBytesSent = "body_bytes_sent";
    /// Octets sent.
    BytesSent = "bytes_sent";
    /// As `$body_bytes_sent`, `-` for 0.
    BodyBytesClf = "body_bytes_clf";
    /// Number of the connection.
    Connection = "connection";
    /// Requests of the connection so far.
    ConnectionRequests = "connection_requests";
    /// `Content-Length` of the request.
    ContentLength = "content_length" | "http_content_length";
    /// `Content-Length` of the response.
    SentContentLength = "sent_http_content_length";
    /// `Content-Type` of the request.
    ContentType = "content_type";
    /// Host and port as the client sent them, in lower case.
    HttpHost = "http_host";
    /// Protocol to which the client asked to change.
    HttpUpgrade = "http_upgrade";
    /// Addresses of the backends tried.
    UpstreamAddr = "upstream_addr";
    /// Their statuses.
    UpstreamStatus = "upstream_status";
    /// Times to connect.
    UpstreamConnectTime = "upstream_connect_time";
    /// Times to the heads of their responses.
    UpstreamHeaderTime = "upstream_header_time" | "upstream_first_byte_time";
    /// Times they took.
    UpstreamResponseTime = "upstream_response_time" | "upstream_session_time";
    /// Octets of their content.
    UpstreamResponseLength = "upstream_response_length";
    /// Octets received from them.
    UpstreamBytesReceived = "upstream_bytes_received";
    /// Octets sent to them.
    UpstreamBytesSent = "upstream_bytes_sent";
    /// Name of the backend that answered.
    Backend = "backend";
    /// Name of the service.
    Service = "service" | "proxy_host";
    /// Name of the route.
    Route = "route";
    /// Number of backends tried after the first.
    Retries = "retries";
    /// Seconds of waiting for a place at a backend.
    QueueTime = "queue_time";
    /// HAProxy's four letters.
    Flags = "flags";
    /// Envoy's response flags.
    ResponseFlags = "response_flags";
    /// Why the exchange ended.
    End = "end";
    /// Who ended it.
    EndedBy = "ended_by";
    /// Why the message was refused.
    Refusal = "refusal";
    /// Id of the trace.
    TraceId = "trace_id" | "otel_trace_id";
    /// Id of our span.
    SpanId = "span_id" | "otel_span_id";
    /// Server name that the client asked for, where TLS is passed on.
    PrereadServerName = "ssl_preread_server_name";
    /// Protocols that it offered.
    PrereadProtocols = "ssl_preread_alpn_protocols";
    /// The newest version that it offered.
    PrereadVersion = "ssl_preread_protocol";
}

/// Reads a template.
///
/// # Errors
///
/// The first fault.
pub fn parse(text: &str) -> Result<LogTemplate, LogTemplateFault> {
    let (escape, mut at) = escaping(text)?;
    let mut parts = Vec::new();
    while let Some(dollar) = text[at..].find('$').map(|offset| at + offset) {
        if dollar > at {
            parts.push(LogPart::Text(text[at..dollar].to_owned()));
        }
        let (name, end) = name(text, dollar)?;
        let variable = LogVariable::named(name).ok_or_else(|| LogTemplateFault {
            at: dollar,
            kind: LogTemplateFaultKind::Unknown {
                name: name.to_owned(),
                suggestion: suggestion(name),
            },
        })?;
        parts.push(LogPart::Variable(variable));
        at = end;
    }
    if at < text.len() {
        parts.push(LogPart::Text(text[at..].to_owned()));
    }
    Ok(LogTemplate { escape, parts })
}

/// The escaping that the template begins with, and where the rest begins.
fn escaping(text: &str) -> Result<(LogEscape, usize), LogTemplateFault> {
    let Some(rest) = text.strip_prefix("escape=") else {
        return Ok((LogEscape::Default, 0));
    };
    let name = rest.split(' ').next().unwrap_or_default();
    let escape = match name {
        "default" => LogEscape::Default,
        "json" => LogEscape::Json,
        "none" => LogEscape::None,
        other => {
            let kind = LogTemplateFaultKind::Escape(other.to_owned());
            return Err(LogTemplateFault { at: 0, kind });
        }
    };
    let blank = usize::from(rest.len() > name.len());
    Ok((escape, "escape=".len() + name.len() + blank))
}

/// The name after a dollar sign, and where the rest begins.
fn name(text: &str, dollar: usize) -> Result<(&str, usize), LogTemplateFault> {
    let fault = |kind| LogTemplateFault { at: dollar, kind };
    let after = &text[dollar + 1..];
    let (name, end) = match after.strip_prefix('{') {
        Some(rest) => {
            let length = rest
                .find('}')
                .ok_or_else(|| fault(LogTemplateFaultKind::Unclosed))?;
            (&rest[..length], dollar + 1 + 1 + length + 1)
        }
        None => {
            let length = after
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(after.len());
            (&after[..length], dollar + 1 + length)
        }
    };
    if name.is_empty() {
        return Err(fault(LogTemplateFaultKind::NoName));
    }
    Ok((name, end))
}

/// The known name that is nearest, if it is near.
fn suggestion(name: &str) -> Option<String> {
    LogVariable::NAMES
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|&(distance, known)| distance * 3 <= known.len())
        .min()
        .map(|(_, &known)| known.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        parse(text).expect_err("a fault").to_string()
    }

    #[test]
    fn text_and_variables_alternate() {
        let template = parse("$remote_addr-${status}ms [$http_X_Forwarded_For]").expect("valid");
        let expected = [
            LogPart::Variable(LogVariable::RemoteAddr),
            LogPart::Text("-".to_owned()),
            LogPart::Variable(LogVariable::Status),
            LogPart::Text("ms [".to_owned()),
            LogPart::Variable(LogVariable::RequestField("x-forwarded-for".into())),
            LogPart::Text("]".to_owned()),
        ];
        assert_eq!(template.parts, expected);
        assert_eq!(template.escape, LogEscape::Default);
    }

    #[test]
    fn an_escaping_may_come_first() {
        let template = parse("escape=json {\"a\":\"$arg_a\"}").expect("valid");
        assert_eq!(template.escape, LogEscape::Json);
        assert_eq!(template.parts[0], LogPart::Text("{\"a\":\"".to_owned()));
        assert_eq!(parse("escape=none").expect("valid").parts, []);
        assert!(fault("escape=html $status").contains("`escape=html`"));
    }

    #[test]
    fn unknown_variables_are_faults_with_a_suggestion() {
        assert_eq!(
            fault("$remote_addr $statsu"),
            "there is no variable `$statsu`; did you mean `$status`?"
        );
        assert_eq!(fault("$xyz"), "there is no variable `$xyz`");
        assert_eq!(parse("ab $http_").expect_err("a fault").at, 3);
        assert!(fault("10 $").contains("followed by a name"));
        assert!(fault("${status").contains("not closed"));
    }

    proptest::proptest! {
        /// Whatever the text, there is an answer, and a fault lies in the text.
        #[test]
        fn any_text_is_a_template_or_has_its_fault_inside(
            text in r"(escape=(json|none|x) ?)?([a-z ]|[$]|[{]|[}]|é|[$](status|arg_a|http_)|\{){0,40}",
        ) {
            match parse(&text) {
                Ok(template) => {
                    let texts = template.parts.iter().filter_map(|part| match part {
                        LogPart::Text(text) => Some(text),
                        LogPart::Variable(_) => None,
                    });
                    for part in texts {
                        proptest::prop_assert!(text.contains(part.as_str()), "{part:?}");
                    }
                }
                Err(fault) => proptest::prop_assert!(text.is_char_boundary(fault.at), "{fault:?}"),
            }
        }
    }

    #[test]
    fn every_name_is_found() {
        for name in LogVariable::NAMES {
            assert!(LogVariable::named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn every_variable_is_documented() {
        let text = include_str!("../../../docs/access-logs.md");
        for name in LogVariable::NAMES {
            assert!(text.contains(&format!("`${name}`")), "{name}");
        }
        let documented = text
            .split("`$")
            .skip(1)
            .filter_map(|rest| rest.split('`').next());
        for name in documented.filter(|name| !name.ends_with("NAME")) {
            assert!(LogVariable::named(name).is_some(), "{name}");
        }
    }
}
