//! Runs the binary once, or as a broker until the test ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a command may take to end, and a broker to become ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary, with no setting from the surroundings.
pub(crate) fn sawlog() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sawlog"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SAWLOG_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// What a finished run left.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// It ended with this exit code, and if not 0, with a line that says what to do next.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        let last = self.err.trim_end().lines().last().unwrap_or_default();
        assert!(
            code == 0 || last.starts_with("next: ") || last.starts_with("For more information"),
            "no next step: {}",
            self.err
        );
        self
    }

    /// The lines of its data as JSON.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

/// Runs the binary.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    let mut command = sawlog();
    command.args(arguments);
    run_with_input(command, b"")
}

/// Runs a command with this standard input. One that does not end, such as a broker that should not have started, is
/// killed and has failed.
pub(crate) fn run_with_input(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be run");
    let pid = child.id().to_string();
    let mut stdin = child.stdin.take().expect("it is a pipe");
    let input = input.to_vec();
    // It may end before it has read everything.
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let (tell, ended) = mpsc::channel();
    let waiting = std::thread::spawn(move || tell.send(child.wait_with_output()));
    let output = ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let _ = Command::new("kill").args(["-KILL", &pid]).status();
        panic!("it has not ended in {PATIENCE:?}: {command:?}")
    });
    let _ = writing.join().expect("the writer does not panic");
    let _ = waiting.join().expect("the waiter does not panic");
    output.expect("a child can be waited for").into()
}

/// A broker: the binary as a process, killed when dropped.
pub(crate) struct Broker {
    child: Child,
    pub(crate) url: String,
    said: mpsc::Receiver<String>,
    _folder: tempfile::TempDir,
}

impl Broker {
    /// `sawlog dev` on a fresh folder.
    pub(crate) fn dev() -> Self {
        Self::start(&["dev", "--ephemeral", "--port", "0"])
    }

    /// `sawlog serve` on this folder.
    pub(crate) fn serve(data_dir: &Path) -> Self {
        Self::start(&["serve", "--port", "0", "--data-dir", data_dir.to_str().expect("a plain path")])
    }

    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ready = folder.path().join("ready.json");
        let mut child = sawlog()
            .args(arguments)
            .arg("--ready-file")
            .arg(&ready)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be run");
        let lines = BufReader::new(child.stderr.take().expect("it is a pipe")).lines();
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        let mut before = String::new();
        loop {
            match said.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with("sawlog is ready") || line.contains("\"message\":\"ready\"") => break,
                Ok(line) => before.extend([line.as_str(), "\n"]),
                Err(error) => panic!("the broker is not ready ({error}): {before}"),
            }
        }
        let text = std::fs::read_to_string(&ready).expect("the ready file is there once it says ready");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("the ready file is JSON");
        assert_eq!(answer["pid"], child.id());
        Self { url: answer["url"].as_str().expect("a URL").to_owned(), child, said, _folder: folder }
    }

    /// A command for this broker.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sawlog();
        command.args(arguments).env("SAWLOG_URL", &self.url);
        command
    }

    /// Runs a command against this broker.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run_with_input(self.command(arguments), b"")
    }

    /// Runs a command with this standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> Ran {
        run_with_input(self.command(arguments), input.as_ref())
    }

    /// The path of its ready file.
    pub(crate) fn ready_file(&self) -> PathBuf {
        self._folder.path().join("ready.json")
    }

    /// Its address and port.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Sends a signal and waits until it has ended; returns its exit code and what it said since it was ready.
    pub(crate) fn stop(&mut self, signal: &str) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("kill can be run");
        assert!(sent.success());
        let code = self.child.wait().expect("a child can be waited for").code();
        // The pipe is closed now, so this ends.
        (code, self.said.iter().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
