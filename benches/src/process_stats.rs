//! CPU time and memory of a process, as the kernel counts them.

use std::fs;
use std::io;

/// Ticks of `/proc/<pid>/stat` a second: fixed by the kernel's interface to user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds that a process has used so far, user and system, all threads, dead ones included; to 10 ms.
///
/// # Errors
/// The process is gone, or this is no Linux.
pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_cpu_ticks(&stat)
        .map(|ticks| ticks as f64 / TICKS_PER_SECOND)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no CPU times in stat"))
}

/// Resident memory in bytes.
///
/// # Errors
/// The process is gone, or this is no Linux.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most resident memory that the process ever had, in bytes.
///
/// # Errors
/// The process is gone, or this is no Linux.
pub fn peak_resident_bytes(pid: u32) -> io::Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// Resident memory that is not backed by files, in bytes: what only this process can give back.
///
/// # Errors
/// The process is gone, or this is no Linux.
pub fn anonymous_bytes(pid: u32) -> io::Result<u64> {
    status_bytes(pid, "RssAnon:")
}

fn status_bytes(pid: u32, field: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse_status_kib(&status, field)
        .map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no {field} in status")))
}

/// The name of the process, in parentheses, may hold anything: the fields are counted after the last one.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let fields = stat.rsplit_once(')')?.1;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some(user + system)
}

fn parse_status_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{parse_cpu_ticks, parse_status_kib};

    #[test]
    fn the_cpu_times_are_found_behind_an_odd_process_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 500 0 3 0 120 30 0 0 20 0 9 0 100 200 300";
        assert_eq!(parse_cpu_ticks(stat), Some(150));
        assert_eq!(parse_cpu_ticks("42 (x) S 1"), None);
    }

    #[test]
    fn the_memory_is_read_in_kibibytes() {
        let status = "Name:\tsawlog\nVmRSS:\t   12345 kB\nRssAnon:\t 99 kB\n";
        assert_eq!(parse_status_kib(status, "VmRSS:"), Some(12_345));
        assert_eq!(parse_status_kib(status, "VmSwap:"), None);
    }
}
