//! What is served, as one list, and who gets at it.
//!
//! The list is the whole truth: the router is made of it, and the OpenAPI document as well.
//!
//! | where | what |
//! |---|---|
//! | unix socket | everything |
//! | TCP with `admin.api` | everything, to callers who show a token or a certificate |
//! | TCP without | `/livez`, `/readyz`, `/healthz`, `/metrics` |

mod act;
mod answer;
mod config;
mod document;
mod health;
mod page;
mod read;
mod streams;

use crate::admin::access::{Access, SharedAccess};
use crate::admin::api::{
    BackendAnswer, BackendEntry, BackendName, BackendRow, CaptureQuery, ChangeQuery, ConfigQuery,
    ConnectionQuery, ConnectionsAnswer, DrainRequest, FlowQuery, FlowsAnswer, GuardRequest,
    HappeningQuery, HistoryEntry, LogRequest, LogView, Refusal, RefusalKind, ReloadAnswer,
    RollbackRequest, StatsAnswer, StatsQuery, StopRequest, UpgradeAnswer, UpgradeRequest,
    ValidateAnswer,
};
use crate::admin::caller::Caller;
use crate::admin::control::Handle;
use crate::admin::endpoint::{Endpoint, Method};
use crate::admin::guard::HostPolicy;
use crate::observe::build::BuildInfo;
use crate::observe::counters::Counters;
use crate::observe::flow::ObserveQuery;
use crate::observe::journal::Journal;
use crate::observe::readiness::Readiness;
use crate::observe::view::{CertificateView, GuardView, RouteView, ServiceView, View};
use answer::{Given, must_be_json};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use read::ListenersAnswer;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Octets of a request's body at most: a configuration of tens of thousands of backends.
const MAX_BODY: usize = 16 << 20;

/// Streams of events at once.
const MAX_STREAMS: usize = 32;

/// What handlers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The way to the control task.
    pub handle: Handle,
    /// The daemon's own counters.
    pub counters: Arc<Counters>,
    /// What `/readyz` answers.
    pub readiness: Arc<Readiness>,
    /// What has happened.
    pub journal: Arc<Journal>,
    /// Places for streams of events.
    pub streams: Arc<Semaphore>,
    /// Who may use the API over TCP, if it is served there.
    pub access: Option<SharedAccess>,
}

impl Shared {
    /// What handlers share, with nothing going on yet.
    pub fn new(
        handle: Handle,
        counters: Arc<Counters>,
        readiness: Arc<Readiness>,
        journal: Arc<Journal>,
    ) -> Self {
        Self {
            handle,
            counters,
            readiness,
            journal,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            access: None,
        }
    }
}

/// Media types of a configuration.
pub(super) const DOCUMENTS: &[&str] = &["application/json", "application/yaml"];

/// Media types of a merge patch.
const PATCHES: &[&str] = &["application/merge-patch+json", "application/json"];

/// Everything that is served.
///
/// Long because it is the list of everything.
pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method::{Delete, Get, Patch, Post, Put};
    const NOT_FOUND: &[StatusCode] = &[StatusCode::NOT_FOUND, StatusCode::CONFLICT];
    const SERVICE: &str = "Name of a service.";
    const BACKEND: &str = "Name of a backend.";
    const NAME: &str = "Name of the entry.";
    const SECTION: &str = "The list that the entry is in.";
    let health = [
        Endpoint::new(Get, "/livez", health::livez)
            .says("200 while the daemon can be asked anything; else only a restart helps.")
            .answers_text(&["text/plain"]),
        Endpoint::new(Get, "/readyz", health::readyz)
            .says("200 while it balances, else 503 and what is missing; `?verbose` shows every check.")
            .query::<health::VerboseQuery>()
            .answers_text(&["text/plain"]),
        Endpoint::new(Get, "/healthz", health::readyz)
            .says("As `/readyz`.")
            .query::<health::VerboseQuery>()
            .answers_text(&["text/plain"]),
        Endpoint::new(Get, "/metrics", health::metrics_page)
            .says("All metrics, as OpenMetrics text.")
            .answers_text(&["application/openmetrics-text"]),
        Endpoint::new(Get, "/stats", health::stats)
            .says("All metrics as a list; `filter` is a regular expression for names.")
            .query::<StatsQuery>()
            .answers_documents::<StatsAnswer>(&["application/json", "text/plain"]),
    ];
    let read = [
        Endpoint::new(Get, "/api/v1/status", read::status)
            .says("Everything about the present state, in one answer.")
            .answers::<View>(),
        Endpoint::new(Get, "/api/v1/version", read::version)
            .says("What was built, from what.")
            .answers::<BuildInfo>(),
        Endpoint::new(Get, "/api/v1/listeners", read::listeners)
            .says("Listeners with their counters.")
            .answers::<ListenersAnswer>(),
        Endpoint::new(Get, "/api/v1/routes", read::routes)
            .says("Routes of HTTP listeners with their counters.")
            .answers::<Vec<RouteView>>(),
        Endpoint::new(Get, "/api/v1/services", read::services)
            .says("Services with their listeners and backends.")
            .answers::<Vec<ServiceView>>(),
        Endpoint::new(Get, "/api/v1/services/{service}", read::service)
            .says("One service.")
            .at::<String>("service", SERVICE)
            .answers::<ServiceView>(),
        Endpoint::new(Get, "/api/v1/backends", read::backends)
            .says("Backends of all services, with their health and why.")
            .answers::<Vec<BackendRow>>(),
        Endpoint::new(Get, "/api/v1/connections", read::connections)
            .says("Connections of clients with the proxies, the oldest first.")
            .query::<ConnectionQuery>()
            .refuses(NOT_FOUND)
            .answers::<ConnectionsAnswer>(),
        Endpoint::new(Get, "/api/v1/flows", read::flows)
            .says("Flows of the kernel's flow table, in no particular order.")
            .query::<FlowQuery>()
            .refuses(NOT_FOUND)
            .answers::<FlowsAnswer>(),
        Endpoint::new(Get, "/api/v1/certificates", read::certificates)
            .says("Certificates that are shown to clients, and when they expire.")
            .answers::<Vec<CertificateView>>(),
        Endpoint::new(Get, "/api/v1/guard", read::guard_list)
            .says(
                "Rules about sources: configured, of operators, and of sources that are condemned for what \
                 they do.",
            )
            .answers::<Vec<GuardView>>(),
        Endpoint::new(Get, "/api/v1/log", act::log)
            .says("The log level.")
            .answers::<LogView>(),
        Endpoint::new(Get, "/openapi.json", document::openapi)
            .says("This document.")
            .answers::<document::Document>(),
        Endpoint::new(Get, "/", page::page)
            .says("The same for people: a page that shows it live.")
            .answers_text(&["text/html"]),
    ];
    let streams = [
        Endpoint::new(Get, "/api/v1/events", streams::events)
            .says(
                "What happens to the daemon, as server-sent events; goes on after `Last-Event-ID`.",
            )
            .query::<HappeningQuery>()
            .answers_text(&["text/event-stream"]),
        Endpoint::new(Get, "/api/v1/observe", streams::observe)
            .says("What becomes of flows from packet to status, as server-sent events.")
            .query::<ObserveQuery>()
            .refuses(NOT_FOUND)
            .answers_text(&["text/event-stream"]),
        Endpoint::new(Post, "/api/v1/capture", streams::capture)
            .says("Packets as they come, as a pcapng stream.")
            .takes::<CaptureQuery>()
            .refuses(NOT_FOUND)
            .answers_text(&["application/x-pcapng"]),
    ];
    let config = [
        Endpoint::new(Get, "/api/v1/config", config::read)
            .says("The configuration in force with every default; or what the file says, or its text.")
            .query::<ConfigQuery>()
            .refuses(NOT_FOUND)
            .answers_documents::<document::Document>(DOCUMENTS),
        Endpoint::new(Get, "/config_dump", config::dump)
            .says("The configuration in force as JSON.")
            .answers::<document::Document>(),
        Endpoint::new(Put, "/api/v1/config", config::put)
            .says("Put a whole configuration in force.")
            .query::<ChangeQuery>()
            .conditional()
            .takes_documents::<document::Document>(DOCUMENTS)
            .refuses(NOT_FOUND)
            .answers::<ReloadAnswer>(),
        Endpoint::new(Patch, "/api/v1/config", config::patch)
            .says("Change the configuration in force by a merge patch (RFC 7396).")
            .query::<ChangeQuery>()
            .conditional()
            .takes_documents::<document::Document>(PATCHES)
            .refuses(NOT_FOUND)
            .answers::<ReloadAnswer>(),
        Endpoint::new(Post, "/api/v1/validate", config::validate)
            .says("Judge a configuration and do nothing with it; every fault at once, with its place.")
            .takes_documents::<document::Document>(DOCUMENTS)
            .answers::<ValidateAnswer>(),
        Endpoint::new(Get, "/api/v1/config/history", config::history)
            .says("The last 20 configurations that were in force, the newest first.")
            .answers::<Vec<HistoryEntry>>(),
        Endpoint::new(Get, "/api/v1/config/history/{generation}", config::past)
            .says("One of them.")
            .at::<u64>("generation", "Its generation.")
            .query::<config::PastQuery>()
            .answers_documents::<document::Document>(DOCUMENTS),
        Endpoint::new(Post, "/api/v1/config/rollback", config::rollback)
            .says("Put one of them in force again, as a new generation.")
            .query::<ChangeQuery>()
            .takes::<RollbackRequest>()
            .refuses(NOT_FOUND)
            .refuses(&[StatusCode::PRECONDITION_FAILED])
            .answers::<ReloadAnswer>(),
        Endpoint::new(Post, "/api/v1/reload", config::reload)
            .says("Read the configuration file again and put it in force.")
            .query::<ChangeQuery>()
            .refuses(NOT_FOUND)
            .answers::<ReloadAnswer>(),
        Endpoint::new(Post, "/api/v1/certificates/reload", config::renew)
            .says("Read certificates and tokens again, under the configuration in force.")
            .query::<ChangeQuery>()
            .refuses(NOT_FOUND)
            .answers::<ReloadAnswer>(),
    ];
    let entries = [
        Endpoint::new(Get, "/api/v1/config/{section}/{name}", config::item)
            .says("A listener, route or service as the configuration has it.")
            .answers::<BackendEntry>(),
        Endpoint::new(Put, "/api/v1/config/{section}/{name}", config::put_item)
            .says("Add or replace a listener, route or service.")
            .query::<ChangeQuery>()
            .conditional()
            .takes::<BackendEntry>()
            .refuses(NOT_FOUND)
            .answers::<ReloadAnswer>(),
        Endpoint::new(Patch, "/api/v1/config/{section}/{name}", config::patch_item)
            .says("Change a listener, route or service by a merge patch.")
            .query::<ChangeQuery>()
            .conditional()
            .takes_documents::<BackendEntry>(PATCHES)
            .refuses(NOT_FOUND)
            .answers::<ReloadAnswer>(),
        Endpoint::new(
            Delete,
            "/api/v1/config/{section}/{name}",
            config::delete_item,
        )
        .says("Remove a listener, route or service.")
        .query::<ChangeQuery>()
        .conditional()
        .refuses(NOT_FOUND)
        .answers::<ReloadAnswer>(),
    ]
    .map(|endpoint| {
        let endpoint = endpoint.at::<config::SectionName>("section", SECTION);
        endpoint.at::<String>("name", NAME)
    });
    const OF_BACKEND: &str = "/api/v1/config/services/{service}/backends/{backend}";
    let backends = [
        Endpoint::new(Get, OF_BACKEND, config::backend)
            .says("A backend as the configuration has it.")
            .answers::<BackendEntry>(),
        Endpoint::new(Put, OF_BACKEND, config::put_backend)
            .says("Add or replace a backend.")
            .query::<ChangeQuery>()
            .conditional()
            .takes::<BackendEntry>()
            .refuses(NOT_FOUND)
            .answers::<ReloadAnswer>(),
        Endpoint::new(Patch, OF_BACKEND, config::patch_backend)
            .says("Change a backend by a merge patch, such as `{\"weight\": 5}`.")
            .query::<ChangeQuery>()
            .conditional()
            .takes_documents::<BackendEntry>(PATCHES)
            .refuses(NOT_FOUND)
            .answers::<ReloadAnswer>(),
        Endpoint::new(Delete, OF_BACKEND, config::delete_backend)
            .says("Remove a backend: it drains.")
            .query::<ChangeQuery>()
            .conditional()
            .refuses(NOT_FOUND)
            .answers::<ReloadAnswer>(),
    ]
    .map(|endpoint| {
        let endpoint = endpoint.at::<String>("service", SERVICE);
        endpoint.at::<String>("backend", BACKEND)
    });
    let act = [
        Endpoint::new(Post, "/api/v1/drain", act::drain)
            .says("Take no new flows and requests to a backend.")
            .takes::<DrainRequest>()
            .refuses(NOT_FOUND)
            .answers::<BackendAnswer>(),
        Endpoint::new(Post, "/api/v1/undrain", act::undrain)
            .says("Take them to it again.")
            .takes::<BackendName>()
            .refuses(NOT_FOUND)
            .answers::<BackendAnswer>(),
        Endpoint::new(Post, "/api/v1/guard", act::guard_add)
            .says("Add or replace a rule about a source.")
            .takes::<GuardRequest>()
            .refuses(NOT_FOUND)
            .answers::<GuardView>(),
        Endpoint::new(Post, "/api/v1/guard/remove", act::guard_remove)
            .says("Remove an operator's rule, or pardon a condemned source, named by its prefix or an address in it.")
            .takes::<GuardRequest>()
            .refuses(NOT_FOUND)
            .answers::<GuardView>(),
        Endpoint::new(Put, "/api/v1/log", act::set_log)
            .says("Change the log level, for some time or until the next restart.")
            .takes::<LogRequest>()
            .answers::<LogView>(),
        Endpoint::new(Post, "/api/v1/log/reopen", act::reopen_logs)
            .says("Open access logs again by their names, after somebody has moved them away.")
            .status(StatusCode::NO_CONTENT),
        Endpoint::new(Post, "/api/v1/upgrade", act::upgrade)
            .says("Hand over to a new process.")
            .takes::<UpgradeRequest>()
            .refuses(NOT_FOUND)
            .answers::<UpgradeAnswer>(),
        Endpoint::new(Post, "/api/v1/stop", act::stop)
            .says("End the daemon.")
            .takes::<StopRequest>()
            .status(StatusCode::ACCEPTED),
    ];
    let all = [
        tagged("health", health),
        tagged("state", read),
        tagged("streams", streams),
        tagged("configuration", config),
        tagged("configuration", entries),
        tagged("configuration", backends),
        tagged("actions", act),
    ];
    all.into_iter().flatten().collect()
}

fn tagged<const N: usize>(tag: &'static str, endpoints: [Endpoint; N]) -> Vec<Endpoint> {
    endpoints.map(|endpoint| endpoint.tagged(tag)).into()
}

/// Paths for which nobody needs to show anything, if metrics are public.
pub(super) const PUBLIC: [&str; 4] = ["/livez", "/readyz", "/healthz", "/metrics"];

fn router(shared: Shared, wanted: impl Fn(&Endpoint) -> bool) -> Router {
    let mut router = Router::new();
    for endpoint in endpoints().into_iter().filter(wanted) {
        router = router.route(endpoint.path, endpoint.handler);
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn(must_be_json))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared)
}

/// What the unix socket serves: everything. Browsers get here only through a tunnel that somebody
/// has made, and then must not be led here by a page of somebody else.
pub fn local(shared: Shared) -> Router {
    let policy = HostPolicy::local();
    router(shared, |_| true).layer(from_fn_with_state(Arc::new(policy), check_host))
}

/// What TCP serves without the API: health and metrics, to requests that `policy` accepts.
pub fn public(shared: Shared, policy: HostPolicy) -> Router {
    router(shared, |endpoint| PUBLIC.contains(&endpoint.path))
        .layer(from_fn_with_state(Arc::new(policy), check_host))
}

/// What TCP serves with the API: everything, to requests that `policy` accepts, of callers that
/// `access` lets in.
pub fn remote(shared: Shared, policy: HostPolicy, access: SharedAccess) -> Router {
    router(shared, |_| true)
        .layer(from_fn_with_state(access, check_access))
        .layer(from_fn_with_state(Arc::new(policy), check_host))
}

async fn check_host(
    State(policy): State<Arc<HostPolicy>>,
    request: Request,
    next: Next,
) -> Response {
    match policy.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(forbidden) => {
            Refusal::new(RefusalKind::Forbidden, forbidden.to_string()).into_response()
        }
    }
}

async fn check_access(
    State(access): State<SharedAccess>,
    request: Request,
    next: Next,
) -> Response {
    match judge(&access.load(), &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

/// The answer to a caller who may not ask.
fn judge(access: &Access, request: &Request) -> Option<Response> {
    let is_public = access.has_public_metrics() && PUBLIC.contains(&request.uri().path());
    if is_public {
        return None;
    }
    let unknown = Caller::Unknown;
    let caller = request.extensions().get::<Caller>().unwrap_or(&unknown);
    let error = access.check(caller, request.headers()).err()?;
    let refusal = Refusal::new(RefusalKind::Unauthenticated, error.to_string());
    let mut response = refusal.into_response();
    // A browser asks for a password only if it is told of Basic.
    let challenge = HeaderValue::from_static("Bearer realm=\"sluice\", Basic realm=\"sluice\"");
    let headers = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, challenge);
    Some(response)
}

async fn not_found() -> Refusal {
    Refusal::new(
        RefusalKind::NotFound,
        "no such path here; /openapi.json lists those of the API, which the unix socket always serves",
    )
}

async fn not_allowed() -> Refusal {
    Refusal::new(RefusalKind::Method, "the path does not know this method")
}

#[cfg(test)]
mod tests;
