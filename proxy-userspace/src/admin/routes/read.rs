//! The present state.

use super::Shared;
use super::answer::{Asked, Named, ask};
use crate::admin::api::{
    BackendRow, ConnectionQuery, ConnectionsAnswer, FlowQuery, FlowsAnswer, Refusal, RefusalKind,
};
use crate::admin::control::Command;
use crate::observe::build::BuildInfo;
use crate::observe::view::{
    CertificateView, GuardView, HttpListenerView, ListenerView, RouteView, ServiceView,
    StreamListenerView, View,
};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// A listener of the kernel part, with the service behind it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct KernelListenerRow {
    service: String,
    #[serde(flatten)]
    listener: ListenerView,
}

/// Answer of `GET /api/v1/listeners`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ListenersAnswer {
    /// Those whose packets are balanced in the kernel.
    l4: Vec<KernelListenerRow>,
    /// Those that speak HTTP.
    http: Vec<HttpListenerView>,
    /// Those that pass TCP or UDP on.
    stream: Vec<StreamListenerView>,
}

async fn view(shared: &Shared) -> Result<View, Refusal> {
    let view = shared.handle.ask(Command::View).await?;
    Ok(Arc::unwrap_or_clone(view))
}

pub(super) async fn status(State(shared): State<Shared>) -> Result<Json<View>, Refusal> {
    view(&shared).await.map(Json)
}

pub(super) async fn version() -> Json<BuildInfo> {
    Json(BuildInfo::current())
}

pub(super) async fn listeners(
    State(shared): State<Shared>,
) -> Result<Json<ListenersAnswer>, Refusal> {
    let view = view(&shared).await?;
    let l4 = view.services.into_iter().flat_map(|service| {
        let name = service.name;
        let rows = service.listeners.into_iter();
        rows.map(move |listener| KernelListenerRow {
            service: name.clone(),
            listener,
        })
    });
    Ok(Json(ListenersAnswer {
        l4: l4.collect(),
        http: view.http_listeners,
        stream: view.stream_listeners,
    }))
}

pub(super) async fn routes(State(shared): State<Shared>) -> Result<Json<Vec<RouteView>>, Refusal> {
    Ok(Json(view(&shared).await?.routes))
}

pub(super) async fn services(
    State(shared): State<Shared>,
) -> Result<Json<Vec<ServiceView>>, Refusal> {
    Ok(Json(view(&shared).await?.services))
}

pub(super) async fn service(
    State(shared): State<Shared>,
    Named(name): Named<String>,
) -> Result<Json<ServiceView>, Refusal> {
    let services = view(&shared).await?.services;
    let found = services.into_iter().find(|service| service.name == name);
    let missing = || {
        Refusal::new(
            RefusalKind::NotFound,
            format!("there is no service `{name}`"),
        )
    };
    found.map(Json).ok_or_else(missing)
}

pub(super) async fn backends(
    State(shared): State<Shared>,
) -> Result<Json<Vec<BackendRow>>, Refusal> {
    let services = view(&shared).await?.services;
    let rows = services.into_iter().flat_map(|service| {
        let name = service.name;
        let rows = service.backends.into_iter();
        rows.map(move |backend| BackendRow {
            service: name.clone(),
            backend,
        })
    });
    Ok(Json(rows.collect()))
}

pub(super) async fn connections(
    State(shared): State<Shared>,
    Asked(query): Asked<ConnectionQuery>,
) -> Result<Json<ConnectionsAnswer>, Refusal> {
    ask(&shared, |reply| Command::Connections(query, reply)).await
}

pub(super) async fn flows(
    State(shared): State<Shared>,
    Asked(query): Asked<FlowQuery>,
) -> Result<Json<FlowsAnswer>, Refusal> {
    ask(&shared, |reply| Command::Flows(query, reply)).await
}

pub(super) async fn certificates(
    State(shared): State<Shared>,
) -> Result<Json<Vec<CertificateView>>, Refusal> {
    ask(&shared, Command::Certificates).await
}

pub(super) async fn guard_list(
    State(shared): State<Shared>,
) -> Result<Json<Vec<GuardView>>, Refusal> {
    ask(&shared, Command::GuardList).await
}
