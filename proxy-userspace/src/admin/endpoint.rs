//! An endpoint: its path, its handler, and what the document says of it, in one value.
//!
//! The router and the OpenAPI document are made from the same list of these, so neither can have
//! what the other lacks. Schemas come from the types that handlers take and give.

use crate::admin::routes::Shared;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};

/// Makes the schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Something that is served.
pub(super) struct Endpoint {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: Option<SchemaOf>,
    pub(super) path_parameters: Vec<PathParameter>,
    pub(super) has_condition: bool,
    pub(super) body: Option<Content>,
    pub(super) status: StatusCode,
    pub(super) answer: Content,
    pub(super) refusals: Vec<StatusCode>,
    pub(super) handler: MethodRouter<Shared>,
}

/// The methods that are served. HEAD is where GET is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Put,
    Patch,
    Post,
    Delete,
}

/// A part of the path that varies.
pub(super) struct PathParameter {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) schema: SchemaOf,
}

/// What a body may be.
#[derive(Clone)]
pub(super) enum Content {
    /// There is none.
    Nothing,
    /// JSON of this type.
    Json(SchemaOf),
    /// JSON of a type under other names of it, too.
    Documents(&'static [&'static str], SchemaOf),
    /// Text or octets of these types.
    Text(&'static [&'static str]),
}

impl Method {
    /// As OpenAPI writes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Post => "post",
            Self::Delete => "delete",
        }
    }

    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Put => MethodFilter::PUT,
            Self::Patch => MethodFilter::PATCH,
            Self::Post => MethodFilter::POST,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

impl Endpoint {
    /// An endpoint that answers 200 with nothing, until told otherwise.
    pub(super) fn new<H, T>(method: Method, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Shared>,
        T: 'static,
    {
        Self {
            method,
            path,
            tag: "",
            summary: "",
            query: None,
            path_parameters: Vec::new(),
            has_condition: false,
            body: None,
            status: StatusCode::OK,
            answer: Content::Nothing,
            refusals: Vec::new(),
            handler: on(method.filter(), handler),
        }
    }

    /// What it is for.
    pub(super) fn says(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    /// Which group of the document it is in.
    pub(super) fn tagged(mut self, tag: &'static str) -> Self {
        self.tag = tag;
        self
    }

    /// It takes a query of this type.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self
    }

    /// A part of its path.
    pub(super) fn at<T: JsonSchema>(mut self, name: &'static str, about: &'static str) -> Self {
        let schema: SchemaOf = |generator| generator.subschema_for::<T>();
        self.path_parameters.push(PathParameter {
            name,
            about,
            schema,
        });
        self
    }

    /// It takes `If-Match`, and refuses changes without it.
    pub(super) fn conditional(mut self) -> Self {
        self.has_condition = true;
        self.refusals.extend([
            StatusCode::PRECONDITION_FAILED,
            StatusCode::PRECONDITION_REQUIRED,
        ]);
        self
    }

    /// It takes JSON of this type.
    pub(super) fn takes<T: JsonSchema>(mut self) -> Self {
        self.body = Some(Content::Json(|generator| generator.subschema_for::<T>()));
        self
    }

    /// It takes a document of these media types.
    pub(super) fn takes_documents<T: JsonSchema>(mut self, types: &'static [&'static str]) -> Self {
        let schema: SchemaOf = |generator| generator.subschema_for::<T>();
        self.body = Some(Content::Documents(types, schema));
        self
    }

    /// It answers with JSON of this type.
    pub(super) fn answers<T: JsonSchema>(mut self) -> Self {
        self.answer = Content::Json(|generator| generator.subschema_for::<T>());
        self
    }

    /// It answers with a document of these media types.
    pub(super) fn answers_documents<T: JsonSchema>(
        mut self,
        types: &'static [&'static str],
    ) -> Self {
        let schema: SchemaOf = |generator| generator.subschema_for::<T>();
        self.answer = Content::Documents(types, schema);
        self
    }

    /// It answers with text of these media types.
    pub(super) fn answers_text(mut self, types: &'static [&'static str]) -> Self {
        self.answer = Content::Text(types);
        self
    }

    /// With this status.
    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// What it may refuse with, besides what all may.
    pub(super) fn refuses(mut self, statuses: &[StatusCode]) -> Self {
        self.refusals.extend(statuses);
        self
    }
}
