//! The OpenAPI document, merged from the resources, and the page that shows it.

use std::collections::BTreeMap;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder, Schema, ServerBuilder,
};
use utoipa::{IntoResponses, ToSchema as _};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::domain::ErrorKind;
use crate::transport::error::{Problem, row};
use crate::transport::wire::{InputsSchema, TextsSchema};
use crate::transport::{INPUTS_MAX, http, schema};

const DESCRIPTION: &str = "Named entities and text classes from LoRA adapters over one resident encoder, and the training \
of those adapters. Every answer carries `x-request-id` and `server-timing`; every failure is `application/problem+json` with a `code`.";

/// The OpenAPI document of a server with the default limits, pretty-printed with a final newline.
pub fn openapi_json() -> String {
    document_json(INPUTS_MAX)
}

fn document_json(inputs_max: usize) -> String {
    let document = limited(keyed(described(http::document())), inputs_max);
    let mut document = serde_json::to_value(document).expect("the document is plain data");
    for (schema, rule) in rules() {
        if let (Some(Value::Object(schema)), Value::Object(rule)) = (document.pointer_mut(schema), rule) {
            schema.extend(rule);
        }
    }
    let mut json = serde_json::to_string_pretty(&document).expect("the document is plain data");
    json.push('\n');
    json
}

/// What holds between several fields, which the types' own schemas cannot say.
fn rules() -> [(&'static str, Value); 3] {
    [
        (
            "/components/schemas/NerParameters",
            json!({"not": {
                "required": ["aggregation_strategy", "candidate_labels"],
                "properties": {"aggregation_strategy": {"const": "none"}, "candidate_labels": {"type": "array"}},
            }}),
        ),
        (
            "/components/schemas/ClassifyParameters",
            json!({"not": {
                "required": ["hypothesis_template"],
                "properties": {"hypothesis_template": {"type": "string"}, "candidate_labels": {"type": "null"}},
            }}),
        ),
        (
            "/components/schemas/AliasSpec/properties/targets",
            json!({"contains": {"not": {"required": ["weight"], "properties": {"weight": {"const": 0}}}}}),
        ),
    ]
}

/// What the resources' documents are merged into.
pub(super) fn head() -> OpenApi {
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("trunkline")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(license));
    let tag = |name: &str, about: &str| TagBuilder::new().name(name).description(Some(about)).build();
    // What parameters alone name is not collected from the routes.
    let mut components = ComponentsBuilder::new()
        .schema_from::<Problem>()
        .schema_from::<schema::AdapterName>()
        .schema_from::<schema::FamilyWord>()
        .schema_from::<schema::DatasetFamilyWord>()
        .build();
    components
        .add_security_scheme("key", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()));
    OpenApiBuilder::new()
        .info(info.build())
        .servers(Some([ServerBuilder::new().url("/").build()]))
        .tags(Some([
            tag("inference", "Questions to adapters"),
            tag("admin", "Adapters, aliases, datasets, jobs, the backbone; wants a key with role `admin`"),
            tag("health", "Probes and metrics"),
        ]))
        .components(Some(components))
        .build()
}

/// Every response needs a description; where there is nothing to add, it is the status's own words.
fn described(mut document: OpenApi) -> OpenApi {
    let operations = document.paths.paths.values_mut().flat_map(operations);
    for (status, response) in operations.flat_map(|operation| &mut operation.responses.responses) {
        let words = status.parse().ok().and_then(|status: StatusCode| status.canonical_reason());
        if let (RefOr::T(response), Some(words)) = (response, words)
            && response.description.is_empty()
        {
            words.clone_into(&mut response.description);
        }
    }
    document
}

/// Where the server has an inference key, what asks adapters wants it; the probes want none.
fn keyed(mut document: OpenApi) -> OpenApi {
    let open = |path: &str| matches!(path, "/healthz" | "/readyz");
    let asking = document.paths.paths.iter_mut().filter(|(path, _)| !open(path));
    for operation in asking.flat_map(|(_, item)| operations(item)).filter(|operation| operation.security.is_none()) {
        operation.security = Some(vec![SecurityRequirement::default(), SecurityRequirement::new("key", NO_SCOPES)]);
    }
    document
}

const NO_SCOPES: [&str; 0] = [];

/// Says how many inputs this very server takes.
fn limited(mut document: OpenApi, inputs_max: usize) -> OpenApi {
    for name in [InputsSchema::name(), TextsSchema::name()] {
        let schema = document.components.as_mut().and_then(|components| components.schemas.get_mut(name.as_ref()));
        let Some(RefOr::T(Schema::OneOf(shapes))) = schema else { continue };
        for shape in &mut shapes.items {
            if let RefOr::T(Schema::Array(list)) = shape {
                (list.min_items, list.max_items) = (Some(1), Some(inputs_max));
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

/// `/openapi.json` and `/docs`, which asks nothing of the outside network.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(inputs_max: usize) -> Router<S> {
    let document: &'static str = Box::leak(document_json(inputs_max).into_boxed_str());
    let serve = move || async move { ([(CONTENT_TYPE, "application/json")], document).into_response() };
    let page = SwaggerUi::new("/docs").config(Config::from("/openapi.json").validator_url("none"));
    Router::new().route("/openapi.json", get(serve)).merge(page)
}

/// The failures every route may answer with.
pub(super) struct Failures;

impl IntoResponses for Failures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = BTreeMap::new();
        for kind in ErrorKind::ALL {
            let (status, _, title) = row(kind);
            let description = format!("{title}: `{}`", kind.code());
            responses.entry(status.as_u16().to_string()).or_insert_with(|| RefOr::T(problem(&description)));
        }
        responses
    }
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}
