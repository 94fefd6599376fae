//! `dev`: a broker to try things with, on loopback, that makes topics on their first use.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::broker::Run;
use crate::config::{FlagValue, Settings};
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// Run a broker to try things with: topics are made on first use, and lines to paste are printed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sawlog dev\n  sawlog dev --ephemeral --port 0 --ready-file ready.json")]
pub(crate) struct Dev {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(short, long, default_value_t = 7070)]
    port: u16,
    /// Store in a fresh folder that is removed at the end.
    #[arg(long, conflicts_with = "data_dir")]
    ephemeral: bool,
    /// Where everything is stored [default: ./sawlog-data].
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Any other setting; may be given again.
    #[arg(long, value_name = "SETTING=VALUE", value_parser = crate::amounts::pair)]
    set: Vec<(String, String)>,
    /// Where to write {url, pid} as JSON once it is ready; removed when it stops.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

impl Dev {
    pub(crate) fn run(self) -> Outcome {
        let folder = if self.ephemeral { Some(ephemeral_folder()?) } else { None };
        let data_dir = folder.as_ref().map(|folder| folder.path().to_owned()).or_else(|| self.data_dir.clone());
        let settings = self.settings(data_dir)?;
        let run = Run { settings, ready_file: self.ready_file };
        let stopped = run.until_stopped(|url| output::talk(&banner(url)));
        drop(folder);
        stopped
    }

    fn settings(&self, data_dir: Option<PathBuf>) -> Outcome<Settings> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut flags = vec![
            FlagValue::new("listen", listen.to_string(), "--port"),
            FlagValue::new("auto_create_topics", "true", "dev"),
            // A first record often has no key; where there is one, it still chooses the partition.
            FlagValue::new("topic_defaults.keyed", "false", "dev"),
        ];
        let folder = data_dir.map(|folder| folder.display().to_string());
        flags.extend(folder.map(|folder| FlagValue::new("storage.data_dir", folder, "--data-dir")));
        flags.extend(self.set.iter().map(|(key, text)| FlagValue::new(key, text, "--set")));
        Settings::load(None, std::env::vars(), &flags)
    }
}

/// A folder that is removed when dropped.
pub(crate) fn ephemeral_folder() -> Outcome<tempfile::TempDir> {
    tempfile::Builder::new().prefix("sawlog-").tempdir().map_err(|error| {
        Failure::new(
            Exit::Failure,
            format!("no temporary folder: {error}"),
            "set TMPDIR to a folder that can be written",
        )
    })
}

/// What to paste next.
fn banner(url: &str) -> String {
    let address = url.trim_start_matches("http://");
    let at = if url == "http://127.0.0.1:7070" { String::new() } else { format!(" --url {url}") };
    format!(
        "sawlog is ready: gRPC and /metrics on {url}; topics are made on first use; Ctrl-C stops it

Command line
  echo hello | sawlog produce demo{at}
  sawlog consume demo --from earliest{at}

grpcurl
  grpcurl -plaintext -d '{{\"topic\":\"demo\",\"records\":{{\"records\":[{{\"record\":{{\"value\":\"aGVsbG8=\"}}}}]}}}}' \\
    {address} sawlog.v1.ProduceService/Produce
  grpcurl -plaintext -d '{{\"topic\":\"demo\"}}' {address} sawlog.v1.ReadService/Read

Python (in a clone of the repository)
  python3 -m venv .venv && .venv/bin/pip install -r examples/python/requirements.txt
  .venv/bin/python examples/python/check.py {url}

Rust (sawlog-client)
  let client = sawlog_client::Client::builder(\"{url}\").connect_lazy()?;
  let producer = client.producer(\"demo\").build().await?;
  let position = producer.send_and_wait(sawlog_client::Record::keyed(\"invoice-7\", \"one teapot\")).await?;
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_has_lines_to_paste_for_this_port() {
        let text = banner("http://127.0.0.1:4711");
        assert!(text.contains("echo hello | sawlog produce demo --url http://127.0.0.1:4711\n"));
        assert!(text.contains("127.0.0.1:4711 sawlog.v1.ProduceService/Produce"));
        assert!(text.contains("examples/python/check.py http://127.0.0.1:4711"));
        assert!(!banner("http://127.0.0.1:7070").contains("--url"));
    }

    #[test]
    fn dev_makes_topics_that_take_records_without_keys() {
        let dev = Dev { port: 0, ephemeral: true, data_dir: None, set: Vec::new(), ready_file: None };
        let config = dev.settings(Some(PathBuf::from("/x"))).unwrap().to_config().unwrap();
        assert!(config.auto_create_topics && !config.topic_defaults.keyed);
        assert!(config.listen.ip().is_loopback());
        assert_eq!(config.storage.data_dir, PathBuf::from("/x"));
    }
}
