//! What stands around every request: a deadline, and a wall that a panic does not pass (rule F7).

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::time::Duration;

use http::HeaderMap;
use tonic::Status;

use super::status::{self, Problem};
use crate::limits::UNARY_DEADLINE;
use crate::metrics::Metrics;

/// Runs a request; a panic becomes BUG with an id that stands in the log too.
pub(super) async fn request<T>(
    metrics: &Metrics,
    request: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let mut request = pin!(request);
    std::future::poll_fn(|context| {
        poll(|| request.as_mut().poll(context)).unwrap_or_else(|bug| Err(bug.into_status(metrics)).into())
    })
    .await
}

/// Calls `poll`; a panic in it becomes BUG. What panicked must not be polled again.
pub(super) fn poll<T>(poll: impl FnOnce() -> T) -> Result<T, Problem> {
    catch_unwind(AssertUnwindSafe(poll)).map_err(|panic| {
        let error_id = uuid::Uuid::new_v4().to_string();
        tracing::error!(error_id, panic = text_of(&*panic), "a panic ended a request");
        status::bug(&error_id)
    })
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}

/// How long a unary call may take: what its client says in `grpc-timeout`, at most the limit.
pub(super) fn deadline(headers: &HeaderMap) -> Duration {
    let asked = headers.get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
    asked.map_or(UNARY_DEADLINE, |asked| asked.min(UNARY_DEADLINE))
}

/// At most eight digits and a unit, as the gRPC specification has it.
fn parse_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Awaits `call` for at most `deadline`.
pub(super) async fn within<F: Future>(deadline: Duration, call: F) -> Result<F::Output, Problem> {
    let call: Pin<&mut F> = pin!(call);
    tokio::time::timeout(deadline, call).await.map_err(|_| status::request_timeout(deadline))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f7_a_panic_becomes_a_bug_with_an_error_id() {
        let metrics = Metrics::new(false);
        let panicking = async { if metrics.encode().is_empty() { Ok(()) } else { panic!("broken") } };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let status = runtime.block_on(request(&metrics, panicking)).expect_err("a bug");
        assert_eq!(status.code(), tonic::Code::Internal);
        assert!(!status.message().contains("broken"), "what panicked stays in the log");
    }

    #[test]
    fn a_timeout_is_read_as_the_specification_says_and_never_beyond_the_limit() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().expect("a header"));
            deadline(&headers)
        };
        assert_eq!(read("20m"), Duration::from_millis(20));
        assert_eq!(read("1S"), Duration::from_secs(1));
        assert_eq!(read("99999999H"), UNARY_DEADLINE);
        for nonsense in ["", "m", "-1m", "1x", "999999999S", "1 m"] {
            assert_eq!(read(nonsense), UNARY_DEADLINE, "{nonsense:?}");
        }
        assert_eq!(deadline(&HeaderMap::new()), UNARY_DEADLINE);
    }
}
