//! Servers in processes of their own, so that their CPU and memory can be told from the load's.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::process_stats;
use crate::timing::{Stopwatch, pause};

/// How long a server may take until it answers or has stopped.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_micros(500);

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    url: String,
    clock: Stopwatch,
}

impl ServerProcess {
    /// Starts the null server.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn null(program: &Path) -> io::Result<Self> {
        let clock = Stopwatch::start();
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().expect("standard output was asked for");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let url = url_in(&line).ok_or_else(|| io::Error::other("the null server does not say where it listens"))?;
        Ok(Self { child, url, clock })
    }

    /// Starts the broker on a folder, with defaults otherwise: its data in `data`, its log lines in `broker.log`.
    ///
    /// # Errors
    /// The program cannot be started, or the broker refuses to.
    pub fn broker(program: &Path, folder: &Path) -> io::Result<Self> {
        let (ready, log) = (folder.join("ready.json"), folder.join("broker.log"));
        // That of a killed broker is still there.
        let _ = fs::remove_file(&ready);
        let lines = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let clock = Stopwatch::start();
        let mut child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.join("data"))
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(lines)
            .spawn()?;
        while clock.elapsed() < PATIENCE {
            // A file half written has no whole address yet.
            if let Some(url) = fs::read_to_string(&ready).ok().as_deref().and_then(url_in) {
                return Ok(Self { child, url, clock });
            }
            if let Some(status) = child.try_wait()? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(io::Error::other(format!("the broker ended before it was ready, {status}: {said}")));
            }
            pause(LOOK);
        }
        child.kill()?;
        Err(io::Error::other("the broker does not become ready"))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        self.url.clone()
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

    /// The value of one of its metrics, by name and labels as the Prometheus endpoint writes them.
    ///
    /// # Errors
    /// It does not answer, or has no such metric.
    pub fn metric(&self, name: &str) -> io::Result<f64> {
        let address = self.url.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(address)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.ok_or_else(|| io::Error::other(format!("no metric {name}")))
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

/// The URL of the first whole address of loopback in a text: one that something follows.
fn url_in(text: &str) -> Option<String> {
    let rest = &text[text.find("127.0.0.1:")?..];
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))?;
    Some(format!("http://{}", &rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::url_in;

    #[test]
    fn the_address_is_found_in_what_a_server_says() {
        let ready = r#"{"url":"http://127.0.0.1:4711","pid":7}"#;
        assert_eq!(url_in(ready).as_deref(), Some("http://127.0.0.1:4711"));
        assert_eq!(url_in("127.0.0.1:80\n").as_deref(), Some("http://127.0.0.1:80"));
        assert_eq!(url_in("recovering\n"), None);
    }

    #[test]
    fn an_address_that_is_still_being_written_is_none() {
        assert_eq!(url_in(r#"{"url":"http://127.0.0.1:47"#), None);
    }
}
