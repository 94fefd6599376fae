//! R: what loopback TCP gives two threads that answer each other.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use crate::stats::Latencies;
use crate::timing::Stopwatch;

/// Bytes of one message.
pub const ROUND_TRIP_BYTES: usize = 64;

/// Limit R: sends 64 bytes to another thread and waits for them to come back, `count` times.
///
/// # Errors
/// The sockets could not be made or used.
pub fn tcp_round_trips(count: u32) -> io::Result<Latencies> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> io::Result<()> {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut message = [0; ROUND_TRIP_BYTES];
        for _ in 0..count {
            socket.read_exact(&mut message)?;
            socket.write_all(&message)?;
        }
        Ok(())
    });
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let mut message = [7; ROUND_TRIP_BYTES];
    let mut latencies = Latencies::default();
    let clock = Stopwatch::start();
    for _ in 0..count {
        let before = clock.nanos();
        socket.write_all(&message)?;
        socket.read_exact(&mut message)?;
        latencies.record_ns(clock.nanos() - before);
    }
    echo.join().map_err(|_| io::Error::other("the echo thread panicked"))??;
    Ok(latencies)
}
