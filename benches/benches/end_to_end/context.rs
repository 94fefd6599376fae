//! What all sections share: options, servers, the report.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sawlog_benches::environment::{Environment, warm_memory};
use sawlog_benches::report::{Report, Row, say};
use sawlog_benches::server_process::{ServerProcess, sibling};
use sawlog_benches::timing::pause;
use sawlog_client::Client;
use tempfile::TempDir;

/// Time in which the disk settles after a round: deleted data must not be written back under the next.
const SETTLE: Duration = Duration::from_millis(300);

/// The options of the command line.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) only: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) scale: f64,
    dir: PathBuf,
    json: Option<PathBuf>,
    broker: Option<PathBuf>,
}

impl Options {
    /// Reads the options; `--bench` is cargo's.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            only: Vec::new(),
            rounds: 5,
            seconds: 1.5,
            scale: 1.0,
            dir: sibling("sawlog-null")?.parent().map_or_else(|| ".".into(), Path::to_path_buf),
            json: None,
            broker: None,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--bench" {
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("{argument} needs a value"))?;
            match argument.as_str() {
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                "--rounds" => options.rounds = value.parse()?,
                "--seconds" => options.seconds = value.parse()?,
                "--scale" => options.scale = value.parse()?,
                "--dir" => options.dir = value.into(),
                "--json" => options.json = Some(value.into()),
                "--broker" => options.broker = Some(value.into()),
                _ => return Err(format!("no option {argument}").into()),
            }
        }
        Ok(options)
    }
}

/// A broker on a folder of its own.
#[derive(Debug)]
pub(crate) struct BrokerOnFolder {
    pub(crate) server: ServerProcess,
    pub(crate) folder: TempDir,
}

/// A run of the harness.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) runtime: tokio::runtime::Runtime,
    report: Report,
    broker: PathBuf,
    null: PathBuf,
    topics: u32,
}

impl Bench {
    /// Builds the broker if none was given, and looks at the machine.
    pub(crate) fn new(options: Options) -> Result<Self, Box<dyn Error>> {
        let broker = match &options.broker {
            Some(path) => path.clone(),
            None => {
                let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                let status = Command::new(cargo).args(["build", "--release", "--package", "sawlog"]).status()?;
                if !status.success() {
                    return Err("the broker does not build".into());
                }
                sibling("sawlog")?
            }
        };
        say(&format!("{} MiB of memory warmed", warm_memory() >> 20))?;
        let report = Report { environment: Environment::detect(&options.dir), rows: Vec::new() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { options, runtime, report, broker, null: sibling("sawlog-null")?, topics: 0 })
    }

    /// Whether a section was asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.options.only.is_empty() || self.options.only.iter().any(|only| only == name)
    }

    /// Length of one measurement.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.options.seconds)
    }

    /// A name that no topic of this run has had.
    pub(crate) fn topic_name(&mut self, prefix: &str) -> String {
        self.topics += 1;
        format!("{prefix}-{}", self.topics)
    }

    /// A fresh folder on the disk that is measured.
    pub(crate) fn folder(&self) -> Result<TempDir, Box<dyn Error>> {
        Ok(tempfile::Builder::new().prefix("sawlog-bench-").tempdir_in(&self.options.dir)?)
    }

    /// A null server.
    pub(crate) fn null(&self) -> Result<ServerProcess, Box<dyn Error>> {
        Ok(ServerProcess::null(&self.null)?)
    }

    /// A broker on a fresh folder.
    pub(crate) fn broker(&self) -> Result<BrokerOnFolder, Box<dyn Error>> {
        let folder = self.folder()?;
        let server = self.broker_on(folder.path())?;
        Ok(BrokerOnFolder { server, folder })
    }

    /// A broker on a folder that may have data.
    pub(crate) fn broker_on(&self, folder: &Path) -> Result<ServerProcess, Box<dyn Error>> {
        Ok(ServerProcess::broker(&self.broker, folder)?)
    }

    /// A client of a server. It takes the runtime for its connection.
    pub(crate) fn client(&self, url: &str) -> Result<Client, Box<dyn Error>> {
        let _guard = self.runtime.enter();
        Ok(Client::builder(url).connect_lazy()?)
    }

    /// Deletes a topic and lets the disk settle.
    pub(crate) fn delete_topic(&self, client: &Client, topic: &str) -> Result<(), Box<dyn Error>> {
        self.runtime.block_on(client.admin().delete_topic(topic, true))?;
        pause(SETTLE);
        Ok(())
    }

    /// Adds a row and shows it.
    pub(crate) fn row(&mut self, row: Row) -> Result<(), Box<dyn Error>> {
        let ratio = row.ratio().map_or_else(String::new, |ratio| format!(", ratio {:.2}", ratio.median()));
        say(&format!("  {}: {:.4e} {}{ratio} {:?}", row.what, row.value.median(), row.unit, row.outcome()))?;
        self.report.rows.push(row);
        Ok(())
    }

    /// Shows the table and writes the JSON.
    pub(crate) fn finish(&self) -> Result<(), Box<dyn Error>> {
        say(&self.report.table())?;
        if let Some(path) = &self.options.json {
            std::fs::write(path, serde_json::to_string_pretty(&self.report.to_json())?)?;
        }
        Ok(())
    }
}
