//! What a route does.

use super::route::NewPath;
use super::scalar::{Authority, Name, Path, Percent, Scheme, Size, Status, Text, Time, UrlPath};
use super::upstream::HashOn;
use crate::config::decode::{Field, Pairs};
use crate::config::defaults::{self, http as http_defaults};
use schemars::JsonSchema;
use serde::Deserialize;

/// Several services with shares of the requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Split {
    /// Names of services and their weights, such as `{stable: 90, canary: 10}`. Let the one that
    /// is to grow be the last: who has it then keeps it.
    pub(crate) services: Field<Pairs<u32>>,
    /// What keeps a client with one of them. Without it, each request is drawn anew.
    #[serde(default)]
    pub(crate) sticky: Field<HashOn>,
}

/// Where the client is sent. What is left out stays as it is in the request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redirect {
    /// 301, 302, 303, 307 or 308.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::REDIRECT_STATUS))]
    pub(crate) status: Field<Status>,
    /// `http` or `https`.
    #[serde(default)]
    pub(crate) scheme: Field<Scheme>,
    /// The host, without a port.
    #[serde(default)]
    pub(crate) host: Field<Authority>,
    /// The port. Without it, the request's, or, with `scheme`, the usual one.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) port: Field<u16>,
    /// The path: a whole one, or a map.
    #[serde(default)]
    pub(crate) path: NewPath,
    /// `false` takes the query away.
    #[serde(default)]
    #[schemars(extend("default" = true))]
    pub(crate) keep_query: Field<bool>,
}

/// A fixed answer: its status, or a map with more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "Respond", untagged)]
pub(crate) enum Respond {
    /// The status.
    Status(Status),
    /// The status and more.
    Keys(RespondKeys),
}

/// A fixed answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RespondKeys {
    /// The status, from 200 to 599.
    pub(crate) status: Field<Status>,
    /// The content.
    #[serde(default)]
    #[schemars(extend("default" = ""))]
    pub(crate) body: Field<String>,
    /// Type of the content.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::CONTENT_TYPE))]
    pub(crate) content_type: Field<Text>,
}

/// Files of this host: the folder, or a map with more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "Files", untagged)]
pub(crate) enum Files {
    /// The folder.
    Root(Path),
    /// The folder and more.
    Keys(FilesKeys),
}

/// Files of this host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilesKeys {
    /// The folder. What lies outside is never served, whatever links there are in it.
    pub(crate) root: Field<Path>,
    /// Names of files that stand for their folder, in order.
    #[serde(default)]
    #[schemars(extend("default" = [http_defaults::INDEX]))]
    pub(crate) index: Field<Vec<Field<Text>>>,
    /// Lists folders that have no index.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) list: Field<bool>,
    /// Prefix of the path that is not part of a file's name.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::STRIP_PREFIX))]
    pub(crate) strip_prefix: Field<UrlPath>,
    /// Coding variants beside the files that may be sent, the best first.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) precompressed: Field<Vec<Field<Coding>>>,
    /// `Cache-Control` of the files.
    #[serde(default)]
    pub(crate) cache_control: Field<Text>,
    /// File below `root` that is sent where none is found, with status 200: for applications
    /// that have their routes in the browser.
    #[serde(default)]
    pub(crate) fallback: Field<Text>,
}

/// A content coding; in brackets the extension of a precompressed file.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Coding {
    /// Brotli (`.br`).
    Brotli,
    /// Zstandard (`.zst`).
    Zstd,
    /// Gzip (`.gz`).
    Gzip,
}

/// Path and host that the backend sees.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rewrite {
    /// The path: a whole one, or a map.
    #[serde(default)]
    pub(crate) path: NewPath,
    /// The host, with a port if there is to be one. Without it, the client's.
    #[serde(default)]
    pub(crate) host: Field<Authority>,
}

/// A new path: a whole one, or a map.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "PathRewrite", untagged)]
pub(crate) enum PathRewrite {
    /// This one.
    Full(UrlPath),
    /// Part of it changes.
    Keys(PathRewriteKeys),
}

/// A new path: `prefix`, or `regex` and `replacement`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PathRewriteKeys {
    /// What the matched prefix becomes; `/` takes it away.
    #[serde(default)]
    pub(crate) prefix: Field<UrlPath>,
    /// All that this regular expression matches becomes `replacement`.
    #[serde(default)]
    pub(crate) regex: Field<String>,
    /// In it, `$0` is the match, `$1` to `$9` are its groups, and `$$` is a dollar sign.
    #[serde(default)]
    pub(crate) replacement: Field<Text>,
}

/// Changes to fields: removals first, then `set`, then `add`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edits {
    /// Names of fields that are removed.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) remove: Field<Vec<Field<Text>>>,
    /// Fields that replace all of their name.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(crate) set: Field<Pairs<Text>>,
    /// Fields that are added to those of their name.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(crate) add: Field<Pairs<Text>>,
}

/// Copies of requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mirror {
    /// Name of the service that gets them.
    pub(crate) service: Field<Name>,
    /// Share of requests that are copied.
    #[serde(default)]
    #[schemars(extend("default" = "100%"))]
    pub(crate) share: Field<Percent>,
    /// Requests with more content are not copied; at most `16MiB`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::size(http_defaults::MIRROR_BODY)))]
    pub(crate) max_body: Field<Size>,
}

/// Faults on purpose: `delay`, `abort` or both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// Delays requests.
    #[serde(default)]
    pub(crate) delay: Field<Delay>,
    /// Answers requests with an error.
    #[serde(default)]
    pub(crate) abort: Field<Abort>,
}

/// Delays requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delay {
    /// For how long.
    pub(crate) time: Field<Time>,
    /// Share of requests.
    #[serde(default)]
    #[schemars(extend("default" = "100%"))]
    pub(crate) share: Field<Percent>,
}

/// Answers requests with an error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Abort {
    /// The status, from 200 to 599.
    pub(crate) status: Field<Status>,
    /// Share of requests.
    #[serde(default)]
    #[schemars(extend("default" = "100%"))]
    pub(crate) share: Field<Percent>,
}
