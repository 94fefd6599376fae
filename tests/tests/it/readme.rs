//! Runs what the README tells people to paste, against the real binary.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use sawlog_testing::process;

/// How long the broker may take to become ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// A block of the README: lines to paste, or what they print.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    language: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is a folder of the workspace")
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("the README is there")
}

/// The fenced blocks of a text.
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some(Block { language: language.to_owned(), text: String::new() }),
            (Some(_), Some(block)) => found.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    found
}

/// The part of the README under this heading.
fn section<'a>(readme: &'a str, heading: &str) -> &'a str {
    let start = readme.find(heading).unwrap_or_else(|| panic!("the README has {heading}"));
    let rest = &readme[start + heading.len()..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

/// `sawlog dev` of the README, on a free port and a fresh folder; stopped when dropped.
struct Dev {
    child: Child,
    url: String,
    said: mpsc::Receiver<String>,
}

impl Dev {
    fn start(command: &str, folder: &Path) -> Self {
        let arguments = command.trim().strip_prefix("sawlog ").expect("the block starts the broker");
        let ready = folder.join("ready.json");
        let mut child = Command::new(process::binary())
            .args(arguments.split_whitespace())
            .args(["--port", "0", "--ephemeral", "--ready-file"])
            .arg(&ready)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be run");
        let lines = BufReader::new(child.stderr.take().expect("it is a pipe")).lines();
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        let mut dev = Self { child, url: String::new(), said };
        let mut before = String::new();
        loop {
            match dev.said.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with("sawlog is ready") => break,
                Ok(line) => before.extend([line.as_str(), "\n"]),
                Err(error) => panic!("the broker is not ready ({error}): {before}"),
            }
        }
        let text = std::fs::read_to_string(&ready).expect("the ready file is whole");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("the ready file is JSON");
        dev.url = answer["url"].as_str().expect("it has the URL").to_owned();
        dev
    }

    /// What it has said since the last call.
    fn log(&self) -> String {
        self.said.try_iter().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs lines as a shell would, with our binary first in its path.
fn paste(lines: &str, folder: &Path, url: &str) -> Output {
    let binaries = process::binary().parent().expect("a binary lies in a folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(binaries).chain(std::env::split_paths(&path)).collect::<Vec<PathBuf>>();
    Command::new("bash")
        .args(["-euo", "pipefail", "-c", lines])
        .current_dir(folder)
        .env("PATH", std::env::join_paths(paths).expect("paths of this machine can be joined"))
        .env("SAWLOG_URL", url)
        .stdin(Stdio::null())
        .output()
        .expect("bash can be run")
}

#[test]
fn the_first_five_minutes_of_the_readme_print_what_it_says() {
    let readme = readme();
    let blocks = blocks(section(&readme, "## The first five minutes"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut shell = blocks.iter().enumerate().filter(|(_, block)| block.language == "sh");
    let (_, install) = shell.next().expect("how to install");
    assert_eq!(install.text, "cargo install --path cli\n");
    let (_, start) = shell.next().expect("how to start");
    let dev = Dev::start(&start.text, folder.path());
    let mut compared = 0;
    for (index, block) in shell {
        let output = paste(&block.text, folder.path(), &dev.url);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{errors}\n{}", block.text, dev.log());
        if let Some(expected) = blocks.get(index + 1).filter(|next| next.language == "text") {
            // What the lines before the last one print of themselves, such as a new topic's settings, is not shown.
            let found = String::from_utf8_lossy(&output.stdout);
            assert!(found.ends_with(&expected.text), "{}\nprinted\n{found}\n{errors}", block.text);
            compared += 1;
        }
    }
    assert!(compared >= 5, "only {compared} blocks have what they print beside them");
}

#[test]
fn ci_runs_the_commands_of_the_readme() {
    let readme = readme();
    let blocks = blocks(section(&readme, "## Build and run"));
    let commands: Vec<_> =
        blocks.iter().filter(|block| block.language == "sh").map(|block| block.text.trim()).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    let ci = std::fs::read_to_string(root().join(".ci/run")).expect("the script is there");
    // Of a command with settings before it, the command.
    let lines: Vec<_> = commands.iter().filter_map(|command| command.lines().last()).map(str::trim).collect();
    for line in &lines {
        assert!(ci.lines().any(|one| one == *line), "{line} is not in .ci/run");
    }
    let (_, last) = ci.rsplit_once("\nstep ").expect("the script has steps");
    assert!(lines[1..].iter().all(|line| last.contains(line)), "the tests are the last step: {last}");
}

#[test]
fn links_of_the_readme_lead_to_files() {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = std::fs::read_to_string(root().join(document)).expect("the document is there");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            assert!(link.starts_with("http") || root().join(file).exists(), "{document}: {link}");
        }
    }
}

#[test]
fn the_readme_names_settings_with_their_defaults() {
    let readme = readme();
    let defaults = Command::new(process::binary()).args(["config", "print", "--output", "json"]).output();
    let defaults = String::from_utf8(defaults.expect("the binary can be run").stdout).expect("JSON is text");
    let rows: Vec<_> = section(&readme, "## Running it").lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() >= 5, "{rows:?}");
    for row in rows {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let (key, variable, default) = (cells[1].trim_matches('`'), cells[2].trim_matches('`'), cells[3]);
        assert_eq!(variable, format!("SAWLOG_{}", key.to_uppercase().replace('.', "__")));
        let line = defaults.lines().find(|line| line.contains(&format!("\"key\":\"{key}\"")));
        let line: serde_json::Value =
            serde_json::from_str(line.unwrap_or_else(|| panic!("there is no {key}"))).expect("JSON");
        let value = line["value"].as_str().map_or_else(|| line["value"].to_string(), str::to_owned);
        assert!(default.starts_with(&format!("`{value}`")), "{key}: the README says {default}, it is {value}");
    }
}
