//! The circuit breaker (rules CB-1 to CB-5).

use serde::{Deserialize, Serialize};

use super::config::ConfigError;

/// When the breaker opens.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BreakerPolicy {}

impl BreakerPolicy {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first field out of its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}
