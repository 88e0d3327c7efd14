//! Every HTTP route, by who may ask.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use tonic::Status;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::domain::Error;
use crate::transport::api::Api;
use crate::transport::auth::Role;
use crate::transport::error::Failure;
use crate::transport::{adapters, aliases, analyze, backbone, classify, datasets, embed, jobs, ner};
use crate::transport::{auth, console, grpc, health, middleware, openapi};

type Routes = OpenApiRouter<Arc<Api>>;

fn inference() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(ner::http::ner))
        .routes(routes!(classify::http::classify))
        .routes(routes!(analyze::http::analyze))
        .routes(routes!(embed::http::embed))
        .routes(routes!(adapters::http::list))
        .routes(routes!(adapters::http::get))
}

fn admin() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(adapters::http::publish, adapters::http::delete))
        .routes(routes!(adapters::http::activate))
        .routes(routes!(adapters::http::load))
        .routes(routes!(adapters::http::unload))
        .routes(routes!(adapters::http::pin))
        .routes(routes!(adapters::http::unpin))
        .routes(routes!(adapters::http::download))
        .routes(routes!(aliases::http::list))
        .routes(routes!(aliases::http::get, aliases::http::put, aliases::http::delete))
        .routes(routes!(datasets::http::list))
        .routes(routes!(datasets::http::put, datasets::http::get, datasets::http::delete))
        .routes(routes!(jobs::http::create, jobs::http::list))
        .routes(routes!(jobs::http::get))
        .routes(routes!(jobs::http::cancel))
        .routes(routes!(jobs::http::pause))
        .routes(routes!(jobs::http::resume))
        .routes(routes!(jobs::http::events))
        .routes(routes!(jobs::http::checkpoints))
        .routes(routes!(jobs::http::report))
        .routes(routes!(backbone::http::get))
        .routes(routes!(backbone::http::load))
        .routes(routes!(backbone::http::activate))
        .routes(routes!(backbone::http::retire))
}

fn probes() -> Routes {
    OpenApiRouter::new().routes(routes!(health::live)).routes(routes!(health::ready))
}

/// Names of adapters and labels are in them: who may ask is who may ask adapters.
fn metrics() -> Routes {
    OpenApiRouter::new().routes(routes!(health::metrics))
}

/// What each listener serves; without a listener of its own, admin is on the main one.
pub(super) struct Routers {
    pub(super) main: Router,
    pub(super) admin: Option<Router>,
}

pub(super) fn routers(api: &Arc<Api>, own_admin_listener: bool) -> Routers {
    let inference = demanding(Router::from(inference()), api, Role::Infer).merge(grpc::inference(api));
    let admin = demanding(Router::from(admin()), api, Role::Admin).merge(grpc::admin(api));
    let pages = openapi::routes(api.inputs_max).merge(console::routes());
    if own_admin_listener {
        let main = finished(api, inference.merge(pages));
        return Routers { main, admin: Some(finished(api, admin)) };
    }
    Routers { main: finished(api, inference.merge(admin).merge(pages)), admin: None }
}

pub(super) fn document() -> OpenApi {
    OpenApiRouter::<Arc<Api>>::with_openapi(openapi::head())
        .merge(inference())
        .merge(admin())
        .merge(probes())
        .merge(metrics())
        .into_openapi()
}

fn demanding(routes: Router<Arc<Api>>, api: &Arc<Api>, role: Role) -> Router<Arc<Api>> {
    routes.route_layer(from_fn_with_state((api.clone(), role), auth::demand))
}

/// The rest of a listener: probes, gRPC's own services, the fallback, and the stack around all of it.
fn finished(api: &Arc<Api>, routes: Router<Arc<Api>>) -> Router {
    let metrics = Router::from(metrics());
    let metrics = if api.metrics_public { metrics } else { demanding(metrics, api, Role::Infer) };
    routes
        .merge(Router::from(probes()))
        .merge(metrics)
        .merge(grpc::common(api))
        .fallback(unknown)
        .layer(DefaultBodyLimit::disable()) // `extract` bounds every body itself
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .layer(from_fn_with_state(api.clone(), middleware::account))
        .with_state(api.clone())
}

/// An unknown path, in the words of the protocol that asked.
async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    if middleware::is_grpc(request.headers()) {
        let failure = Error::not_found(format!("no method {path:?}; reflection lists them all"));
        return Status::unimplemented(failure.message()).into_http();
    }
    Failure(Error::not_found(format!("no route {path:?}; GET /openapi.json lists them all"))).into_response()
}
