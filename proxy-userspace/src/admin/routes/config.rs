//! The configuration: read, changed as a whole or in parts, and gone back to.

use super::answer::{Asked, Named, ask, is_one_of, json, octets};
use super::{DOCUMENTS, Given, Shared};
use crate::admin::api::{
    ChangeQuery, ConfigFormat, ConfigQuery, ConfigSource, HistoryEntry, Refusal, RefusalKind,
    ReloadAnswer, RollbackRequest, ValidateAnswer,
};
use crate::admin::caller::Caller;
use crate::admin::change::{Change, Condition, Edit, Item, ItemEdit, Section, find};
use crate::admin::control::{Command, Versioned};
use crate::config::model::Config;
use crate::config::{effective, effective_yaml, parse};
use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Query of `GET /api/v1/config/history/{generation}`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PastQuery {
    /// How to write it.
    format: ConfigFormat,
}

/// A list of the configuration whose entries have names.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SectionName {
    Listeners,
    Routes,
    Services,
}

/// The path of an entry.
#[derive(Debug, Deserialize)]
pub(super) struct ItemPath {
    section: SectionName,
    name: String,
}

/// The path of a backend.
#[derive(Debug, Deserialize)]
pub(super) struct BackendPath {
    service: String,
    backend: String,
}

impl From<ItemPath> for Item {
    fn from(path: ItemPath) -> Self {
        let section = match path.section {
            SectionName::Listeners => Section::Listeners,
            SectionName::Routes => Section::Routes,
            SectionName::Services => Section::Services,
        };
        Self::Entry(section, path.name)
    }
}

impl From<BackendPath> for Item {
    fn from(path: BackendPath) -> Self {
        Self::Backend(path.service, path.backend)
    }
}

/// What every change says besides what is to change.
#[derive(Debug)]
pub(super) struct Terms {
    query: ChangeQuery,
    condition: Option<Condition>,
    by: String,
}

impl FromRequestParts<Shared> for Terms {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Refusal> {
        let Asked(query) = Asked::<ChangeQuery>::from_request_parts(parts, state).await?;
        let field = parts.headers.get(header::IF_MATCH);
        let condition = field.map(|value| Condition::parse(value.to_str().unwrap_or_default()));
        let caller = parts.extensions.get::<Caller>();
        Ok(Self {
            query,
            condition: condition.transpose()?,
            by: caller.unwrap_or(&Caller::Unknown).to_string(),
        })
    }
}

impl Terms {
    /// As they are, if they say which configuration the change is based on. A dry run changes
    /// nothing that somebody else could have changed.
    fn based(self) -> Result<Self, Refusal> {
        if self.condition.is_none() && !self.query.dry_run {
            let message = "say which configuration the change is based on: If-Match with the ETag of \
                           GET /api/v1/config, or `*` for any";
            return Err(Refusal::new(RefusalKind::Unconditional, message));
        }
        Ok(self)
    }

    async fn make(self, shared: &Shared, edit: Edit) -> Result<Response, Refusal> {
        let change = Box::new(Change {
            edit,
            condition: self.condition,
            dry_run: self.query.dry_run,
            save: self.query.save,
            by: self.by,
        });
        let configure = |reply| Command::Configure(change, reply);
        let answer: ReloadAnswer = shared.handle.ask(configure).await?;
        let mut response = Json(&answer).into_response();
        // Of a dry run it would be the tag of what nobody can get.
        if !answer.dry_run
            && let Ok(etag) = quoted(&answer.etag).parse()
        {
            response.headers_mut().insert(header::ETAG, etag);
        }
        Ok(response)
    }
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn written(config: &Config, format: ConfigFormat) -> Response {
    match format {
        ConfigFormat::Json => Json(effective(config)).into_response(),
        ConfigFormat::Yaml => yaml(effective_yaml(config)),
    }
}

fn yaml(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/yaml")], text).into_response()
}

/// YAML, or JSON with `?format=json`.
pub(super) async fn read(
    State(shared): State<Shared>,
    Asked(query): Asked<ConfigQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    match query.source {
        ConfigSource::Running => running(&shared, query.format, &headers).await,
        ConfigSource::File => {
            let config = shared.handle.ask(Command::ConfigFile).await?;
            Ok(written(&config, query.format))
        }
        ConfigSource::Text => shared.handle.ask(Command::ConfigText).await.map(yaml),
    }
}

/// For those who are used to it by this name.
pub(super) async fn dump(
    State(shared): State<Shared>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    running(&shared, ConfigFormat::Json, &headers).await
}

async fn running(
    shared: &Shared,
    format: ConfigFormat,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let Versioned { config, etag } = shared.handle.ask(Command::Config).await?;
    let etag = quoted(&etag);
    let known = headers.get(header::IF_NONE_MATCH);
    let known = known.and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_known = known.split(',').any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    });
    let tagged = [(header::ETAG, etag)];
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, tagged).into_response());
    }
    Ok((tagged, written(&config, format)).into_response())
}

pub(super) async fn put(
    State(shared): State<Shared>,
    terms: Terms,
    request: Request,
) -> Result<Response, Refusal> {
    let terms = terms.based()?;
    let text = document(request, &shared).await?;
    terms.make(&shared, Edit::Whole(text)).await
}

/// The text of a configuration, YAML or JSON.
async fn document(request: Request, shared: &Shared) -> Result<String, Refusal> {
    let is_yaml = is_one_of(
        request.headers(),
        &["application/yaml", "application/x-yaml"],
    );
    if !is_yaml && !is_one_of(request.headers(), DOCUMENTS) {
        return Err(unsupported(DOCUMENTS));
    }
    let content = octets(request, shared).await?;
    if !is_yaml {
        // YAML has JSON in it, but would forgive what JSON does not.
        let _: Map<String, Value> = json(&content)?;
    }
    String::from_utf8(content.to_vec())
        .map_err(|_| Refusal::new(RefusalKind::Malformed, "the content: it is no UTF-8"))
}

/// As `sluice validate`. It asks nobody, so that the control task does not wait for it.
pub(super) async fn validate(
    State(shared): State<Shared>,
    request: Request,
) -> Result<Json<ValidateAnswer>, Refusal> {
    let text = document(request, &shared).await?;
    let judge = move || ValidateAnswer::from(&parse("the request", &text));
    let judged = tokio::task::spawn_blocking(judge).await;
    judged.map(Json).map_err(|error| Refusal::internal(&error))
}

fn unsupported(types: &[&str]) -> Refusal {
    let message = format!("say what the content is: {}", types.join(" or "));
    Refusal::new(RefusalKind::Unsupported, message)
}

pub(super) async fn patch(
    State(shared): State<Shared>,
    terms: Terms,
    Given(patch): Given<Map<String, Value>>,
) -> Result<Response, Refusal> {
    let edit = Edit::Merge(Value::Object(patch));
    terms.based()?.make(&shared, edit).await
}

pub(super) async fn history(
    State(shared): State<Shared>,
) -> Result<Json<Vec<HistoryEntry>>, Refusal> {
    ask(&shared, Command::History).await
}

pub(super) async fn past(
    State(shared): State<Shared>,
    Named(generation): Named<u64>,
    Asked(query): Asked<PastQuery>,
) -> Result<Response, Refusal> {
    let past = |reply| Command::Past(generation, reply);
    let Versioned { config, etag } = shared.handle.ask(past).await?;
    Ok((
        [(header::ETAG, quoted(&etag))],
        written(&config, query.format),
    )
        .into_response())
}

pub(super) async fn rollback(
    State(shared): State<Shared>,
    terms: Terms,
    Given(request): Given<RollbackRequest>,
) -> Result<Response, Refusal> {
    terms
        .make(&shared, Edit::Rollback(request.generation))
        .await
}

pub(super) async fn reload(
    State(shared): State<Shared>,
    terms: Terms,
) -> Result<Response, Refusal> {
    terms.make(&shared, Edit::Reload).await
}

pub(super) async fn renew(State(shared): State<Shared>, terms: Terms) -> Result<Response, Refusal> {
    terms.make(&shared, Edit::Renew).await
}

async fn read_item(shared: &Shared, item: Item) -> Result<Response, Refusal> {
    let Versioned { config, etag } = shared.handle.ask(Command::Config).await?;
    let found = find(&effective(&config), &item)?;
    Ok(([(header::ETAG, quoted(&etag))], Json(found)).into_response())
}

async fn change_item(
    shared: &Shared,
    terms: Terms,
    item: impl Into<Item>,
    edit: ItemEdit,
) -> Result<Response, Refusal> {
    let edit = Edit::Item(item.into(), edit);
    terms.based()?.make(shared, edit).await
}

pub(super) async fn item(
    State(shared): State<Shared>,
    Named(path): Named<ItemPath>,
) -> Result<Response, Refusal> {
    read_item(&shared, path.into()).await
}

pub(super) async fn put_item(
    State(shared): State<Shared>,
    Named(path): Named<ItemPath>,
    terms: Terms,
    Given(entry): Given<Map<String, Value>>,
) -> Result<Response, Refusal> {
    change_item(&shared, terms, path, ItemEdit::Put(entry)).await
}

pub(super) async fn patch_item(
    State(shared): State<Shared>,
    Named(path): Named<ItemPath>,
    terms: Terms,
    Given(patch): Given<Map<String, Value>>,
) -> Result<Response, Refusal> {
    change_item(&shared, terms, path, ItemEdit::Merge(Value::Object(patch))).await
}

pub(super) async fn delete_item(
    State(shared): State<Shared>,
    Named(path): Named<ItemPath>,
    terms: Terms,
) -> Result<Response, Refusal> {
    change_item(&shared, terms, path, ItemEdit::Delete).await
}

pub(super) async fn backend(
    State(shared): State<Shared>,
    Named(path): Named<BackendPath>,
) -> Result<Response, Refusal> {
    read_item(&shared, path.into()).await
}

pub(super) async fn put_backend(
    State(shared): State<Shared>,
    Named(path): Named<BackendPath>,
    terms: Terms,
    Given(entry): Given<Map<String, Value>>,
) -> Result<Response, Refusal> {
    change_item(&shared, terms, path, ItemEdit::Put(entry)).await
}

pub(super) async fn patch_backend(
    State(shared): State<Shared>,
    Named(path): Named<BackendPath>,
    terms: Terms,
    Given(patch): Given<Map<String, Value>>,
) -> Result<Response, Refusal> {
    change_item(&shared, terms, path, ItemEdit::Merge(Value::Object(patch))).await
}

pub(super) async fn delete_backend(
    State(shared): State<Shared>,
    Named(path): Named<BackendPath>,
    terms: Terms,
) -> Result<Response, Refusal> {
    change_item(&shared, terms, path, ItemEdit::Delete).await
}
