//! grpc.health.v1 and grpc.reflection (v1 and v1alpha): what tools ask before they ask us.
//!
//! The health of the whole (the empty name) and of each service follows the state of the engine: not serving during
//! recovery, and not while it stops.

use std::future::Future;

use sawlog_proto::v1::DESCRIPTOR_SET;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use super::engine::EngineState;
use crate::grpc::SERVICE_NAMES;

/// The services of the system: health and reflection; and the future that keeps health true.
pub(super) fn services(state: watch::Receiver<EngineState>) -> (Routes, impl Future<Output = ()> + Send) {
    let reporter = HealthReporter::new();
    let health = HealthService::from_health_reporter(reporter.clone());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().expect("the descriptors are those that the services were generated from");
    let v1alpha = reflection().build_v1alpha().expect("the descriptors are those of v1");
    let routes = Routes::new(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(v1)
        .add_service(v1alpha)
        .prepare();
    (routes, follow(reporter, state))
}

async fn follow(reporter: HealthReporter, mut state: watch::Receiver<EngineState>) {
    loop {
        let status = match *state.borrow_and_update() {
            EngineState::Serving => ServingStatus::Serving,
            EngineState::Recovering | EngineState::Draining | EngineState::Stopped => ServingStatus::NotServing,
        };
        reporter.set_service_status("", status).await;
        for name in SERVICE_NAMES {
            reporter.set_service_status(name, status).await;
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}
