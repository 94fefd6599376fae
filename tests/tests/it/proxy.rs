//! A TCP proxy in front of a broker that cuts connections without a word, as a network does.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Connections at once, more than any test has.
const CONNECTIONS: usize = 64;

/// One proxy; gone when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of a broker at `url`.
    pub(crate) async fn before(url: &str) -> Self {
        let target: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, _) = watch::channel(0);
        let accepting = tokio::spawn(accept(listener, target, cuts.clone()));
        Self { address, cuts, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts every connection there is, wherever its bytes are; new ones are let through.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, cuts: watch::Sender<u64>) {
    let mut running = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while running.try_join_next().is_some() {}
        if running.len() < CONNECTIONS {
            running.spawn(carry(client, target, cuts.subscribe()));
        }
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, mut cut: watch::Receiver<u64>) {
    let Ok(mut broker) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut broker) => {}
        _ = cut.changed() => {}
    }
}
