//! One accepted socket: which protocol it speaks, and serving it with the limits of a connection.
//!
//! The first bytes decide: the preface of HTTP/2 goes to gRPC, anything else to the HTTP routes. A client that sends
//! neither in time is cut. It knows no listener and no thread.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tower::Service as _;

use super::windows::Windows;
use crate::grpc::{self, Services, StreamCut};
use crate::limits;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) services: Services,
    /// Health and reflection.
    pub(super) system: tonic::service::Routes,
    pub(super) http: axum::Router,
    pub(super) draining: CancellationToken,
}

impl Entry {
    async fn call(&self, request: Request<Incoming>, connection: &grpc::Connection) -> Response<Body> {
        let path = request.uri().path();
        if path.starts_with(grpc::PATH_PREFIX) {
            return self.services.call(request, connection).await;
        }
        if path.starts_with("/grpc.") {
            let Ok(response) = self.system.clone().call(request).await;
            let drained = Box::pin(self.draining.clone().cancelled_owned());
            return response.map(|body| Body::new(UntilDrained { body, drained }));
        }
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            return tonic::Status::unimplemented("there is no such service here").into_http();
        }
        self.http(request).await
    }

    async fn http(&self, request: Request<Incoming>) -> Response<Body> {
        let Ok(response) = self.http.clone().call(request.map(axum::body::Body::new)).await;
        response.map(Body::new)
    }
}

/// Serves a socket until it is closed, or until everything on it has ended after `draining`.
pub(super) async fn serve<I>(mut io: I, entry: Entry, windows: &Windows, draining: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let sniffed = tokio::time::timeout(limits::PREFACE_DEADLINE, sniff(&mut io));
    let sniffed = tokio::select! {
        sniffed = sniffed => sniffed,
        () = draining.cancelled() => return,
    };
    let Ok(Ok(Some((http2, start)))) = sniffed else {
        tracing::debug!("a connection sent no request in time");
        return;
    };
    let io = Prefixed { start, io };
    let result =
        if http2 { serve_http2(io, entry, windows, draining).await } else { serve_http1(io, entry, draining).await };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Reads until it is clear whether this is HTTP/2; `None` if the client closes before.
async fn sniff(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(bool, Bytes)>> {
    let (mut start, mut len) = ([0; PREFACE.len()], 0);
    while start[..len] == PREFACE[..len] {
        if len == PREFACE.len() {
            return Ok(Some((true, Bytes::copy_from_slice(&start))));
        }
        match io.read(&mut start[len..]).await? {
            0 => return Ok(None),
            read => len += read,
        }
    }
    Ok(Some((false, Bytes::copy_from_slice(&start[..len]))))
}

async fn serve_http2<I>(
    io: Prefixed<I>,
    entry: Entry,
    windows: &Windows,
    draining: CancellationToken,
) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let grant = windows.grant();
    let streams = Streams::default();
    let mut builder = hyper::server::conn::http2::Builder::new(streams.clone());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(grant.stream)
        .initial_connection_window_size(grant.connection)
        .max_frame_size(limits::HTTP2_FRAME_BYTES)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(limits::PENDING_RESET_STREAMS)
        .max_local_error_reset_streams(limits::LOCAL_ERROR_RESETS)
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
    let connection = entry.services.connection();
    let service = service_fn(move |request| {
        let (entry, connection) = (entry.clone(), connection.clone());
        async move { Ok::<_, Infallible>(entry.call(request, &connection).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let (mut told, mut begun) = (false, 0);
    loop {
        tokio::select! {
            result = connection.as_mut() => return result,
            () = draining.cancelled(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(limits::IDLE_CONNECTION), if !told => {
                let (open, since) = streams.counts();
                if open == 0 && since == begun {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                begun = since;
            }
        }
    }
}

async fn serve_http1<I>(io: Prefixed<I>, entry: Entry, draining: CancellationToken) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let entry = entry.clone();
        async move { Ok::<_, Infallible>(entry.http(request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits::PREFACE_DEADLINE);
    builder.max_buf_size(limits::HEADER_LIST_BYTES as usize);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        result = connection.as_mut() => return result,
        () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// The body of an answer of the system's services: a watch of health would hold up a stop for ever.
struct UntilDrained {
    body: Body,
    drained: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for UntilDrained {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        match Pin::new(&mut self.body).poll_frame(task) {
            // What it still has to say goes first.
            Poll::Pending if self.drained.as_mut().poll(task).is_ready() => {
                Poll::Ready(Some(Err(tonic::Status::unavailable("the broker is shutting down"))))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Runs the streams of one connection, counts them, and lets each be cut.
#[derive(Debug, Clone, Default)]
struct Streams(Arc<StreamCounts>);

#[derive(Debug, Default)]
struct StreamCounts {
    open: AtomicUsize,
    begun: AtomicUsize,
}

struct OpenStream(Arc<StreamCounts>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Streams {
    /// Streams open now, and streams begun in all.
    fn counts(&self) -> (usize, usize) {
        (self.0.open.load(Ordering::Relaxed), self.0.begun.load(Ordering::Relaxed))
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        let open = OpenStream(Arc::clone(&self.0));
        // Ends with its connection: what hyper waits for on a graceful stop, and drops otherwise.
        tokio::spawn(async move {
            let _open = open;
            StreamCut::run(stream).await;
        });
    }
}

/// A socket whose first bytes were read already.
struct Prefixed<I> {
    start: Bytes,
    io: I,
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.start.is_empty() {
            return Pin::new(&mut self.io).poll_read(task, out);
        }
        let count = self.start.len().min(out.remaining());
        out.put_slice(&self.start.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefixed<I> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(task, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}
