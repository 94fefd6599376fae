//! Settings of the broker from their four sources: flags over environment over a TOML file over defaults.
//!
//! Owns the names of settings and where each value comes from; the meaning and bounds of the values are the broker
//! library's. Invariant: a key that is not known is an error, never ignored, whatever its source.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use sawlog_broker::config::BrokerConfig;

use crate::failure::{Failure, Outcome};

/// What each setting means: one line for `config default`, in the order of the sections.
const MEANINGS: &[(&str, &str)] = &[
    ("listen", "address and port; port 0 takes a free one"),
    ("insecure", "allow an address that is not loopback, although there is no TLS and no authentication"),
    ("auto_create_topics", "make topics on their first use; meant for `sawlog dev`"),
    ("server_threads", "threads that serve connections; 0: one per core"),
    ("storage.data_dir", "where everything is stored"),
    (
        "storage.min_free_bytes",
        "free bytes below which produce is refused; 0: the larger of 256 MiB and 2 % of the disk",
    ),
    ("storage.reserve_bytes", "bytes kept back for what must be written on a full disk"),
    ("storage.sync_threads", "threads that sync files"),
    ("storage.read_threads", "threads that read what is not in the page cache"),
    ("storage.checkpoint_interval_s", "seconds between checkpoints, which shorten the next start"),
    ("storage.retention_interval_s", "seconds between retention runs"),
    ("storage.scrub_interval_s", "seconds in which every stored byte is read and checked once; 0: off"),
    ("topic_defaults.partitions", "partitions of a new topic"),
    ("topic_defaults.keyed", "each record must have a key, which alone chooses its partition"),
    ("topic_defaults.ack_written", "acknowledge once written to the page cache instead of synced to the device"),
    ("topic_defaults.retention_ms", "age in milliseconds at which sealed segments are deleted; -1: never"),
    (
        "topic_defaults.retention_bytes",
        "bytes per partition above which the oldest sealed segments are deleted; -1: no limit",
    ),
    ("topic_defaults.segment_bytes", "bytes at which a segment is sealed"),
    ("topic_defaults.segment_ms", "age in milliseconds at which a segment is sealed"),
    ("metrics.per_partition", "tell the partitions of a topic apart; with thousands of them scrapes get large"),
];

/// Variables that begin with `SAWLOG_` and are no settings of the broker.
const OTHER_VARIABLES: &[&str] = &["SAWLOG_URL", "SAWLOG_CONFIG", "SAWLOG_OUTPUT", "SAWLOG_LOG", "SAWLOG_LOG_FORMAT"];
/// Beginnings of variables that tests and benchmarks use.
const OTHER_PREFIXES: &[&str] = &["SAWLOG_TEST", "SAWLOG_BENCH", "SAWLOG_BIN"];

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Built in.
    Default,
    /// The file, with its line.
    File(PathBuf, usize),
    /// A variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One setting with its value and source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Setting {
    /// Its value.
    pub(crate) value: toml::Value,
    /// Where the value comes from.
    pub(crate) source: Source,
}

/// All settings by their dotted names.
#[derive(Debug, Clone)]
pub(crate) struct Settings(BTreeMap<String, Setting>);

/// A flag that sets a value.
#[derive(Debug, Clone)]
pub(crate) struct FlagValue {
    /// Name of the setting.
    pub(crate) key: String,
    /// Its value, as text.
    pub(crate) value: String,
    /// The flag, for messages.
    pub(crate) flag: String,
}

impl FlagValue {
    /// A flag's value for a setting.
    pub(crate) fn new(key: &str, value: impl Into<String>, flag: &str) -> Self {
        Self { key: key.to_owned(), value: value.into(), flag: flag.to_owned() }
    }
}

impl Settings {
    /// The built-in values.
    pub(crate) fn defaults() -> Self {
        let table = toml::Table::try_from(BrokerConfig::default()).expect("the default settings are plain data");
        let mut settings = BTreeMap::new();
        flatten("", &table, &mut settings);
        Self(settings)
    }

    /// All sources joined. `variables` are those of the process.
    ///
    /// # Errors
    /// Usage: a key is not known (with the nearest that is), or a value has the wrong type.
    pub(crate) fn load(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
        flags: &[FlagValue],
    ) -> Outcome<Self> {
        let mut settings = Self::defaults();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
            settings.take_file(path, &text)?;
        }
        let mut variables: Vec<_> = variables.filter(|(name, _)| name.starts_with("SAWLOG_")).collect();
        variables.sort();
        for (name, value) in variables {
            settings.take_variable(&name, &value)?;
        }
        for flag in flags {
            settings.set(&flag.key, &flag.value, Source::Flag(flag.flag.clone()))?;
        }
        Ok(settings)
    }

    /// Takes the values of a TOML text.
    fn take_file(&mut self, path: &Path, text: &str) -> Outcome {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let table = toml::de::DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(span.start));
            Failure::usage(
                format!("{}:{line}: {}", path.display(), error.message()),
                "mend the line; `sawlog config default` prints a file that is right",
            )
        })?;
        let mut found = Vec::new();
        flatten_spanned("", table.get_ref(), &mut found);
        for (key, start) in found {
            let source = Source::File(path.to_owned(), line_of(start));
            let section = format!("{key}.");
            if !self.0.contains_key(&key) && !self.0.keys().any(|known| known.starts_with(&section)) {
                return Err(self.unknown(&key, &source));
            }
        }
        let values: toml::Table = toml::from_str(text).expect("the text was parsed above");
        let mut given = BTreeMap::new();
        flatten("", &values, &mut given);
        let mut lines = Vec::new();
        flatten_spanned("", table.get_ref(), &mut lines);
        let lines: BTreeMap<_, _> = lines.into_iter().collect();
        for (key, setting) in given {
            let source = Source::File(path.to_owned(), line_of(lines.get(&key).copied().unwrap_or(0)));
            self.set_typed(&key, setting.value, source)?;
        }
        Ok(())
    }

    /// Takes a variable: `SAWLOG_STORAGE__DATA_DIR` is `storage.data_dir`.
    fn take_variable(&mut self, name: &str, value: &str) -> Outcome {
        if OTHER_VARIABLES.contains(&name) || OTHER_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return Ok(());
        }
        let key = name["SAWLOG_".len()..].to_lowercase().replace("__", ".");
        self.set(&key, value, Source::Variable(name.to_owned()))
    }

    /// Sets a value that was given as text.
    fn set(&mut self, key: &str, text: &str, source: Source) -> Outcome {
        let Some(setting) = self.0.get(key) else {
            return Err(self.unknown(key, &source));
        };
        let value = match &setting.value {
            toml::Value::Integer(_) => text.replace('_', "").parse().ok().map(toml::Value::Integer),
            toml::Value::Boolean(_) => text.parse().ok().map(toml::Value::Boolean),
            toml::Value::Float(_) => text.parse().ok().map(toml::Value::Float),
            _ => Some(toml::Value::String(text.to_owned())),
        };
        match value {
            Some(value) => self.set_typed(key, value, source),
            None => Err(self.wrong_type(key, &format!("{text:?}"), &source)),
        }
    }

    fn set_typed(&mut self, key: &str, value: toml::Value, source: Source) -> Outcome {
        let Some(setting) = self.0.get_mut(key) else {
            return Err(self.unknown(key, &source));
        };
        if !setting.value.same_type(&value) {
            return Err(self.wrong_type(key, &value.to_string(), &source));
        }
        *setting = Setting { value, source };
        Ok(())
    }

    fn unknown(&self, key: &str, source: &Source) -> Failure {
        let nearest = self.nearest(key);
        let next = match source {
            Source::Variable(_) => format!("did you mean SAWLOG_{}?", nearest.to_uppercase().replace('.', "__")),
            _ => format!("did you mean {nearest}? `sawlog config default` lists every setting"),
        };
        Failure::usage(format!("there is no setting {key} ({source})"), next)
    }

    fn wrong_type(&self, key: &str, found: &str, source: &Source) -> Failure {
        let expected = match self.0.get(key).map(|setting| &setting.value) {
            Some(toml::Value::Integer(_)) => "a whole number",
            Some(toml::Value::Boolean(_)) => "true or false",
            Some(toml::Value::Float(_)) => "a number",
            _ => "a text in quotes",
        };
        let what = format!("{key}: found {found}, expected {expected} ({source})");
        Failure::usage(what, "mend the value; `sawlog config print` shows each value and its source")
    }

    fn nearest(&self, key: &str) -> &str {
        let last = |name: &str| name.rsplit('.').next().map(str::to_owned).unwrap_or_default();
        let distance = |name: &str| {
            // A setting is often named without its section, so its last part alone counts too.
            edit_distance(name, key).min(edit_distance(&last(name), &last(key)) * 2)
        };
        self.0.keys().min_by_key(|name| distance(name)).map_or("listen", String::as_str)
    }

    /// Each setting by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.0.iter().map(|(key, setting)| (key.as_str(), setting))
    }

    /// Where the value of a setting comes from.
    pub(crate) fn source(&self, key: &str) -> Option<&Source> {
        self.0.get(key).map(|setting| &setting.source)
    }

    /// The settings as the broker takes them.
    ///
    /// # Errors
    /// Usage: a value is not possible, such as an address that is none.
    pub(crate) fn to_config(&self) -> Outcome<BrokerConfig> {
        for (key, setting) in &self.0 {
            // One setting at a time over the defaults, so that the message names the setting and its source.
            let mut table = toml::Table::new();
            insert(&mut table, key, setting.value.clone());
            table.try_into::<BrokerConfig>().map_err(|error| {
                let what = format!("{key}: found {}: {} ({})", setting.value, error.message(), setting.source);
                Failure::usage(what, "mend the value; `sawlog config default` shows one that is right")
            })?;
        }
        let mut table = toml::Table::new();
        for (key, setting) in &self.0 {
            insert(&mut table, key, setting.value.clone());
        }
        Ok(table.try_into().expect("each setting was taken alone above"))
    }

    /// A TOML file of these settings, each with its meaning.
    pub(crate) fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for (key, meaning) in MEANINGS {
            let (of, name) = key.rsplit_once('.').unwrap_or(("", key));
            if of != section {
                text.push_str(&format!("\n[{of}]\n"));
                section = of;
            }
            if let Some(setting) = self.0.get(*key) {
                text.push_str(&format!("# {meaning}\n{name} = {}\n", setting.value));
            }
        }
        text
    }
}

fn flatten(prefix: &str, table: &toml::Table, into: &mut BTreeMap<String, Setting>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(table) => flatten(&key, table, into),
            value => {
                into.insert(key, Setting { value: value.clone(), source: Source::Default });
            }
        }
    }
}

/// Dotted keys with the byte at which each begins.
fn flatten_spanned(prefix: &str, table: &toml::de::DeTable<'_>, into: &mut Vec<(String, usize)>) {
    for (key, value) in table {
        let name = key.get_ref();
        let name = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        match value.get_ref() {
            // An empty section is listed itself, so that its name is checked too.
            toml::de::DeValue::Table(table) if !table.is_empty() => flatten_spanned(&name, table, into),
            _ => into.push((name, key.span().start)),
        }
    }
}

fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = entry {
                insert(inner, rest, value);
            }
        }
    }
}

/// Levenshtein's distance in characters.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests;
