//! Every gRPC service, by who may ask.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use futures_util::stream::BoxStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tonic_reflection::server::Builder as Reflection;

use crate::transport::api::Api;
use crate::transport::auth::Role;
use crate::transport::proto::admin_server::{Admin, AdminServer};
use crate::transport::proto::inference_server::{Inference, InferenceServer};
use crate::transport::rpc::{each, open, unary};
use crate::transport::{adapters, aliases, analyze, backbone, classify, datasets, embed, jobs, ner};
use crate::transport::{auth, health, proto};

/// The services' state; each method is one line below.
#[derive(Clone)]
struct Service(Arc<Api>);

/// An implementation of a service: a table of unary methods, then its streaming ones in full.
macro_rules! service {
    ($trait:ident { $($method:ident: $request:ident => $response:ident = $handler:path;)* } $($streaming:tt)*) => {
        #[tonic::async_trait]
        impl $trait for Service {
            $(async fn $method(
                &self,
                request: Request<proto::$request>,
            ) -> Result<Response<proto::$response>, Status> {
                unary(&self.0, request, $handler).await
            })*
            $($streaming)*
        }
    };
}

service! {
    Inference {
        ner: NerRequest => NerResponse = ner::ner;
        classify: ClassifyRequest => ClassifyResponse = classify::classify;
        analyze: AnalyzeRequest => AnalyzeResponse = analyze::analyze;
        embed: EmbedRequest => EmbedResponse = embed::embed;
        list_adapters: ListAdaptersRequest => ListAdaptersResponse = adapters::list;
    }

    type NerStreamStream = BoxStream<'static, Result<proto::NerStreamResponse, Status>>;

    async fn ner_stream(
        &self,
        request: Request<Streaming<proto::NerStreamRequest>>,
    ) -> Result<Response<Self::NerStreamStream>, Status> {
        let (call, messages) = open(&self.0, request)?;
        Ok(Response::new(each(call, messages, ner::ner_stream)))
    }

    type ClassifyStreamStream = BoxStream<'static, Result<proto::ClassifyStreamResponse, Status>>;

    async fn classify_stream(
        &self,
        request: Request<Streaming<proto::ClassifyStreamRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        let (call, messages) = open(&self.0, request)?;
        Ok(Response::new(each(call, messages, classify::classify_stream)))
    }
}

service! {
    Admin {
        publish_adapter: PublishAdapterRequest => PublishedVersion = adapters::publish;
        delete_adapter: DeleteAdapterRequest => DeleteAdapterResponse = adapters::delete;
        activate_adapter: ActivateAdapterRequest => Adapter = adapters::activate;
        load_adapter: AdapterVersionRequest => Adapter = adapters::load;
        unload_adapter: AdapterVersionRequest => Adapter = adapters::unload;
        pin_adapter: AdapterNameRequest => Adapter = adapters::pin;
        unpin_adapter: AdapterNameRequest => Adapter = adapters::unpin;
        download_adapter: AdapterVersionRequest => DownloadAdapterResponse = adapters::download;
        list_aliases: ListAliasesRequest => ListAliasesResponse = aliases::list;
        get_alias: AliasRequest => Alias = aliases::get;
        put_alias: Alias => Alias = aliases::put;
        delete_alias: AliasRequest => DeleteAliasResponse = aliases::delete;
        put_dataset: PutDatasetRequest => DatasetSplit = datasets::put;
        list_datasets: ListDatasetsRequest => ListDatasetsResponse = datasets::list;
        get_dataset: DatasetRequest => Dataset = datasets::get;
        delete_dataset: DatasetRequest => DeleteDatasetResponse = datasets::delete;
        create_job: CreateJobRequest => Job = jobs::create;
        list_jobs: ListJobsRequest => ListJobsResponse = jobs::list;
        get_job: JobRequest => Job = jobs::get;
        cancel_job: JobRequest => Job = jobs::cancel;
        pause_job: JobRequest => Job = jobs::pause;
        resume_job: JobRequest => Job = jobs::resume;
        list_job_events: ListJobEventsRequest => ListJobEventsResponse = jobs::events;
        list_checkpoints: JobRequest => ListCheckpointsResponse = jobs::checkpoints;
        get_report: JobRequest => GetReportResponse = jobs::report;
        get_backbone: GetBackboneRequest => Backbone = backbone::get;
        load_backbone: LoadBackboneRequest => Backbone = backbone::load;
        activate_backbone: ActivateBackboneRequest => Backbone = backbone::activate;
        retire_backbone: RetireBackboneRequest => Backbone = backbone::retire;
    }

    type WatchJobStream = BoxStream<'static, Result<proto::JobEvent, Status>>;

    async fn watch_job(
        &self,
        request: Request<proto::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        unary(&self.0, request, jobs::watch).await
    }
}

/// Questions to adapters.
pub(super) fn inference(api: &Arc<Api>) -> Router<Arc<Api>> {
    let service = InferenceServer::new(Service(api.clone()))
        .max_decoding_message_size(api.body_bytes_max)
        .max_encoding_message_size(usize::MAX);
    demanding(Routes::new(service), api, Role::Infer)
}

pub(super) fn admin(api: &Arc<Api>) -> Router<Arc<Api>> {
    let service = AdminServer::new(Service(api.clone()))
        .max_decoding_message_size(api.upload_bytes_max)
        .max_encoding_message_size(usize::MAX);
    demanding(Routes::new(service), api, Role::Admin)
}

/// Health and reflection, open to all.
pub(super) fn common(api: &Arc<Api>) -> Router<Arc<Api>> {
    let health = health::grpc_service(&api.services.health, api.services.metrics.clone());
    let reflection = || {
        Reflection::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().expect("descriptors are compiled in");
    // What grpcurl before 1.8.8 and Python's grpcio-reflection still ask.
    let v1alpha = reflection().build_v1alpha().expect("descriptors are compiled in");
    router(Routes::new(health).add_service(v1).add_service(v1alpha))
}

fn demanding(routes: Routes, api: &Arc<Api>, role: Role) -> Router<Arc<Api>> {
    router(routes).route_layer(from_fn_with_state((api.clone(), role), auth::demand))
}

/// Without tonic's fallback, which would answer every unknown path as gRPC.
fn router(routes: Routes) -> Router<Arc<Api>> {
    routes.prepare().into_axum_router().reset_fallback().with_state(())
}
