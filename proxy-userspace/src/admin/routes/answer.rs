//! How requests are read and refusals are written.

use super::Shared;
use crate::admin::api::{Refusal, RefusalKind};
use crate::admin::control::{Command, Reply};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// Asks the control task, and answers with JSON.
pub(super) async fn ask<T>(
    shared: &Shared,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<Json<T>, Refusal> {
    shared.handle.ask(command).await.map(Json)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.kind {
            RefusalKind::Malformed => StatusCode::BAD_REQUEST,
            RefusalKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            RefusalKind::Forbidden => StatusCode::FORBIDDEN,
            RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Method => StatusCode::METHOD_NOT_ALLOWED,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Stale => StatusCode::PRECONDITION_FAILED,
            RefusalKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            RefusalKind::Unsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            RefusalKind::Unconditional => StatusCode::PRECONDITION_REQUIRED,
            RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            RefusalKind::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(self)).into_response()
    }
}

/// Types of content that no web page can send to another site without being asked first (Fetch
/// §2.2.2 lists those that it can: forms and plain text).
const TYPES: [&str; 4] = [
    "application/json",
    "application/merge-patch+json",
    "application/yaml",
    "application/x-yaml",
];

/// Requests that change something must say that they are no form. Without content, a method that
/// forms do not know says it as well.
pub(super) async fn must_be_json(request: Request, next: Next) -> Response {
    let method = request.method();
    let is_safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let is_empty_delete = *method == Method::DELETE && media_type(request.headers()).is_none();
    if !is_safe && !is_empty_delete && !is_one_of(request.headers(), &TYPES) {
        let message = "say what the content is: Content-Type: application/json";
        return Refusal::new(RefusalKind::Unsupported, message).into_response();
    }
    next.run(request).await
}

/// True if the content is of one of these types.
pub(super) fn is_one_of(headers: &HeaderMap, types: &[&str]) -> bool {
    media_type(headers).is_some_and(|given| types.iter().any(|one| given.eq_ignore_ascii_case(one)))
}

fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(str::trim)
}

/// The octets of a body.
pub(super) async fn octets<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Refusal> {
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| {
            let kind = match &rejection {
                BytesRejection::FailedToBufferBody(failure)
                    if failure.status() == StatusCode::PAYLOAD_TOO_LARGE =>
                {
                    RefusalKind::TooLarge
                }
                _ => RefusalKind::Malformed,
            };
            Refusal::new(kind, rejection.body_text())
        })
}

/// Reads JSON.
pub(super) fn json<T: DeserializeOwned>(octets: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(octets).map_err(|error| {
        let kind = match error.classify() {
            Category::Data => RefusalKind::Invalid,
            Category::Syntax | Category::Eof | Category::Io => RefusalKind::Malformed,
        };
        Refusal::new(kind, format!("the content: {error}"))
    })
}

/// A JSON body, whose faults are answered like every other refusal.
#[derive(Debug)]
pub(super) struct Given<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Given<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        json(&octets(request, state).await?).map(Self)
    }
}

/// A query string, as [`Given`].
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T> FromRequestParts<S> for Asked<T>
where
    Query<T>: FromRequestParts<S, Rejection = QueryRejection>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Query(value) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Refusal::new(RefusalKind::Invalid, rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// The parts of the path that vary, as [`Given`].
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path(value) = Path::<T>::from_request_parts(parts, state).await.map_err(
            |rejection: PathRejection| Refusal::new(RefusalKind::NotFound, rejection.body_text()),
        )?;
        Ok(Self(value))
    }
}
