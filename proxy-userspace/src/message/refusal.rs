//! Why a message was refused: one list for all versions, for metrics, logs and answers.

/// Who sent the message that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedBy {
    /// The client: it is answered with the refusal's status.
    Client,
    /// The backend: the client is answered with 502.
    Backend,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $label:literal, $status:literal;)*) => {
        /// Why a message was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Refusal {
            $($(#[$doc])* $variant,)*
        }

        impl Refusal {
            /// All refusals, in order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// For metrics and logs.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }

            /// Status with which a client is answered.
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)*
                }
            }
        }
    };
}

refusals! {
    /// The request line is not as RFC 9112 §3 has it.
    RequestLine = "request_line", 400;
    /// The method is not a token or is too long.
    Method = "method", 400;
    /// The method is not served here: CONNECT without a protocol.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The target is in no form that its method allows, or has a forbidden octet.
    Target = "target", 400;
    /// A percent sign in the path without two hexadecimal digits.
    PathEncoding = "path_encoding", 400;
    /// `%00` in the path.
    PathNul = "path_nul", 400;
    /// Servers read the path in different ways.
    PathAmbiguous = "path_ambiguous", 400;
    /// The request line is too long.
    TargetTooLong = "target_too_long", 414;
    /// The version is neither 1.0 nor 1.1.
    Version = "version", 505;
    /// The status line of a response is not as RFC 9112 §4 has it.
    StatusLine = "status_line", 502;
    /// A line ends with a bare LF or holds a bare CR.
    BareLineEnd = "bare_line_end", 400;
    /// A field name is not a token (a blank before the colon is the usual case).
    FieldName = "field_name", 400;
    /// A field value holds a control character.
    FieldValue = "field_value", 400;
    /// A field line is folded.
    ObsFold = "obs_fold", 400;
    /// Too many fields.
    TooManyFields = "too_many_fields", 431;
    /// The head is too long.
    HeadTooLong = "head_too_long", 431;
    /// No `Host` in HTTP/1.1, or an empty one with another authority.
    HostMissing = "host_missing", 400;
    /// More than one `Host`, or one that contradicts the target.
    HostAmbiguous = "host_ambiguous", 400;
    /// The host is not valid.
    HostInvalid = "host_invalid", 400;
    /// `Content-Length` is not a number, or several differ.
    ContentLength = "content_length", 400;
    /// `Content-Length` and `Transfer-Encoding` together.
    LengthConflict = "length_conflict", 400;
    /// A transfer coding other than `chunked` last, or in HTTP/1.0.
    TransferEncoding = "transfer_encoding", 400;
    /// A transfer coding that is valid and not known here.
    TransferCodingUnknown = "transfer_coding_unknown", 501;
    /// A chunk's size, extension or end is not as RFC 9112 §7.1 has it.
    Chunk = "chunk", 400;
    /// Trailers are not valid, or too long.
    Trailers = "trailers", 400;
    /// The content is longer than allowed.
    ContentTooLong = "content_too_long", 413;
    /// `Expect` asks for what is not known.
    Expectation = "expectation", 417;
    /// `Upgrade` or CONNECT is malformed, or a response changes the protocol unasked.
    Upgrade = "upgrade", 400;
    /// A pseudo-field is missing, doubled, misplaced or unknown (RFC 9113 §8.3).
    PseudoField = "pseudo_field", 400;
    /// A field that HTTP/2 forbids (RFC 9113 §8.2.2), or a name in upper case.
    ForbiddenField = "forbidden_field", 400;
    /// The content's length is not that announced.
    LengthMismatch = "length_mismatch", 400;
    /// The head did not come in time.
    HeadTimeout = "head_timeout", 408;
    /// The content came too slowly.
    BodyTimeout = "body_timeout", 408;
    /// A flood of resets, pings, settings or continuations.
    Flood = "flood", 400;
    /// Octets after a message that must be the connection's last.
    Surplus = "surplus", 400;
    /// The PROXY header of a connection is not valid, or did not come in time.
    ProxyHeader = "proxy_header", 400;
    /// A connection did not begin with the preface of HTTP/2, at a listener that speaks nothing else.
    Preface = "preface", 400;
    /// HTTP/2: a message is malformed (RFC 9113 §8.1.1); its stream was reset.
    Malformed = "malformed", 400;
    /// HTTP/2: frames are not as RFC 9113 has them; the connection was ended.
    Frame = "frame", 400;
    /// Informational answers without end before the answer.
    Informational = "informational", 502;
    /// The connection's certificate is not for the request's host (RFC 9110 §7.4).
    Misdirected = "misdirected", 421;
    /// The connection ended in the middle of a message.
    Truncated = "truncated", 400;
    /// A connection did not begin as TLS does, at a listener for it.
    NotTls = "not_tls", 400;
    /// A client could not agree on TLS with us, or was not believed. Handshakes are counted by
    /// what became of them besides.
    TlsHandshake = "tls_handshake", 400;
    /// A record of TLS is malformed (RFC 8446 §5.1).
    TlsRecord = "tls_record", 400;
    /// A ClientHello is malformed (RFC 8446 §4.1.2), or is not what comes first.
    ClientHello = "client_hello", 400;
    /// A ClientHello is too long.
    ClientHelloTooLong = "client_hello_too_long", 400;
    /// A ClientHello did not come in time.
    ClientHelloTimeout = "client_hello_timeout", 408;
    /// The server name of a ClientHello is malformed (RFC 6066 §3).
    ServerName = "server_name", 400;
    /// Nobody is configured for the server name of a ClientHello, or it has none.
    ServerNameUnknown = "server_name_unknown", 421;
    /// The application protocols of a ClientHello are malformed (RFC 7301 §3.1).
    Alpn = "alpn", 400;
    /// Nobody is configured for the application protocols of a ClientHello.
    AlpnUnknown = "alpn_unknown", 421;
}
