//! Paths and handlers.
//!
//! | path | unix socket | TCP |
//! |---|---|---|
//! | `GET /livez`, `/readyz`, `/healthz`, `/metrics` | yes | yes |
//! | `GET /api/v1/{status,services,backends,flows,events,guard,config,version}` | yes | no |
//! | `POST /api/v1/{reload,drain,undrain,guard,guard/remove,capture,upgrade,stop}` | yes | no |

use crate::admin::api::{
    BackendAnswer, BackendName, CaptureQuery, ConfigFormat, ConfigQuery, DrainRequest, EventQuery,
    FlowQuery, FlowsAnswer, GuardRequest, PREFIX, Refusal, RefusalKind, ReloadAnswer, StopRequest,
    UpgradeAnswer, UpgradeRequest,
};
use crate::admin::control::{Command, Handle, Reply};
use crate::admin::guard::HostPolicy;
use crate::observe::build::BuildInfo;
use crate::observe::counters::Counters;
use crate::observe::metrics;
use crate::observe::process::ProcessUsage;
use crate::observe::readiness::Readiness;
use crate::observe::view::{BackendView, GuardView, ServiceView, View};
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, stream};
use http::{StatusCode, header};
use serde::Serialize;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What handlers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The way to the control task.
    pub handle: Handle,
    /// The daemon's own counters.
    pub counters: Arc<Counters>,
    /// What `/readyz` answers.
    pub readiness: Arc<Readiness>,
}

/// What the unix socket serves: everything.
pub fn local(shared: Shared) -> Router {
    let api = Router::new()
        .route("/status", get(status))
        .route("/services", get(services))
        .route("/backends", get(backends))
        .route("/flows", get(flows))
        .route("/events", get(events))
        .route("/config", get(config))
        .route("/version", get(version))
        .route("/guard", get(guard_list).post(guard_add))
        .route("/guard/remove", post(guard_remove))
        .route("/reload", post(reload))
        .route("/drain", post(drain))
        .route("/undrain", post(undrain))
        .route("/capture", post(capture))
        .route("/upgrade", post(upgrade))
        .route("/stop", post(stop));
    read_only()
        .nest(PREFIX, api)
        .fallback(not_found)
        .with_state(shared)
}

/// What TCP serves: health and metrics, to requests that `policy` accepts.
pub fn public(shared: Shared, policy: HostPolicy) -> Router {
    read_only()
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::new(policy), check_host))
        .with_state(shared)
}

fn read_only() -> Router<Shared> {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/healthz", get(readyz))
        .route("/metrics", get(metrics_page))
}

async fn check_host(
    State(policy): State<Arc<HostPolicy>>,
    request: Request,
    next: Next,
) -> Response {
    match policy.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(forbidden) => (StatusCode::FORBIDDEN, format!("{forbidden}\n")).into_response(),
    }
}

async fn not_found() -> Refusal {
    Refusal::new(
        RefusalKind::NotFound,
        "no such path here; changes and details are served on the unix socket only",
    )
}

/// Alive as long as the control task is: if it is gone, only a restart helps.
async fn livez(State(shared): State<Shared>) -> Response {
    if shared.handle.is_closed() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the control task is gone\n",
        )
            .into_response()
    } else {
        "ok\n".into_response()
    }
}

/// Every check on a line of its own with `?verbose`, else only those that fail.
async fn readyz(State(shared): State<Shared>, request: Request) -> Response {
    let verbose = request.uri().query().is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair == "verbose" || pair.starts_with("verbose="))
    });
    let checks = shared.readiness.checks();
    let mut text = String::new();
    for check in checks.iter().filter(|check| verbose || !check.ok) {
        let mark = if check.ok { "[+]" } else { "[-]" };
        let word = if check.ok {
            "ok"
        } else {
            check.detail.as_str()
        };
        let _ = writeln!(text, "{mark} {}: {word}", check.name);
    }
    let ready = checks.iter().all(|check| check.ok);
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, text).into_response()
}

async fn metrics_page(State(shared): State<Shared>) -> Result<Response, Refusal> {
    let view = shared.handle.ask(Command::View).await?;
    let ready = shared.readiness.ready();
    let text = metrics::page(view, shared.counters, ready, ProcessUsage::read())
        .map_err(|error| Refusal::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn status(State(shared): State<Shared>) -> Result<Json<View>, Refusal> {
    let view = shared.handle.ask(Command::View).await?;
    Ok(Json(Arc::unwrap_or_clone(view)))
}

async fn services(State(shared): State<Shared>) -> Result<Json<Vec<ServiceView>>, Refusal> {
    let view = shared.handle.ask(Command::View).await?;
    Ok(Json(view.services.clone()))
}

/// A backend with the name of its service.
#[derive(Debug, Serialize)]
struct BackendRow {
    service: String,
    #[serde(flatten)]
    backend: BackendView,
}

async fn backends(State(shared): State<Shared>) -> Result<Json<Vec<BackendRow>>, Refusal> {
    let view = shared.handle.ask(Command::View).await?;
    let rows = view.services.iter().flat_map(|service| {
        service.backends.iter().map(|backend| BackendRow {
            service: service.name.clone(),
            backend: backend.clone(),
        })
    });
    Ok(Json(rows.collect()))
}

async fn version() -> Json<BuildInfo> {
    Json(BuildInfo::current())
}

async fn flows(
    State(shared): State<Shared>,
    Asked(query): Asked<FlowQuery>,
) -> Result<Json<FlowsAnswer>, Refusal> {
    ask(&shared, |reply| Command::Flows(query, reply)).await
}

/// YAML, or JSON with `?format=json`.
async fn config(
    State(shared): State<Shared>,
    Asked(query): Asked<ConfigQuery>,
) -> Result<Response, Refusal> {
    let config = shared.handle.ask(Command::Config).await?;
    Ok(match query.format {
        ConfigFormat::Json => Json(crate::config::effective(&config)).into_response(),
        ConfigFormat::Yaml => {
            let yaml = crate::config::effective_yaml(&config);
            ([(header::CONTENT_TYPE, "application/yaml")], yaml).into_response()
        }
    })
}

async fn guard_list(State(shared): State<Shared>) -> Result<Json<Vec<GuardView>>, Refusal> {
    ask(&shared, Command::GuardList).await
}

async fn guard_add(
    State(shared): State<Shared>,
    Given(request): Given<GuardRequest>,
) -> Result<Json<GuardView>, Refusal> {
    ask(&shared, |reply| Command::GuardAdd(request, reply)).await
}

async fn guard_remove(
    State(shared): State<Shared>,
    Given(request): Given<GuardRequest>,
) -> Result<Json<GuardView>, Refusal> {
    ask(&shared, |reply| Command::GuardRemove(request, reply)).await
}

async fn reload(State(shared): State<Shared>) -> Result<Json<ReloadAnswer>, Refusal> {
    ask(&shared, Command::Reload).await
}

async fn drain(
    State(shared): State<Shared>,
    Given(request): Given<DrainRequest>,
) -> Result<Json<BackendAnswer>, Refusal> {
    ask(&shared, |reply| Command::Drain(request, reply)).await
}

async fn undrain(
    State(shared): State<Shared>,
    Given(name): Given<BackendName>,
) -> Result<Json<BackendAnswer>, Refusal> {
    ask(&shared, |reply| Command::Undrain(name, reply)).await
}

async fn upgrade(
    State(shared): State<Shared>,
    Given(request): Given<UpgradeRequest>,
) -> Result<Json<UpgradeAnswer>, Refusal> {
    ask(&shared, |reply| Command::Upgrade(request, reply)).await
}

async fn stop(
    State(shared): State<Shared>,
    Given(request): Given<StopRequest>,
) -> Result<StatusCode, Refusal> {
    shared
        .handle
        .ask(|reply| Command::Stop(request, reply))
        .await?;
    Ok(StatusCode::ACCEPTED)
}

/// Server-sent events (WHATWG HTML §9.2): one JSON object each. The stream ends when the daemon
/// stops; closing it ends the sampling that it asked for.
async fn events(
    State(shared): State<Shared>,
    Asked(query): Asked<EventQuery>,
) -> Result<Response, Refusal> {
    let events = shared
        .handle
        .ask(|reply| Command::Events(query, reply))
        .await?;
    let stream = stream::unfold(events, |mut events| async {
        let event = events.recv().await?;
        // A view is a plain struct; serialising it cannot fail.
        let event = Event::default().json_data(event).unwrap_or_default();
        Some((Ok::<_, Infallible>(event), events))
    });
    Ok(Sse::new(stream)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// The answer is the capture file itself, written as packets come.
async fn capture(
    State(shared): State<Shared>,
    Given(query): Given<CaptureQuery>,
) -> Result<Response, Refusal> {
    let chunks = shared
        .handle
        .ask(|reply| Command::Capture(query, reply))
        .await?;
    let body = Body::from_stream(chunk_stream(chunks));
    Ok(([(header::CONTENT_TYPE, "application/x-pcapng")], body).into_response())
}

fn chunk_stream(
    chunks: mpsc::Receiver<Bytes>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(chunks, |mut chunks| async {
        let chunk = chunks.recv().await?;
        Some((Ok(chunk), chunks))
    })
}

async fn ask<T>(
    shared: &Shared,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<Json<T>, Refusal> {
    shared.handle.ask(command).await.map(Json)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.kind {
            RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            RefusalKind::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(self)).into_response()
    }
}

/// A JSON body, whose faults are answered like every other refusal.
#[derive(Debug)]
struct Given<T>(T);

impl<S: Send + Sync, T> FromRequest<S> for Given<T>
where
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
{
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let Json(value) = Json::<T>::from_request(request, state)
            .await
            .map_err(|rejection| Refusal::new(RefusalKind::Invalid, rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// A query string, as [`Given`].
#[derive(Debug)]
struct Asked<T>(T);

impl<S: Send + Sync, T> FromRequestParts<S> for Asked<T>
where
    Query<T>: FromRequestParts<S, Rejection = QueryRejection>,
{
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        state: &S,
    ) -> Result<Self, Refusal> {
        let Query(value) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Refusal::new(RefusalKind::Invalid, rejection.body_text()))?;
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests;
