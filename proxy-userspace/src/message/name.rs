//! Field names that the proxy itself looks at, as numbers.
//!
//! Comparing text for each question ("is there a `Connection` field?") is what makes proxies slow.
//! A name is looked up once, when the field is parsed; later questions are a bit test.

macro_rules! names {
    ($($variant:ident = $text:literal,)*) => {
        /// A field name. [`Name::Other`] stands for all names that the proxy gives no meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the variants are the names")]
        pub enum Name {
            Other,
            $($variant,)*
        }

        impl Name {
            /// All known names.
            pub const KNOWN: &[Self] = &[$(Self::$variant,)*];

            /// The name in the usual spelling; empty for [`Name::Other`].
            pub const fn spelled(self) -> &'static str {
                match self {
                    Self::Other => "",
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

names! {
    Accept = "Accept",
    AcceptEncoding = "Accept-Encoding",
    AcceptRanges = "Accept-Ranges",
    Age = "Age",
    Allow = "Allow",
    AltSvc = "Alt-Svc",
    Authorization = "Authorization",
    B3 = "b3",
    CacheControl = "Cache-Control",
    Connection = "Connection",
    ContentEncoding = "Content-Encoding",
    ContentLength = "Content-Length",
    ContentRange = "Content-Range",
    ContentType = "Content-Type",
    Cookie = "Cookie",
    Date = "Date",
    Etag = "ETag",
    Expect = "Expect",
    Expires = "Expires",
    Forwarded = "Forwarded",
    GrpcMessage = "grpc-message",
    GrpcStatus = "grpc-status",
    Host = "Host",
    Http2Settings = "HTTP2-Settings",
    IfMatch = "If-Match",
    IfModifiedSince = "If-Modified-Since",
    IfNoneMatch = "If-None-Match",
    IfRange = "If-Range",
    IfUnmodifiedSince = "If-Unmodified-Since",
    KeepAlive = "Keep-Alive",
    LastModified = "Last-Modified",
    Location = "Location",
    MaxForwards = "Max-Forwards",
    Origin = "Origin",
    ProxyAuthenticate = "Proxy-Authenticate",
    ProxyAuthorization = "Proxy-Authorization",
    ProxyConnection = "Proxy-Connection",
    Range = "Range",
    Referer = "Referer",
    RetryAfter = "Retry-After",
    SecWebSocketAccept = "Sec-WebSocket-Accept",
    SecWebSocketKey = "Sec-WebSocket-Key",
    SecWebSocketVersion = "Sec-WebSocket-Version",
    Server = "Server",
    SetCookie = "Set-Cookie",
    Te = "TE",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Trailer = "Trailer",
    TransferEncoding = "Transfer-Encoding",
    Upgrade = "Upgrade",
    UserAgent = "User-Agent",
    Vary = "Vary",
    Via = "Via",
    WwwAuthenticate = "WWW-Authenticate",
    XB3ParentSpanId = "X-B3-ParentSpanId",
    XB3Sampled = "X-B3-Sampled",
    XB3SpanId = "X-B3-SpanId",
    XB3TraceId = "X-B3-TraceId",
    XForwardedFor = "X-Forwarded-For",
    XForwardedHost = "X-Forwarded-Host",
    XForwardedPort = "X-Forwarded-Port",
    XForwardedProto = "X-Forwarded-Proto",
    XRealIp = "X-Real-IP",
    XRequestId = "X-Request-ID",
}

/// Longest known name.
const LONGEST: usize = 21;

/// The known names by length: where those of a length begin in [`SORTED`].
const fn begins() -> [u8; LONGEST + 2] {
    let mut begins = [0; LONGEST + 2];
    let mut length = 0;
    let mut at = 0;
    while length <= LONGEST {
        begins[length] = at;
        let mut index = 0;
        while index < Name::KNOWN.len() {
            if Name::KNOWN[index].spelled().len() == length {
                at += 1;
            }
            index += 1;
        }
        length += 1;
    }
    begins[LONGEST + 1] = at;
    begins
}

const fn sorted() -> [Name; Name::KNOWN.len()] {
    let mut sorted = [Name::Other; Name::KNOWN.len()];
    let mut at = 0;
    let mut length = 0;
    while length <= LONGEST {
        let mut index = 0;
        while index < Name::KNOWN.len() {
            if Name::KNOWN[index].spelled().len() == length {
                sorted[at] = Name::KNOWN[index];
                at += 1;
            }
            index += 1;
        }
        length += 1;
    }
    sorted
}

static BEGINS: [u8; LONGEST + 2] = begins();
static SORTED: [Name; Name::KNOWN.len()] = sorted();

// A known name longer than `LONGEST` would never be found.
const _: () = assert!(BEGINS_OF_ALL == Name::KNOWN.len());
const BEGINS_OF_ALL: usize = begins()[LONGEST + 1] as usize;
// `Fields` marks present names in 128 bits.
const _: () = assert!(Name::KNOWN.len() < 128);

impl Name {
    /// The name that is spelled so, without regard to case.
    pub fn of(spelled: &[u8]) -> Self {
        let length = spelled.len();
        if length > LONGEST {
            return Self::Other;
        }
        let candidates = &SORTED[usize::from(BEGINS[length])..usize::from(BEGINS[length + 1])];
        candidates
            .iter()
            .copied()
            .find(|name| name.spelled().as_bytes().eq_ignore_ascii_case(spelled))
            .unwrap_or(Self::Other)
    }

    /// This name's bit among those present.
    pub(super) const fn bit(self) -> u128 {
        1 << self as u8
    }

    /// True if the field concerns one connection only and is never forwarded as it is
    /// (RFC 9110 §7.6.1). `Connection` may name more.
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Http2Settings
        )
    }
}
