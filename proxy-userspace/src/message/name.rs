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
    GrpcTimeout = "grpc-timeout",
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
    XForwardedClientCert = "X-Forwarded-Client-Cert",
    XForwardedFor = "X-Forwarded-For",
    XForwardedHost = "X-Forwarded-Host",
    XForwardedPort = "X-Forwarded-Port",
    XForwardedProto = "X-Forwarded-Proto",
    XRealIp = "X-Real-IP",
    XRequestId = "X-Request-ID",
}

/// Octets that a name's [`key`] tells apart. No known name is longer.
pub(super) const LONGEST: usize = 24;

/// The octets of a name of at most [`LONGEST`] octets as words, so that names are compared by three
/// instructions rather than octet by octet. Where the length is no multiple of a word's, words
/// overlap; together with the length they are the whole name.
#[inline]
const fn key(name: &[u8]) -> [u64; 3] {
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let middle = match name.split_at(8).1.first_chunk() {
            Some(middle) => u64::from_le_bytes(*middle),
            None => 0,
        };
        return [
            u64::from_le_bytes(*first),
            middle,
            u64::from_le_bytes(*last),
        ];
    }
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return [(first as u64) << 32 | last as u64, 0, 0];
    }
    let word = match *name {
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c] => [a, b, c, 0],
        _ => [0; 4],
    };
    [u32::from_le_bytes(word) as u64, 0, 0]
}

/// The bit that tells a capital letter from a small one, in each octet of a word.
const CASE: u64 = 0x2020_2020_2020_2020;

/// What a known name is compared by; one cache line each.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Known {
    len: usize,
    /// The key in small letters.
    key: [u64; 3],
    /// [`CASE`] where the key has letters, whose case does not matter.
    letters: [u64; 3],
}

impl Known {
    const fn of(name: &[u8]) -> Self {
        let mut small = [0; LONGEST];
        let mut letters = [0; LONGEST];
        let mut at = 0;
        while at < name.len() {
            small[at] = name[at].to_ascii_lowercase();
            letters[at] = if name[at].is_ascii_alphabetic() {
                0x20
            } else {
                0
            };
            at += 1;
        }
        Self {
            len: name.len(),
            key: key(small.split_at(name.len()).0),
            letters: key(letters.split_at(name.len()).0),
        }
    }
}

/// By number of the name.
static KNOWN: [Known; Name::KNOWN.len() + 1] = {
    let mut known = [Known::of(b""); Name::KNOWN.len() + 1];
    let mut at = 0;
    while at < Name::KNOWN.len() {
        let name = Name::KNOWN[at];
        known[name as usize] = Known::of(name.spelled().as_bytes());
        at += 1;
    }
    known
};

const SLOTS: usize = 512;

/// Where in [`TABLE`] to begin looking. Case does not matter.
#[inline]
const fn slot(len: usize, key: &[u64; 3]) -> usize {
    let mixed = (key[0] | CASE) ^ (key[2] | CASE).rotate_left(21) ^ len as u64;
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize
}

/// The known names, each in the first slot from its own that is free; `Other` marks free ones.
static TABLE: [Name; SLOTS] = {
    let mut table = [Name::Other; SLOTS];
    let mut at = 0;
    while at < Name::KNOWN.len() {
        let name = Name::KNOWN[at];
        let mut slot = slot(name.spelled().len(), &key(name.spelled().as_bytes()));
        while table[slot] as u8 != Name::Other as u8 {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = name;
        at += 1;
    }
    table
};

// `Fields` marks present names in 128 bits.
const _: () = assert!(Name::KNOWN.len() < 128);

impl Name {
    /// The name that is spelled so, without regard to case.
    #[inline]
    pub fn of(spelled: &[u8]) -> Self {
        if spelled.len() > LONGEST {
            return Self::Other;
        }
        let key = key(spelled);
        let mut slot = slot(spelled.len(), &key);
        loop {
            let name = TABLE[slot];
            let known = &KNOWN[name as usize];
            let is_same = known.len == spelled.len()
                && (key[0] | known.letters[0]) == known.key[0]
                && (key[1] | known.letters[1]) == known.key[1]
                && (key[2] | known.letters[2]) == known.key[2];
            if is_same || name == Self::Other {
                return name;
            }
            slot = (slot + 1) % SLOTS;
        }
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
