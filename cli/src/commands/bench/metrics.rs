//! The broker's CPU time, from its `/metrics` page. Only for reports: whatever fails, there is no figure then.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// The most that is read of a page.
const PAGE_BYTES: u64 = 16 << 20;
/// How long connecting and each read may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// CPU seconds of the broker's process since its start, user and system.
pub(super) fn cpu_seconds(url: &str) -> Option<f64> {
    let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let socket = address.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&socket, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.take(PAGE_BYTES).read_to_string(&mut page).ok()?;
    value(&page, "process_cpu_seconds")
}

/// The value of the first sample whose name contains `name`.
fn value(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find(|line| !line.starts_with('#') && line.contains(name))?;
    line.rsplit(' ').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_found_below_its_help() {
        let page = "HTTP/1.1 200 OK\r\n\r\n# HELP sawlog_process_cpu_seconds CPU\n\
                    # TYPE sawlog_process_cpu_seconds counter\nsawlog_process_cpu_seconds_total 1.25\n# EOF\n";
        assert_eq!(value(page, "process_cpu_seconds"), Some(1.25));
        assert_eq!(value("", "process_cpu_seconds"), None);
    }
}
