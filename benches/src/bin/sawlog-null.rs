//! The null server in a process of its own: prints its address, ends when its standard input does.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};

use sawlog_benches::null_server;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;
    std::thread::spawn(|| {
        // It lives no longer than who started it, however that one ends.
        let _ = std::io::stdin().read(&mut [0; 1]);
        std::process::exit(0);
    });
    null_server::serve(listener)
}
