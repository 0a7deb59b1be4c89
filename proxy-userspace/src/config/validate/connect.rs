//! The keys `connect` and `services[].at_connect`, and what they ask of others.

use super::together::Sections;
use super::{elements, need, or};
use crate::config::decode::{At, Field};
use crate::config::fault::Code;
use crate::config::file::connect as file;
use crate::config::file::scalar::Path;
use crate::config::file::service::Service as ServiceFile;
use crate::config::model::Service;
use crate::config::model::connect::{AtConnect, Connect, OnBackendLoss, WithoutBackend};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use proxy_common::connect::{BACKENDS, SERVICES, VIPS};
use proxy_common::service::Mode;
use std::path::{Component, PathBuf};

/// Most cgroups: each has nine programs, and is looked after every second.
const MOST_CGROUPS: usize = 64;

/// The section `connect`; `None` if nobody is balanced at connect().
pub(super) fn connect(report: &Report<'_>, field: &Field<file::Connect>) -> Option<Connect> {
    let at = field.given()?;
    let list = need(report, at.node, "cgroups", "[/]", &at.value.cgroups);
    if let Some(list) = list
        && !(1..=MOST_CGROUPS).contains(&list.value.len())
    {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("{} cgroups are given", list.value.len()),
        )
        .expected(format!("from 1 to {MOST_CGROUPS}"))
        .fix("write `[/]` for every process of this host, or name a slice that has the workloads");
        report.error(Place::Value(list.node), draft);
    }
    let mut cgroups: Vec<PathBuf> = Vec::new();
    for at in elements(&at.value.cgroups) {
        let path = &at.value.0;
        let is_plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !path.is_absolute() || !is_plain {
            let draft = Draft::new(
                Code::InvalidValue,
                format!("`{}` is not the path of a cgroup", path.display()),
            )
            .expected("a path as in `/proc/PID/cgroup`, such as `/system.slice/app.service`");
            report.error(Place::Value(at.node), draft);
        } else if cgroups.contains(path) {
            report.warn(
                Place::Value(at.node),
                format!("`{}` is in this list already", path.display()),
                "remove one of the two",
            );
        } else {
            cgroups.push(path.clone());
        }
    }
    let cgroups = apart(report, &at.value.cgroups, cgroups);
    let pin_dir = at.value.pin_dir.value().map(|path| path.0.clone());
    Some(Connect { cgroups, pin_dir })
}

/// Without those that lie below others: their sockets would be looked at twice, and the second look
/// would not find what the first has dialled.
fn apart(
    report: &Report<'_>,
    field: &Field<Vec<Field<Path>>>,
    cgroups: Vec<PathBuf>,
) -> Vec<PathBuf> {
    let above = |path: &PathBuf| {
        let mut others = cgroups.iter().filter(|other| *other != path);
        others.find(|other| path.starts_with(other))
    };
    for at in elements(field) {
        if let Some(other) = above(&at.value.0) {
            report.warn(
                Place::Value(at.node),
                format!(
                    "`{}` lies below `{}`",
                    at.value.0.display(),
                    other.display()
                ),
                "remove it: what is below a cgroup is a part of it",
            );
        }
    }
    let is_apart = |path: &&PathBuf| above(path).is_none();
    cgroups.iter().filter(is_apart).cloned().collect()
}

/// The key `at_connect` of a service.
pub(super) fn at_connect(field: &Field<file::AtConnect>) -> Option<AtConnect> {
    let keys = field.value()?;
    Some(AtConnect {
        on_backend_loss: match or(&keys.on_backend_loss, file::OnBackendLoss::Keep) {
            file::OnBackendLoss::Keep => OnBackendLoss::Keep,
            file::OnBackendLoss::Reset => OnBackendLoss::Reset,
        },
        without_backend: match or(&keys.without_backend, file::WithoutBackend::Refuse) {
            file::WithoutBackend::Refuse => WithoutBackend::Refuse,
            file::WithoutBackend::Pass => WithoutBackend::Pass,
        },
    })
}

/// What services that are balanced at connect() need; `uses` pairs listeners and their services by
/// index.
pub(super) fn check(report: &Report<'_>, all: &Sections<'_, '_>, uses: &[(usize, usize)]) {
    for (index, service) in all.services.iter().enumerate() {
        let Some(node) = key(service.file) else {
            continue;
        };
        needs(report, all, &service.model, node);
        let mut listeners = uses.iter().filter(|(_, service)| *service == index);
        if listeners.next().is_none() && !uses.is_empty() {
            report.warn(
                Place::Key(node),
                "`at_connect` has no effect: no listener of kind `l4` uses the service",
                "remove it, or add a listener of kind `l4`: its address is what workloads dial",
            );
        }
    }
    families(report, all, uses);
    unserved(report, all, uses);
    idle(report, all);
    room(report, all, uses);
}

fn key(file: &At<ServiceFile>) -> Option<NodeId> {
    file.value.at_connect.given().map(|at| at.node)
}

fn needs(report: &Report<'_>, all: &Sections<'_, '_>, service: &Service, node: NodeId) {
    if all.file.connect.is_absent() {
        let draft = Draft::new(
            Code::MissingKey,
            "it is not said whose sockets are balanced at connect()",
        )
        .fix("add `connect: {cgroups: [/]}` for every process of this host");
        report.error(Place::Key(node), draft);
    }
    if service.mode == Mode::Local {
        let draft = Draft::new(
            Code::Conflict,
            "mode `local` has no backends to give to sockets",
        )
        .fix("remove `at_connect`, or give the service backends and another mode");
        report.error(Place::Key(node), draft);
    }
}

/// A socket is of the family of the VIP that it dials, and stays it.
fn families(report: &Report<'_>, all: &Sections<'_, '_>, uses: &[(usize, usize)]) {
    for (listener, service) in uses {
        let listener = &all.listeners.l4[*listener].model;
        let service = &all.services[*service];
        let Some(node) = key(service.file) else {
            continue;
        };
        let vip = listener.vip.addr();
        let mut backends = service.model.backends.iter();
        let other = backends.find(|backend| backend.address.is_ipv4() != vip.is_ipv4());
        // In the other modes this is a fault of its own.
        let is_tunnel = matches!(service.model.mode, Mode::DsrIpip | Mode::DsrGue);
        if let Some(backend) = other
            && is_tunnel
        {
            let draft = Draft::new(
                Code::Conflict,
                format!(
                    "sockets that dial the {} address of listener `{}` cannot be given the backend `{}`",
                    super::family(vip),
                    listener.name,
                    backend.address
                ),
            )
            .expected(format!("{} backends", super::family(vip)))
            .fix("remove `at_connect`, or make a service of its own for the other family");
            report.error(Place::Key(node), draft);
            return;
        }
    }
}

/// Without interfaces only services that are balanced at connect() are served.
fn unserved(report: &Report<'_>, all: &Sections<'_, '_>, uses: &[(usize, usize)]) {
    if super::l4::names_interfaces(&all.file.l4) || all.file.connect.is_absent() {
        return;
    }
    let lacking = match all.file.l4.is_absent() {
        true => "there is no section `l4`",
        false => "`l4` names no interface",
    };
    for (listener, service) in uses {
        let (listener, service) = (&all.listeners.l4[*listener], &all.services[*service]);
        if service.file.value.at_connect.is_absent() {
            let draft = Draft::new(
                Code::MissingKey,
                format!(
                    "nobody serves listener `{}`: {lacking}, and service `{}` is not balanced at connect()",
                    listener.model.name, service.model.name
                ),
            )
            .fix("add `at_connect: {}` to the service, or add `l4`");
            report.error(Place::Value(listener.file.node), draft);
        }
    }
}

/// A section that no service asks for.
fn idle(report: &Report<'_>, all: &Sections<'_, '_>) {
    let is_wanted = |service: &&super::Judged<'_, Service, ServiceFile>| {
        !service.file.value.at_connect.is_absent()
    };
    if let Some(at) = all.file.connect.given()
        && !all.services.iter().any(|service| is_wanted(&service))
    {
        report.warn(
            Place::Key(at.node),
            "no service has `at_connect`, so nobody is balanced at connect()",
            "add `at_connect: {}` to a service, or remove `connect`",
        );
    }
}

/// The kernel's tables have room for so much.
fn room(report: &Report<'_>, all: &Sections<'_, '_>, uses: &[(usize, usize)]) {
    let Some(at) = all.file.connect.given() else {
        return;
    };
    let balanced = |index: &usize| key(all.services[*index].file).is_some();
    let services: Vec<_> = (0..all.services.len()).filter(balanced).collect();
    let backends: usize = (services.iter())
        .map(|index| all.services[*index].model.backends.len())
        .sum();
    let vips = uses.iter().filter(|(_, service)| balanced(service)).count();
    let counts = [
        ("services", services.len(), SERVICES as usize),
        ("backends", backends, BACKENDS as usize / 2),
        ("listeners", vips, VIPS as usize / 2),
    ];
    for (what, count, most) in counts {
        if count > most {
            let draft = Draft::new(
                Code::InvalidValue,
                format!("{count} {what} are balanced at connect()"),
            )
            .expected(format!("at most {most}"));
            report.error(Place::Key(at.node), draft);
        }
    }
}
