//! Serves the null server as the broker serves: a single-threaded runtime per core, sockets dealt out in turn.

use std::io;
use std::net::TcpListener;

use sawlog_broker::limits;
use sawlog_proto::v1::produce_service_server::ProduceServiceServer;
use sawlog_proto::v1::topic_service_server::TopicServiceServer;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use super::NullState;
use super::read::NullRead;

/// Sockets that may wait for a runtime.
const ACCEPTED: usize = 1_024;
/// Windows of a connection that has the broker to itself.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Serves until the process ends.
///
/// # Errors
/// The listener fails, or a thread or runtime cannot be made.
pub fn serve(listener: TcpListener) -> io::Result<()> {
    let state = NullState::default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut runtimes = Vec::new();
    for number in 0..cores {
        let (sender, sockets) = mpsc::channel(ACCEPTED);
        let state = state.clone();
        std::thread::Builder::new().name(format!("null-{number}")).spawn(move || run(state, sockets))?;
        runtimes.push(sender);
    }
    for (number, socket) in listener.incoming().enumerate() {
        let socket = socket?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        if runtimes[number % cores].blocking_send(socket).is_err() {
            return Err(io::Error::other("a runtime of the null server has ended"));
        }
    }
    Ok(())
}

fn run(state: NullState, sockets: mpsc::Receiver<std::net::TcpStream>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let produce = ProduceServiceServer::new(state.clone())
            .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES);
        Server::builder()
            .max_frame_size(limits::HTTP2_FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
            .add_service(TopicServiceServer::new(state.clone()))
            .add_service(produce)
            .add_service(NullRead::new(state))
            .serve_with_incoming(ReceiverStream::new(sockets).map(TcpStream::from_std))
            .await
            .map_err(io::Error::other)
    })
}
