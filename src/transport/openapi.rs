//! The OpenAPI document, merged from the resources, and the page that shows it.

use std::collections::BTreeMap;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder, ServerBuilder,
};
use utoipa::{IntoResponses, ToSchema as _};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::domain::ErrorKind;
use crate::transport::error::{Problem, row};
use crate::transport::http;

const DESCRIPTION: &str = "Named entities and text classes from LoRA adapters over one resident encoder, and the training \
of those adapters. Every answer carries `x-request-id` and `server-timing`; every failure is `application/problem+json` with a `code`.";

/// The OpenAPI document, pretty-printed with a final newline.
pub fn openapi_json() -> String {
    let mut json = described(http::document()).to_pretty_json().expect("the document is plain data");
    json.push('\n');
    json
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
    let mut components = ComponentsBuilder::new().schema_from::<Problem>().build();
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
    let operations = document
        .paths
        .paths
        .values_mut()
        .flat_map(|item| [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten());
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

/// `/openapi.json` and `/docs`, which asks nothing of the outside network.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let document: &'static str = Box::leak(openapi_json().into_boxed_str());
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
