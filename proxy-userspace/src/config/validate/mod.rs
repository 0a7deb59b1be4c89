//! What was written → what it means, with every fault noted.
//!
//! One function per section turns the file's types into the model. A section that is at fault
//! still yields something, with defaults in place of what is bad, so that the sections after it
//! are judged as well; whether the result may be used is decided once, at the end, by whether
//! any error was noted. [`together`] holds the rules that concern more than one section.

mod acme;
mod actions;
mod addresses;
mod admin;
mod backend_tls;
mod backends;
mod compression;
mod condemn;
mod connect;
mod fields;
mod health;
mod http;
mod l4;
mod limits;
mod listeners;
mod mesh;
mod outlier;
mod pairs;
mod passthrough;
mod precedence;
mod process;
mod proxies;
mod resilience;
mod routes;
mod services;
mod steer;
mod tls;
mod together;
mod tracing;
mod upstream;
mod uses;

use super::decode::{At, Field};
use super::fault::Code;
use super::file::File;
use super::file::listener::ListenerKind;
use super::file::scalar::{Network, Size, Time};
use super::model::http::{HttpListener, Route, StreamListener};
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
type Routes<'f> = Vec<Judged<'f, Route, super::file::route::Route>>;

/// Listeners as judged so far, by what runs them.
#[derive(Default)]
struct Listeners<'f> {
    l4: Vec<Judged<'f, Listener, super::file::listener::Listener>>,
    http: Vec<Judged<'f, HttpListener, super::file::listener::Listener>>,
    stream: Vec<Judged<'f, StreamListener, super::file::listener::Listener>>,
}

impl Listeners<'_> {
    fn len(&self) -> usize {
        self.l4.len() + self.http.len() + self.stream.len()
    }
}

/// Turns a file into a configuration. The result counts only if the report has no errors.
pub(super) fn config(report: &Report<'_>, file: &At<File>) -> Config {
    let root = file.node;
    let file = &file.value;
    let l4 = l4::l4(report, root, &file.l4, needs_l4(file));
    let workers = http::workers(report, &file.workers);
    let admin = admin::admin(report, &file.admin);
    let guard = l4::guard(report, &file.guard);
    let needs_root = l4.is_some() || has_kernel_part(file) || !file.connect.is_absent();
    let process = process::process(report, &file.process, needs_root);
    let tracing = tracing::tracing(report, &file.tracing);
    let overload = resilience::overload(report, &file.overload);
    let condemn = condemn::condemn(report, &file.condemn);
    let connect = connect::connect(report, &file.connect);
    let uses = uses::Uses::of(file);
    let services = services::services(report, &file.services, &uses);
    let acme = acme::acme(report, &file.acme);
    let mut listeners = listeners::listeners(report, &file.listeners);
    acme::resolve(report, file, acme.as_ref(), &mut listeners);
    let routes = routes::routes(report, &file.routes, &file.listeners, &listeners);
    let sections = together::Sections {
        file,
        l4: l4.as_ref(),
        admin: &admin,
        guard: &guard,
        uses: &uses,
        services: &services,
        listeners: &listeners,
        routes: &routes,
    };
    together::check(report, &sections);
    tracing::check(report, &file.tracing, &listeners.http);
    let shorthands = routes::shorthands(&listeners);
    Config {
        l4,
        workers,
        admin,
        process,
        tracing,
        acme,
        overload,
        condemn,
        connect,
        listeners: models(listeners.l4),
        http_listeners: models(listeners.http),
        stream_listeners: models(listeners.stream),
        routes: models(routes).into_iter().chain(shorthands).collect(),
        services: models(services),
        guard,
    }
}

fn models<M, F>(judged: Vec<Judged<'_, M, F>>) -> Vec<M> {
    judged.into_iter().map(|judged| judged.model).collect()
}

/// True if something is balanced in the kernel, or if there is nothing at all. Where sockets are
/// balanced, it is said of each listener.
fn needs_l4(file: &File) -> bool {
    if !file.connect.is_absent() {
        return false;
    }
    let mut listeners = elements(&file.listeners).peekable();
    listeners.peek().is_none()
        || listeners.any(|at| match &at.value.kind {
            Field::Given(kind) => kind.value == ListenerKind::L4,
            Field::Absent => true,
            Field::Bad => false,
        })
}

/// True if something is steered or redirected to a listener.
fn has_kernel_part(file: &File) -> bool {
    elements(&file.listeners)
        .any(|at| at.value.steer.given().is_some() || at.value.mesh.given().is_some())
}

/// Elements of a list that could be read.
fn elements<T>(list: &Field<Vec<Field<T>>>) -> impl Iterator<Item = &At<T>> {
    list.value().into_iter().flatten().filter_map(Field::given)
}

pub(super) use tls::files as check_files;

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

/// As [`time`], but `0s` is allowed.
fn time_or_zero(report: &Report<'_>, field: &Field<Time>, default: Duration) -> Duration {
    match field.value() {
        Some(at) if at.0.is_zero() => Duration::ZERO,
        _ => time(report, field, default),
    }
}

/// A size within limits, or a default. The limits fit in the type that is wanted.
fn size<T>(
    report: &Report<'_>,
    field: &Field<Size>,
    range: std::ops::RangeInclusive<u64>,
    default: T,
) -> T
where
    T: TryFrom<u64>,
{
    let Some(at) = field.given() else {
        return default;
    };
    if !range.contains(&at.value.0) {
        let text = super::defaults::size;
        let draft = Draft::new(
            Code::InvalidValue,
            format!("{} is out of range", text(at.value.0)),
        )
        .expected(format!(
            "a size from `{}` to `{}`",
            text(*range.start()),
            text(*range.end())
        ));
        report.error(Place::Value(at.node), draft);
    }
    T::try_from(at.value.0).unwrap_or(default)
}

/// Exactly one of several keys of a map: the index of the one that is there. Those that are there
/// and bad count, so that nothing is said twice.
fn exactly_one(
    report: &Report<'_>,
    place: Place,
    what: &str,
    example: &str,
    keys: &[(&'static str, bool)],
) -> Option<usize> {
    let names = |filter: &dyn Fn(bool) -> bool| -> Vec<String> {
        let names = keys.iter().filter(|(_, there)| filter(*there));
        names.map(|(name, _)| format!("`{name}`")).collect()
    };
    let there = names(&|there| there);
    let draft = match there.as_slice() {
        [_] => return keys.iter().position(|(_, there)| *there),
        [] => Draft::new(Code::MissingKey, format!("it is not said {what}"))
            .expected(format!("one of {}", names(&|_| true).join(", ")))
            .fix(format!("add `{example}`")),
        several => Draft::new(
            Code::Conflict,
            format!("{} are given together", several.join(" and ")),
        )
        .expected(format!("one of {}", names(&|_| true).join(", ")))
        .fix("keep one of them"),
    };
    report.error(place, draft);
    None
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
