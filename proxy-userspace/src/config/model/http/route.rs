//! Routes: which requests, and what happens to them.

use super::{Coding, Compression, HashOn, Priority, Retries, SecurityHeaders};
use ipnet::IpNet;
use std::path::PathBuf;
use std::time::Duration;

/// A match and what then happens. Of all routes that match, the most specific one serves a
/// request: see `routing` for the precedence.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique name.
    pub name: String,
    /// Names of the HTTP listeners for which it holds, never empty.
    pub listeners: Vec<String>,
    /// Hosts, any of which matches; empty for all.
    pub hosts: Vec<HostMatch>,
    /// Conditions, any of which matches; never empty.
    pub matches: Vec<RouteMatch>,
    /// What happens.
    pub action: Action,
    /// Path and host that the backend sees.
    pub rewrite: Rewrite,
    /// Edits of the request's fields.
    pub request_fields: FieldEdits,
    /// Edits of the response's fields.
    pub response_fields: FieldEdits,
    /// Overrides [`HttpListener::security_headers`].
    pub security_headers: Option<SecurityHeaders>,
    /// Overrides [`HttpListener::compression`].
    pub compression: Option<Compression>,
    /// Copies of requests for another service.
    pub mirror: Option<Mirror>,
    /// Faults on purpose.
    pub fault: Option<Fault>,
    /// The whole exchange, from the request's head to the response's end; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Stands in the place of the service's [`Resilience::retries`].
    pub retries: Option<Retries>,
    /// How important its requests are when a worker has too much to do.
    pub priority: Priority,
}

/// Which hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// This one, in lower case and without a port.
    Exact(String),
    /// `*.example.com`: kept as `.example.com`. Any number of labels before it, at least one.
    Wildcard(String),
}

/// One set of conditions, all of which must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// The method.
    pub method: Option<String>,
    /// Fields of the request; names in lower case.
    pub fields: Vec<ValueMatch>,
    /// Parameters of the query; compared after percent-decoding.
    pub query: Vec<ValueMatch>,
    /// Cookies.
    pub cookies: Vec<ValueMatch>,
    /// The client's address (behind trusted proxies: the one they tell); empty for all.
    pub sources: Vec<IpNet>,
    /// The client's cgroup or one above it, by path, where the connection was redirected; empty for
    /// all.
    pub workloads: Vec<String>,
}

/// Which paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This one.
    Exact(String),
    /// This one and all below it: `/a` matches `/a` and `/a/b`, not `/ab`. `/` matches all.
    Prefix(String),
    /// The whole path matches this regular expression.
    Regex(String),
}

/// A named value and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMatch {
    /// Name of the field, parameter or cookie.
    pub name: String,
    /// What its value must be. Of several values, any may match.
    pub value: ValueTest,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueTest {
    /// Present, whatever it is.
    Present,
    /// Not present.
    Absent,
    /// This.
    Exact(String),
    /// Something that begins so.
    Prefix(String),
    /// Something that this regular expression matches as a whole.
    Regex(String),
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A service answers. One target, or several with shares.
    Forward(Split),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// A fixed answer.
    Respond(FixedResponse),
    /// Files of this host.
    Files(Files),
}

/// Services with shares of the requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Services (which exist) and their weights; never empty. If all weights are 0, the answer is
    /// 503.
    pub targets: Vec<(String, u32)>,
    /// What keeps a client with one target; `None`: each request is drawn anew.
    pub sticky: Option<HashOn>,
}

/// A redirect. Parts that are `None` stay as they are in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathRewrite>,
    /// True: the query is kept.
    pub keep_query: bool,
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedResponse {
    /// 200..=599.
    pub status: u16,
    /// Content.
    pub body: String,
    /// Its type.
    pub content_type: String,
}

/// Files of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Folder that is served. What lies outside is never served, whatever links there are.
    pub root: PathBuf,
    /// File names that stand for their folder, in order.
    pub index: Vec<String>,
    /// True: folders without an index are listed.
    pub list: bool,
    /// Prefix of the path that is not part of the file's name; `/` for none.
    pub strip_prefix: String,
    /// Coding variants beside the file that may be served, best first.
    pub precompressed: Vec<Coding>,
    /// `Cache-Control` of the files, if any.
    pub cache_control: Option<String>,
    /// File (below `root`) that is served where none is found: for single-page applications.
    pub fallback: Option<String>,
}

/// Path and host that the backend sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Path.
    pub path: Option<PathRewrite>,
    /// Host; by default the client's.
    pub host: Option<String>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// This one.
    Full(String),
    /// The prefix that the route matched becomes this one.
    Prefix(String),
    /// What the regular expression matches becomes the replacement: all matches,
    /// with `$0` to `$9` for the match and its groups and `$$` for a dollar sign.
    Regex {
        /// Regular expression.
        pattern: String,
        /// Replacement.
        replacement: String,
    },
}

/// Edits of fields: removals first, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldEdits {
    /// Fields that are removed.
    pub remove: Vec<String>,
    /// Fields that replace all of their name.
    pub set: Vec<(String, String)>,
    /// Fields that are added.
    pub add: Vec<(String, String)>,
}

/// Copies of requests; their answers are dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Name of the service.
    pub service: String,
    /// Share of requests, 0..=1.
    pub share: f64,
    /// Requests with more content are not copied.
    pub max_body_bytes: u64,
}

/// Faults on purpose, to test what clients do.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// A delay, and the share of requests that it meets, 0..=1.
    pub delay: Option<(Duration, f64)>,
    /// An error status, and the share of requests that get it, 0..=1.
    pub abort: Option<(u16, f64)>,
}
