//! Servers in processes of their own, so that their CPU and memory can be told from the load's.

use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::process_stats;
use crate::timing::{Stopwatch, pause};

/// How long a server may take until it answers or has stopped.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(1);

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    address: SocketAddr,
    clock: Stopwatch,
}

impl ServerProcess {
    /// Starts the null server.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn null(program: &Path) -> io::Result<Self> {
        Self::start(Command::new(program).stdin(Stdio::piped()))
    }

    /// Starts the broker on a data directory, with defaults otherwise.
    ///
    /// # Errors
    /// The program cannot be started, or the broker refuses to.
    pub fn broker(program: &Path, data_dir: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("serve").arg("--listen").arg("127.0.0.1:0").arg("--data-dir").arg(data_dir);
        Self::start(command.stdin(Stdio::null()))
    }

    fn start(command: &mut Command) -> io::Result<Self> {
        let clock = Stopwatch::start();
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().expect("standard output was asked for");
        let mut lines = BufReader::new(out).lines();
        let address = loop {
            match lines.next() {
                Some(line) => {
                    if let Some(address) = address_in(&line?) {
                        break address;
                    }
                }
                None => {
                    let status = child.wait()?;
                    return Err(io::Error::other(format!("the server ended before it listened: {status}")));
                }
            }
        };
        // Whatever it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address, clock })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Time since it was started.
    pub fn since_start(&self) -> Duration {
        self.clock.elapsed()
    }

    /// CPU seconds that it has used so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        process_stats::cpu_seconds(self.pid())
    }

    /// Resident memory in MiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_mib(&self) -> io::Result<f64> {
        Ok(process_stats::resident_bytes(self.pid())? as f64 / f64::from(1 << 20))
    }

    /// Kills it, as a crash would.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// It does not stop in two minutes, or ends with an error.
    pub fn stop(mut self) -> io::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("no process id"))?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let clock = Stopwatch::start();
        while clock.elapsed() < PATIENCE {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(io::Error::other(format!("the server stopped with {status}"))),
                None => pause(LOOK),
            }
        }
        Err(io::Error::other("the server does not stop"))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program beside the running one: a benchmark lies in `deps`, one below the binaries.
///
/// # Errors
/// There is none; the message says how to build it.
pub fn sibling(name: &str) -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| io::Error::other(format!("no program {name}: cargo build --release --bins")))
}

/// The first address of loopback in a line.
fn address_in(line: &str) -> Option<SocketAddr> {
    let start = line.find("127.0.0.1:")?;
    let rest = &line[start..];
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::address_in;

    #[test]
    fn the_address_is_found_in_what_a_server_says() {
        assert_eq!(address_in("listening on http://127.0.0.1:4711/").map(|address| address.port()), Some(4711));
        assert_eq!(address_in("127.0.0.1:80").map(|address| address.port()), Some(80));
        assert_eq!(address_in("recovering"), None);
    }
}
