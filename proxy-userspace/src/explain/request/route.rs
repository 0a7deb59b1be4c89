//! What a route does with a request.

use super::{RouteExplained, query};
use crate::config::model::Config;
use crate::config::model::http::{
    Action, FieldEdits, HttpListener, Redirect, Route, SecurityHeaders, Split,
};
use crate::explain::ExplainError;
use crate::explain::rules::text;
use crate::explain::service::{self, hashed};
use crate::files::Site;
use crate::message::{Method, Name, RequestHead};
use crate::routing::{self, CompiledRewrite, Found, Shares, hash_key};
use std::net::IpAddr;

/// What the explanation of a route needs.
pub(super) struct Around<'a> {
    pub(super) config: &'a Config,
    pub(super) listener: &'a HttpListener,
    pub(super) head: &'a RequestHead,
    pub(super) client: IpAddr,
    pub(super) now: u64,
}

impl Around<'_> {
    /// What becomes of the request by this route.
    pub(super) fn route(
        &self,
        route: &Route,
        found: &Found,
    ) -> Result<RouteExplained, ExplainError> {
        let mut explained = RouteExplained {
            name: route.name.clone(),
            filters: self.filters(route),
            ..RouteExplained::default()
        };
        match &route.action {
            Action::Forward(split) => {
                let head = self.sent_on(route, found)?;
                self.services(route, split, &head, &mut explained);
                let (method, host) = (text(head.method.as_bytes()), text(head.authority()));
                explained.forwarded = Some(format!("{method} {host}{}", text(head.target())));
            }
            Action::Redirect(redirect) => {
                explained.answer = Some(self.redirect(redirect, found)?);
            }
            Action::Respond(fixed) => explained.answer = Some(fixed.status.to_string()),
            Action::Files(files) => {
                let root = files.root.display();
                explained.answer = Some(match Site::open(files) {
                    Ok(site) => {
                        let status = site.answer(self.head, self.now, 0).head.status;
                        format!("{status}, from the files below {root}")
                    }
                    Err(error) => format!("the folder {root} cannot be opened: {error}"),
                });
            }
        }
        Ok(explained)
    }

    /// The services, one of which gets the request. A split is kept by the request as it came, a
    /// backend by the request as it is sent on.
    fn services(
        &self,
        route: &Route,
        split: &Split,
        sent_on: &RequestHead,
        explained: &mut RouteExplained,
    ) {
        let retries = route.retries.as_ref();
        let came = query(self.head, self.client, None);
        let sum: f64 = split
            .targets
            .iter()
            .map(|(_, weight)| f64::from(*weight))
            .sum();
        let key = split.sticky.as_ref().and_then(|on| hash_key(on, &came));
        let shares = Shares::new(split.targets.iter().map(|(_, weight)| *weight));
        let drawn = key.and_then(|key| shares.choose(key));
        explained.sticky = split.sticky.as_ref().map(hashed);
        for (index, (name, weight)) in split.targets.iter().enumerate() {
            let is_drawn = drawn.is_none_or(|drawn| drawn == index);
            if *weight == 0 || !is_drawn {
                continue;
            }
            let is_only = split.targets.len() == 1 || drawn.is_some();
            let share = (!is_only).then(|| f64::from(*weight) / sum);
            let query = query(sent_on, self.client, None);
            let service = service::explain(name, share, retries, self.config, &query);
            explained.services.extend(service);
        }
        if explained.services.is_empty() {
            explained.answer = Some("503: no service has a weight".to_owned());
        }
    }

    /// The head that the backend sees, less what it is told about the client.
    fn sent_on(&self, route: &Route, found: &Found) -> Result<RequestHead, ExplainError> {
        let mut head = self.head.clone();
        if let Some(host) = &route.rewrite.host {
            head.set_authority(host.as_bytes());
        }
        if let Some(path) = &route.rewrite.path {
            let mut new = Vec::new();
            CompiledRewrite::new(path)?.apply(self.head.path(), found.prefix_len, &mut new);
            head.set_path(&new);
        }
        Ok(head)
    }

    fn redirect(&self, redirect: &Redirect, found: &Found) -> Result<String, ExplainError> {
        let path = redirect
            .path
            .as_ref()
            .map(CompiledRewrite::new)
            .transpose()?;
        let mut to = Vec::new();
        let before = self.head.path();
        routing::location(
            redirect,
            path.as_ref(),
            self.head,
            before,
            found.prefix_len,
            &mut to,
        );
        Ok(format!("{} to {}", redirect.status, text(&to)))
    }

    /// What is done on the way, the request's part first.
    fn filters(&self, route: &Route) -> Vec<String> {
        let mut filters = Vec::new();
        if let Some(fault) = &route.fault {
            if let Some((delay, share)) = fault.delay {
                filters.push(format!(
                    "fault: {} of requests wait {delay:?}",
                    percent(share)
                ));
            }
            if let Some((status, share)) = fault.abort {
                filters.push(format!(
                    "fault: {} of requests get {status}",
                    percent(share)
                ));
            }
        }
        filters.extend(edits("request headers", &route.request_fields));
        if matches!(route.action, Action::Forward(_)) {
            filters.extend(self.told());
            if self.head.fields.contains(Name::MaxForwards)
                && matches!(self.head.method, Method::Trace | Method::Options)
            {
                filters.push("Max-Forwards is counted".to_owned());
            }
        }
        if let Some(mirror) = &route.mirror {
            let (share, service) = (percent(mirror.share), &mirror.service);
            filters.push(format!(
                "mirror: {share} of requests are copied to {service}"
            ));
        }
        if let Some(timeout) = route.timeout {
            filters.push(format!("timeout: the whole exchange, {timeout:?}"));
        }
        filters.extend(edits("response headers", &route.response_fields));
        let compression = route.compression.as_ref();
        let compression = compression.or(self.listener.compression.as_ref());
        if let Some(compression) = compression.filter(|it| !it.codings.is_empty()) {
            let codings = compression.codings.iter().map(|coding| coding.word());
            let codings: Vec<&str> = codings.collect();
            filters.push(format!("compression: {}", codings.join(", ")));
        }
        let preset = route
            .security_headers
            .unwrap_or(self.listener.security_headers);
        if preset != SecurityHeaders::Off {
            filters.push(format!("security headers: {}", preset.name()));
        }
        filters
    }

    /// What the backend is told about the client.
    fn told(&self) -> Option<String> {
        let settings = &self.listener.forwarded;
        let names = [
            (
                settings.x_forwarded,
                "X-Forwarded-For, -Proto, -Host, -Port",
            ),
            (settings.x_real_ip, "X-Real-IP"),
            (settings.forwarded, "Forwarded"),
            (settings.via.is_some(), "Via"),
            (settings.request_id, "X-Request-ID"),
        ];
        let names = names.iter().filter(|(is_on, _)| *is_on);
        let names: Vec<&str> = names.map(|(_, name)| *name).collect();
        (!names.is_empty()).then(|| format!("the backend is told: {}", names.join(", ")))
    }
}

fn edits(what: &str, edits: &FieldEdits) -> Option<String> {
    let removed = edits.remove.iter().map(|name| format!("-{name}"));
    let set = edits.set.iter().map(|(name, _)| format!("={name}"));
    let added = edits.add.iter().map(|(name, _)| format!("+{name}"));
    let all: Vec<String> = removed.chain(set).chain(added).collect();
    (!all.is_empty()).then(|| format!("{what}: {}", all.join(" ")))
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 1e6).round() / 1e4)
}
