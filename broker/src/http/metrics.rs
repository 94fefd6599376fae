//! `/metrics`: all metrics as OpenMetrics text.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::HttpParts;
use crate::metrics::CONTENT_TYPE;

pub(super) async fn scrape(State(parts): State<HttpParts>) -> Response {
    (parts.refresh)(&parts.metrics);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], parts.metrics.encode()).into_response()
}
