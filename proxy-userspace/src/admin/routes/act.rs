//! What operators do that is no change of the configuration.

use super::answer::ask;
use super::{Given, Shared};
use crate::admin::api::{
    BackendAnswer, BackendName, DrainRequest, GuardRequest, LogRequest, LogView, Refusal,
    StopRequest, UpgradeAnswer, UpgradeRequest,
};
use crate::admin::control::Command;
use crate::observe::view::GuardView;
use axum::Json;
use axum::extract::State;
use http::StatusCode;

pub(super) async fn drain(
    State(shared): State<Shared>,
    Given(request): Given<DrainRequest>,
) -> Result<Json<BackendAnswer>, Refusal> {
    ask(&shared, |reply| Command::Drain(request, reply)).await
}

pub(super) async fn undrain(
    State(shared): State<Shared>,
    Given(name): Given<BackendName>,
) -> Result<Json<BackendAnswer>, Refusal> {
    ask(&shared, |reply| Command::Undrain(name, reply)).await
}

pub(super) async fn guard_add(
    State(shared): State<Shared>,
    Given(request): Given<GuardRequest>,
) -> Result<Json<GuardView>, Refusal> {
    ask(&shared, |reply| Command::GuardAdd(request, reply)).await
}

pub(super) async fn guard_remove(
    State(shared): State<Shared>,
    Given(request): Given<GuardRequest>,
) -> Result<Json<GuardView>, Refusal> {
    ask(&shared, |reply| Command::GuardRemove(request, reply)).await
}

pub(super) async fn log(State(shared): State<Shared>) -> Result<Json<LogView>, Refusal> {
    ask(&shared, Command::Log).await
}

pub(super) async fn set_log(
    State(shared): State<Shared>,
    Given(request): Given<LogRequest>,
) -> Result<Json<LogView>, Refusal> {
    ask(&shared, |reply| Command::SetLog(request, reply)).await
}

pub(super) async fn reopen_logs(State(shared): State<Shared>) -> Result<StatusCode, Refusal> {
    shared.handle.ask(Command::ReopenLogs).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn upgrade(
    State(shared): State<Shared>,
    Given(request): Given<UpgradeRequest>,
) -> Result<Json<UpgradeAnswer>, Refusal> {
    ask(&shared, |reply| Command::Upgrade(request, reply)).await
}

pub(super) async fn stop(
    State(shared): State<Shared>,
    Given(request): Given<StopRequest>,
) -> Result<StatusCode, Refusal> {
    let stop = |reply| Command::Stop(request, reply);
    shared.handle.ask(stop).await?;
    Ok(StatusCode::ACCEPTED)
}
