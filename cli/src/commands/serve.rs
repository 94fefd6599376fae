//! `serve`: the broker in production; nothing is made by accident.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::broker::Run;
use crate::config::{FlagValue, Settings};
use crate::failure::Outcome;

/// Run the broker with production defaults. SIGTERM and SIGINT stop it cleanly.
#[derive(Debug, Args)]
#[command(
    after_help = "Settings: flags over variables (SAWLOG_STORAGE__DATA_DIR is storage.data_dir) over the file over \
                  defaults; `sawlog config default` lists them.\n\n\
                  Examples:\n  sawlog serve -c /etc/sawlog.toml\n  \
                  sawlog serve --data-dir /var/lib/sawlog --listen 127.0.0.1:7070"
)]
pub(crate) struct Serve {
    /// A TOML file with settings.
    #[arg(short, long, env = "SAWLOG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: SettingFlags,
    /// Where to write {url, pid} as JSON once it is ready; removed when it stops.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// Flags that set a setting of the broker.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SettingFlags {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Port on 127.0.0.1, instead of --listen; 0 takes a free one.
    #[arg(short, long, conflicts_with = "listen")]
    port: Option<u16>,
    /// Allow an address that is not loopback, although there is neither TLS nor authentication yet.
    #[arg(long)]
    insecure: bool,
    /// Where everything is stored.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Any other setting; may be given again.
    #[arg(long, value_name = "SETTING=VALUE", value_parser = crate::amounts::pair)]
    set: Vec<(String, String)>,
}

impl SettingFlags {
    /// The settings that the flags give.
    pub(crate) fn values(&self) -> Vec<FlagValue> {
        let mut values: Vec<_> = self.set.iter().map(|(key, text)| FlagValue::new(key, text, "--set")).collect();
        values.extend(self.listen.map(|listen| FlagValue::new("listen", listen.to_string(), "--listen")));
        let local = self.port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        values.extend(local.map(|listen| FlagValue::new("listen", listen.to_string(), "--port")));
        values.extend(self.insecure.then(|| FlagValue::new("insecure", "true", "--insecure")));
        let data_dir = self.data_dir.as_ref();
        values.extend(
            data_dir.map(|folder| FlagValue::new("storage.data_dir", folder.display().to_string(), "--data-dir")),
        );
        values
    }
}

impl Serve {
    pub(crate) fn run(self) -> Outcome {
        let settings = Settings::load(self.config.as_deref(), std::env::vars(), &self.flags.values())?;
        Run { settings, ready_file: self.ready_file }.until_stopped(|url| tracing::info!(url, "ready"))
    }
}
