//! Tries and delays (rules RT-1 to RT-4).

use serde::{Deserialize, Serialize};

use super::config::ConfigError;

/// How often and when a failed record is tried again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RetryPolicy {}

impl RetryPolicy {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first field out of its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}
