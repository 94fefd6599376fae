//! The HTTP side of the one port: metrics, a health check for those who speak no gRPC, and an answer that says what
//! is where to everything else. Thin: it formats what others know.

mod metrics;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::metrics::Metrics;
use crate::partition::BoxFuture;

/// What the routes show.
#[derive(Clone)]
pub struct HttpParts {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Called before metrics are read, for those that nobody updates.
    pub refresh: Arc<dyn Fn(&Metrics) + Send + Sync>,
    /// Called before metrics are read, for those that must be asked for.
    pub gather: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    /// Whether the broker serves: not during recovery, and not while it stops.
    pub serving: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for HttpParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpParts").finish_non_exhaustive()
    }
}

/// All routes.
pub fn router(parts: HttpParts) -> Router {
    Router::new()
        .route("/metrics", get(metrics::scrape))
        .route("/metrics/kafka", get(metrics::kafka))
        .route("/healthz", get(healthz))
        .fallback(not_found)
        .with_state(parts)
}

async fn healthz(State(parts): State<HttpParts>) -> Response {
    let (status, text) = match (parts.serving)() {
        true => (StatusCode::OK, "serving\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not serving: recovering or stopping\n"),
    };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

async fn not_found(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).flat_map(char::escape_default).collect();
    let text = format!(
        "There is no {path} here. This is a sawlog broker:\n\
         gRPC (HTTP/2, package sawlog.v1, with reflection and health) on this port, and\n\
         /metrics   Prometheus metrics\n\
         /metrics/kafka   topics and groups by the names of kafka_exporter\n\
         /healthz   200 if it serves, else 503\n"
    );
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn get(path: &str, serving: bool) -> (StatusCode, String) {
        let parts = HttpParts {
            metrics: Metrics::new(false),
            refresh: Arc::new(|metrics| {
                metrics.in_flight_bytes.set(7);
            }),
            gather: Arc::new(|| Box::pin(async {})),
            serving: Arc::new(move || serving),
        };
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let Ok(response) = router(parts).oneshot(request).await;
            let status = response.status();
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            (status, String::from_utf8(body.to_vec()).expect("text"))
        })
    }

    #[test]
    fn metrics_are_refreshed_and_shown() {
        let (status, text) = get("/metrics", true);
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("sawlog_in_flight_bytes 7"), "{text}");
    }

    #[test]
    fn topics_and_groups_are_shown_by_the_names_of_kafka_exporters() {
        let (status, text) = get("/metrics/kafka", true);
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("# TYPE kafka_consumergroup_lag gauge"), "{text}");
    }

    #[test]
    fn health_follows_the_broker_and_unknown_paths_say_what_is_where() {
        assert_eq!(get("/healthz", true).0, StatusCode::OK);
        assert_eq!(get("/healthz", false).0, StatusCode::SERVICE_UNAVAILABLE);
        let (status, text) = get("/no%0Asuch", true);
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(text.contains("/metrics") && text.contains("/no%0Asuch"), "{text}");
    }
}
