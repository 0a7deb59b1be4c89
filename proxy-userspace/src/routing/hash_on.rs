//! Keys that keep a client, or a path, where it was.

use super::Query;
use super::values::{cookies, parameters};
use crate::config::model::http::HashOn;
use std::net::IpAddr;
use xxhash_rust::xxh3::xxh3_64;

/// XXH3 of what `on` names; `None` if the request lacks it. Of several values, the first counts;
/// values are taken as they were sent.
pub fn hash_key(on: &HashOn, query: &Query<'_>) -> Option<u64> {
    let value = match on {
        HashOn::Source => {
            return Some(match query.source.to_canonical() {
                IpAddr::V4(address) => xxh3_64(&address.octets()),
                IpAddr::V6(address) => xxh3_64(&address.octets()),
            });
        }
        HashOn::Path => query.path,
        HashOn::Field(name) => query.fields.get_named(name.as_bytes())?,
        HashOn::Cookie(name) => cookies(query.fields, name.as_bytes()).next()?,
        HashOn::Query(name) => parameters(query.query, name.as_bytes()).next()?,
    };
    Some(xxh3_64(value))
}
