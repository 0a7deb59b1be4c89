//! What was written → what it means, with every fault noted.
//!
//! One function per section turns the file's types into the model. A section that is at fault
//! still yields something, with defaults in place of what is bad, so that the sections after it
//! are judged as well; whether the result may be used is decided once, at the end, by whether
//! any error was noted. [`together`] holds the rules that concern more than one section.

mod health;
mod l4;
mod limits;
mod listeners;
mod pairs;
mod services;
mod together;

use super::decode::{At, Field};
use super::fault::Code;
use super::file::File;
use super::file::scalar::{Network, Time};
use super::model::{Config, Listener, Service};
use super::report::{Draft, Place, Report};
use super::yaml::NodeId;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// A part of the model and where it comes from.
pub(super) struct Judged<'f, M, F> {
    /// The part.
    pub(super) model: M,
    /// What was written.
    pub(super) file: &'f At<F>,
}

/// Services and listeners as judged so far.
type Services<'f> = Vec<Judged<'f, Service, super::file::service::Service>>;
type Listeners<'f> = Vec<Judged<'f, Listener, super::file::listener::Listener>>;

/// Turns a file into a configuration. The result counts only if the report has no errors.
pub(super) fn config(report: &Report<'_>, file: &At<File>) -> Config {
    let root = file.node;
    let file = &file.value;
    let l4 = l4::l4(report, root, &file.l4);
    let admin = l4::admin(report, &file.admin);
    let guard = l4::guard(report, &file.guard);
    let services = services::services(report, &file.services);
    let listeners = listeners::listeners(report, &file.listeners);
    together::check(
        report,
        &together::Sections {
            file,
            l4: &l4,
            guard: &guard,
            services: &services,
            listeners: &listeners,
        },
    );
    Config {
        l4: Some(l4),
        admin,
        listeners: listeners
            .into_iter()
            .map(|listener| listener.model)
            .collect(),
        services: services.into_iter().map(|service| service.model).collect(),
        guard,
        ..Config::default()
    }
}

/// Elements of a list that could be read.
fn elements<T>(list: &Field<Vec<Field<T>>>) -> impl Iterator<Item = &At<T>> {
    list.value().into_iter().flatten().filter_map(Field::given)
}

/// The value or a default.
fn or<T: Clone>(field: &Field<T>, default: T) -> T {
    field.value().cloned().unwrap_or(default)
}

/// The value of a key that must be there.
fn need<'f, T>(
    report: &Report<'_>,
    map: NodeId,
    key: &'static str,
    example: &str,
    field: &'f Field<T>,
) -> Option<&'f At<T>> {
    if field.is_absent() {
        report.missing(map, key, example);
    }
    field.given()
}

/// A number within limits, or a default.
fn number<T>(
    report: &Report<'_>,
    field: &Field<T>,
    range: std::ops::RangeInclusive<T>,
    default: T,
) -> T
where
    T: Copy + PartialOrd + std::fmt::Display,
{
    let Some(at) = field.given() else {
        return default;
    };
    if !range.contains(&at.value) {
        let draft =
            Draft::new(Code::InvalidValue, format!("{} is out of range", at.value)).expected(
                format!("a number from {} to {}", range.start(), range.end()),
            );
        report.error(Place::Value(at.node), draft);
    }
    at.value
}

/// Longest timeout of flows: half the range of the data plane's clock is 26 days.
const LONGEST: Duration = Duration::from_secs(26 * 24 * 3600);

/// A duration of at least 1 ms, or a default.
fn time(report: &Report<'_>, field: &Field<Time>, default: Duration) -> Duration {
    let Some(at) = field.given() else {
        return default;
    };
    if at.value.0 < Duration::from_millis(1) {
        let draft = Draft::new(Code::InvalidValue, format!("`{}` is too short", at.value))
            .expected("at least `1ms`");
        report.error(Place::Value(at.node), draft);
    } else if at.value.0 > LONGEST {
        let draft = Draft::new(Code::InvalidValue, format!("`{}` is too long", at.value))
            .expected("at most `26days`");
        report.error(Place::Value(at.node), draft);
    }
    at.value.0
}

/// A prefix without host bits.
fn network(report: &Report<'_>, at: &At<Network>) -> IpNet {
    let written = at.value.0;
    let network = written.trunc();
    if written != network {
        let alone = IpNet::from(written.addr());
        let draft = Draft::new(
            Code::InvalidValue,
            format!(
                "`{written}` has bits set after its first {}",
                written.prefix_len()
            ),
        )
        .fix(format!(
            "write `{network}` for the prefix, or `{alone}` for the one address"
        ));
        report.error(Place::Value(at.node), draft);
    }
    mapped(report, at.node, written.addr());
    network
}

/// Refuses IPv4 addresses in IPv6 clothing: the data plane holds IPv4 addresses in that form.
fn mapped(report: &Report<'_>, node: NodeId, address: IpAddr) {
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{address}` is an IPv4 address in IPv6 form"),
        )
        .fix(format!("write `{v4}`"));
        report.error(Place::Value(node), draft);
    }
}

/// Refuses what cannot be the address of one host.
fn host_address(report: &Report<'_>, node: NodeId, address: IpAddr) {
    mapped(report, node, address);
    let what = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        _ => return,
    };
    let draft = Draft::new(Code::InvalidValue, format!("`{address}` is {what}"))
        .expected("the address of one host");
    report.error(Place::Value(node), draft);
}

/// Names that must be unique, and where each was first.
#[derive(Default)]
struct Names(HashMap<String, NodeId>);

impl Names {
    /// Notes a name that was there before. True if it is new.
    fn add(&mut self, report: &Report<'_>, what: &str, name: &str, node: NodeId) -> bool {
        if let Some(first) = self.0.get(name) {
            let draft = Draft::new(
                Code::DuplicateName,
                format!(
                    "the name `{name}` belongs to the {what} in line {}",
                    report.line(*first)
                ),
            )
            .fix(format!("give every {what} a name of its own"));
            report.error(Place::Value(node), draft);
            return false;
        }
        self.0.insert(name.to_owned(), node);
        true
    }
}

/// `IPv4` or `IPv6`.
fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}
