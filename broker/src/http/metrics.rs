//! `/metrics`: all metrics as OpenMetrics text; `/metrics/kafka`: lag by the names that existing boards know.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::HttpParts;
use crate::metrics::CONTENT_TYPE;

pub(super) async fn scrape(State(parts): State<HttpParts>) -> Response {
    (parts.gather)().await;
    (parts.refresh)(&parts.metrics);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], parts.metrics.encode()).into_response()
}

/// Media type of the Prometheus text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn kafka(State(parts): State<HttpParts>) -> Response {
    (parts.gather)().await;
    ([(header::CONTENT_TYPE, PROMETHEUS)], parts.metrics.encode_kafka()).into_response()
}
