//! The real `sawlog` binary as a process of its own, on a temporary folder and port 0.
//!
//! It owns the child: at most one at a time, killed when dropped. It must not know the broker's library.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use sawlog_client::Client;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long a start or a stop may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker in its own process.
#[derive(Debug)]
pub struct BrokerProcess {
    child: Option<Child>,
    address: String,
    folder: TempDir,
    arguments: Vec<String>,
}

impl BrokerProcess {
    /// Builds the binary if need be and starts it on a new folder.
    ///
    /// # Panics
    /// If it cannot be built or does not become ready in 30 s.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more arguments of `sawlog serve`.
    ///
    /// # Panics
    /// If it cannot be built or does not become ready in 30 s.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut process = Self { child: None, address: "127.0.0.1:0".to_owned(), folder, arguments };
        process.restart().await;
        process
    }

    /// Where it listens. The same after a restart.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A new client of it.
    ///
    /// # Panics
    /// Never: the address of a socket is a URL.
    pub fn client(&self) -> Client {
        Client::builder(self.url()).connect_lazy().expect("the address of a socket is a URL")
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Id of the process, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// kill -9, and waits until it is gone.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("the broker runs");
        child.kill().await.expect("a child can be killed");
    }

    /// Asks it to stop (SIGTERM) without waiting.
    ///
    /// # Panics
    /// If it does not run.
    pub fn terminate(&self) {
        let id = self.id().expect("the broker runs");
        let status = std::process::Command::new("kill").args(["-TERM", &id.to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "the signal is delivered");
    }

    /// Waits until it has ended by itself; returns its exit code.
    ///
    /// # Panics
    /// If it does not run, or not end in 30 s.
    pub async fn wait(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the broker runs");
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("the broker ends in 30 s");
        ended.expect("a child can be waited for").code()
    }

    /// Starts it, on the same folder and port as before if it ran before. One that runs is killed first.
    ///
    /// # Panics
    /// If it does not become ready in 30 s.
    pub async fn restart(&mut self) {
        if self.child.is_some() {
            self.kill().await;
        }
        let ready = self.folder.path().join("ready");
        match std::fs::remove_file(&ready) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{}: {error}", ready.display()),
            _ => {}
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log"));
        let mut command = Command::new(binary());
        // Settings of the tests are none of the broker's, which refuses what it does not know.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SAWLOG_")) {
            command.env_remove(name);
        }
        let mut child = command
            .arg("serve")
            .args(["--port", self.address.rsplit_once(':').map_or("0", |(_, port)| port)])
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--ready-file")
            .arg(&ready)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log.expect("the folder can be written")))
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be run");
        self.address = self.wait_ready(&mut child, &ready).await;
        self.child = Some(child);
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The ready file has the address; it appears whole, by a rename.
    async fn wait_ready(&self, child: &mut Child, ready: &Path) -> String {
        let appeared = async {
            loop {
                match std::fs::read_to_string(ready) {
                    Ok(text) if !text.trim().is_empty() => return text,
                    _ => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        tokio::select! {
            text = appeared => address_in(&text),
            status = child.wait() => panic!("the broker ended at start: {status:?}\n{}", self.log()),
            () = tokio::time::sleep(PATIENCE) => panic!("the broker is not ready after 30 s\n{}", self.log()),
        }
    }
}

/// The ready file is JSON: `{"url": "http://host:port", "pid": 1}`.
fn address_in(text: &str) -> String {
    let ready: serde_json::Value = serde_json::from_str(text).expect("the ready file is JSON");
    let url = ready["url"].as_str().expect("the ready file has the URL");
    url.trim_start_matches("http://").to_owned()
}

/// The binary: `SAWLOG_BIN`, or built by cargo from this workspace, once.
///
/// # Panics
/// If it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("SAWLOG_BIN") {
            return path.into();
        }
        build()
    })
}

/// Beside this test's own binary: `target/<profile>/deps/<test>` leads to `target/<profile>/sawlog`.
fn build() -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its file");
    let profile = own.ancestors().nth(2).expect("a test lies in target/<profile>/deps");
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "sawlog", "--bin", "sawlog"]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo
        .arg("--target-dir")
        .arg(profile.parent().expect("a profile lies in the target folder"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo can be run");
    assert!(status.success(), "the binary is built");
    let path = profile.join(format!("sawlog{}", std::env::consts::EXE_SUFFIX));
    assert!(path.is_file(), "{} is there", path.display());
    path
}
