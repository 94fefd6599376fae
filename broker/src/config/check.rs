//! The check of all settings at start.

use crate::limits;
use crate::topics::{TopicConfig, TopicError, Validation};

use super::{BrokerConfig, StorageConfig, TopicDefaults};

/// A setting that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {what}")]
pub struct ConfigError {
    /// Name of the option, as in the configuration file.
    pub option: String,
    /// What was found, and what is allowed.
    pub what: String,
}

impl BrokerConfig {
    /// Checks every setting against its bounds.
    ///
    /// # Errors
    /// The first that is not allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.insecure && !self.listen.ip().is_loopback() {
            return Err(ConfigError {
                option: "listen".into(),
                what: format!(
                    "{} is not a loopback address, and there is neither TLS nor authentication yet: listen on \
                     127.0.0.1, or set `insecure = true` (--insecure) to let everyone who reaches the port in",
                    self.listen
                ),
            });
        }
        within("server_threads", self.server_threads as u64, 0, 256)?;
        self.storage.check()?;
        self.topic_defaults.check()
    }
}

impl StorageConfig {
    fn check(&self) -> Result<(), ConfigError> {
        if self.data_dir.as_os_str().is_empty() {
            return Err(bad("storage.data_dir", "found nothing, must name a directory"));
        }
        within("storage.min_free_bytes", self.min_free_bytes, 0, 1 << 50)?;
        within("storage.reserve_bytes", self.reserve_bytes, 0, 1 << 40)?;
        within("storage.sync_threads", self.sync_threads as u64, 1, 256)?;
        within("storage.read_threads", self.read_threads as u64, 1, 256)?;
        within("storage.checkpoint_interval_s", self.checkpoint_interval_s, 1, 3_600)?;
        within("storage.retention_interval_s", self.retention_interval_s, 1, 86_400)?;
        if self.scrub_interval_s != 0 {
            within("storage.scrub_interval_s", self.scrub_interval_s, 60, 366 * 86_400)?;
        }
        Ok(())
    }
}

impl TopicDefaults {
    /// The settings of a topic whose creator says nothing.
    pub fn topic_config(&self) -> TopicConfig {
        // -1 means "no limit"; what else is negative was refused by the check at start.
        let limit = |value: i64| u64::try_from(value).ok();
        TopicConfig {
            partitions: self.partitions,
            keyed: self.keyed,
            ack_floor: self.ack_floor(),
            validation: Validation::Full,
            retention_ms: limit(self.retention_ms),
            retention_bytes: limit(self.retention_bytes),
            segment_bytes: limit(self.segment_bytes).unwrap_or(0),
            segment_ms: limit(self.segment_ms).unwrap_or(0),
            max_record_bytes: limits::RECORD_BYTES_DEFAULT,
            flush_interval_ms: 1_000,
            holds: crate::topics::GroupHolds::default(),
            events: crate::topics::EventSettings::default(),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (option, value) in [("retention_ms", self.retention_ms), ("retention_bytes", self.retention_bytes)] {
            if value < -1 {
                return Err(bad(&format!("topic_defaults.{option}"), &format!("found {value}, must be -1 or more")));
            }
        }
        self.topic_config().check().map_err(|error| match error {
            TopicError::Field { field, found, bounds } => {
                let option = field.replacen("config.", "topic_defaults.", 1);
                bad(&option, &format!("found {found}, must be {bounds}"))
            }
            other => bad("topic_defaults", &other.to_string()),
        })
    }
}

fn within(option: &str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(bad(option, &format!("found {value}, must be {least} to {most}")))
}

fn bad(option: &str, what: &str) -> ConfigError {
    ConfigError { option: option.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut BrokerConfig)) -> ConfigError {
        let mut config = BrokerConfig::default();
        change(&mut config);
        config.check().expect_err("it is out of its bounds")
    }

    #[test]
    fn the_defaults_are_allowed() {
        assert_eq!(BrokerConfig::default().check(), Ok(()));
    }

    #[test]
    fn s_6_a_listen_address_that_is_not_loopback_needs_the_insecure_flag() {
        let error = refused(|config| config.listen = ([0, 0, 0, 0], 7070).into());
        assert_eq!(error.option, "listen");
        assert!(error.what.contains("--insecure"), "{error}");
        let open = BrokerConfig { listen: ([0, 0, 0, 0], 7070).into(), insecure: true, ..BrokerConfig::default() };
        assert_eq!(open.check(), Ok(()));
        let six = BrokerConfig { listen: "[::1]:0".parse().expect("an address"), ..BrokerConfig::default() };
        assert_eq!(six.check(), Ok(()));
    }

    #[test]
    fn a_value_out_of_bounds_is_answered_with_its_option_and_range() {
        let cases: [(ConfigError, &str, &str); 7] = [
            (refused(|c| c.server_threads = 257), "server_threads", "0 to 256"),
            (refused(|c| c.storage.sync_threads = 0), "storage.sync_threads", "1 to 256"),
            (refused(|c| c.storage.checkpoint_interval_s = 0), "storage.checkpoint_interval_s", "1 to 3600"),
            (refused(|c| c.storage.scrub_interval_s = 1), "storage.scrub_interval_s", "60 to"),
            (refused(|c| c.topic_defaults.partitions = 0), "topic_defaults.partitions", "1 to 1024"),
            (refused(|c| c.topic_defaults.segment_bytes = -5), "topic_defaults.segment_bytes", "1048576 to 1073741824"),
            (refused(|c| c.topic_defaults.retention_ms = -2), "topic_defaults.retention_ms", "-1 or more"),
        ];
        for (error, option, range) in cases {
            assert_eq!(error.option, option);
            assert!(error.what.contains(range), "{error}");
        }
    }
}
