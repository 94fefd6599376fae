//! Accepting, dealing and serving over sockets that the tests bring.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::clock::SystemClock;
use crate::config::BrokerConfig;
use crate::log::storage::SimDisk;
use crate::server::BrokerEnvironment;

fn engine() -> Arc<Engine> {
    let environment =
        BrokerEnvironment { clock: Arc::new(SystemClock::new()), storage: Some(SimDisk::new().storage()) };
    let mut config = BrokerConfig::default();
    config.storage.min_free_bytes = 1 << 20;
    config.storage.reserve_bytes = 1 << 20;
    let engine = Engine::open(config, environment).expect("an empty simulated disk opens");
    engine.wait_recovered();
    engine
}

/// An HTTP/1 request over a socket, and the whole answer.
async fn get(socket: &mut DuplexStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("the broker reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("the broker answers");
    answer
}

#[tokio::test]
async fn f5_failed_accepts_are_waited_out_and_accepting_goes_on() {
    let engine = tokio::task::spawn_blocking(engine).await.expect("no panic");
    let (send, sockets) = mpsc::channel(8);
    let server = Server::start(Accept::Stream(Box::new(ReceiverStream::new(sockets))), &engine, 2).expect("it starts");
    assert_eq!(server.local_addr(), None);
    for _ in 0..3 {
        // EMFILE, and a client that was gone before it was accepted.
        for error in [io::Error::from_raw_os_error(24), io::ErrorKind::ConnectionAborted.into()] {
            send.send(Err(error)).await.expect("it accepts on");
        }
        let (mut ours, theirs) = tokio::io::duplex(4 << 10);
        send.send(Ok(Socket::Other(Box::new(theirs)))).await.expect("it accepts on");
        let answer = get(&mut ours, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let (open, theirs) = tokio::io::duplex(4 << 10);
    send.send(Ok(Socket::Other(Box::new(theirs)))).await.expect("it accepts on");
    let stopped = tokio::task::spawn_blocking(move || server.drain(Duration::from_secs(5))).await;
    assert!(stopped.expect("no panic"), "a connection without a request does not hold up the stop");
    drop(open);
    assert!(tokio::task::spawn_blocking(move || engine.shutdown()).await.expect("no panic"));
}

#[tokio::test(start_paused = true)]
async fn who_sends_neither_protocol_in_time_is_cut() {
    let engine = tokio::task::spawn_blocking(engine).await.expect("no panic");
    let (draining, killed) = (CancellationToken::new(), CancellationToken::new());
    let services = Services::new(ServiceParts {
        topics: Arc::clone(engine.topics()),
        coordinator: Arc::clone(engine.coordinator()),
        letters: Arc::clone(engine.letters()),
        metrics: Arc::clone(engine.metrics()),
        clock: Arc::clone(engine.clock()),
        topic_defaults: default_config(&engine.config().topic_defaults),
        in_flight: engine.in_flight().clone(),
        auto_create_topics: false,
        draining: draining.clone(),
    });
    let (system, _) = health::services(engine.state());
    let entry = Entry { services, system, http: axum::Router::new(), draining: draining.clone() };
    for sent in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let (mut ours, theirs) = tokio::io::duplex(4 << 10);
        ours.write_all(sent).await.expect("there is room");
        let begun = tokio::time::Instant::now();
        connection::serve(theirs, entry.clone(), &Windows::default(), draining.clone()).await;
        assert_eq!(begun.elapsed().as_secs(), limits::PREFACE_DEADLINE.as_secs());
        assert_eq!(ours.read(&mut [0]).await.expect("the end"), 0, "it is closed");
    }
    drop(killed);
    tokio::task::spawn_blocking(move || drop(engine)).await.expect("no panic");
}

fn dealer(threads: usize, places: usize) -> (Dealer, Vec<mpsc::Receiver<(Socket, Place)>>) {
    let (workers, inboxes) = (0..threads)
        .map(|_| {
            let (send, inbox) = mpsc::channel(64);
            (Worker { send, open: Arc::default() }, inbox)
        })
        .unzip();
    let places = Arc::new(Semaphore::new(places));
    (Dealer { workers, places, metrics: Metrics::new(false) }, inboxes)
}

fn socket() -> (DuplexStream, Socket) {
    let (ours, theirs) = tokio::io::duplex(64);
    (ours, Socket::Other(Box::new(theirs)))
}

#[tokio::test]
async fn each_socket_goes_to_the_thread_with_the_fewest() {
    let (dealer, mut inboxes) = dealer(3, 100);
    let mut open = Vec::new();
    for _ in 0..9 {
        dealer.deal(socket().1).await;
    }
    for inbox in &mut inboxes {
        let mut own = Vec::new();
        while let Ok((_, place)) = inbox.try_recv() {
            own.push(place);
        }
        assert_eq!(own.len(), 3);
        open.push(own);
    }
    open[1].clear();
    for _ in 0..3 {
        dealer.deal(socket().1).await;
    }
    assert_eq!(inboxes.iter().map(mpsc::Receiver::len).collect::<Vec<_>>(), [0, 3, 0]);
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_and_one_that_ends_makes_room() {
    let (dealer, mut inboxes) = dealer(1, 1);
    dealer.deal(socket().1).await;
    let (mut refused, theirs) = socket();
    dealer.deal(theirs).await;
    assert_eq!(refused.read(&mut [0]).await.expect("the end"), 0);
    assert_eq!((dealer.metrics.refused_connections.get(), dealer.metrics.connections.get()), (1, 1));
    drop(inboxes[0].recv().await);
    assert_eq!(dealer.metrics.connections.get(), 0);
    dealer.deal(socket().1).await;
    assert_eq!((dealer.metrics.refused_connections.get(), dealer.metrics.connections.get()), (1, 1));
}
