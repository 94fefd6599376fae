//! Rules that a test switches off in one instance, to show that the harness notices.
//!
//! Without the feature `testing` there is nothing to switch: the questions are answered `false` and cost nothing. The
//! set travels with the [`Storage`](super::storage::Storage), never in a global, so that tests run side by side.

/// Which rules are switched off; none by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sabotage {
    #[cfg(any(test, feature = "testing"))]
    switches: u32,
}

/// A rule that can be switched off.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Switch {
    /// Acknowledge `durable` appends before their sync (rules D1, F1).
    AckBeforeSync = 1,
    /// Try a failed sync again and believe the second answer (rule F1).
    RetryFailedSync = 1 << 1,
    /// Do not sync directories (rule D7).
    SkipDirectorySync = 1 << 2,
    /// Serve what recovery found without syncing it first (rule D6).
    ServeRecoveredTailUnsynced = 1 << 3,
    /// Check the body's checksum alone, not the header's (rule C1).
    PayloadOnlyChecksum = 1 << 4,
    /// Cut the log at the first bad byte (rule C3).
    TruncateAtFirstBadByte = 1 << 5,
    /// Believe an index entry without looking at the frame (rule C4).
    TrustIndex = 1 << 6,
}

/// Defines one question per switch.
macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident => $switch:ident;)*) => {
        impl Sabotage {
            $($(#[$doc])*
            #[inline]
            pub fn $name(self) -> bool {
                #[cfg(any(test, feature = "testing"))]
                return self.has(Switch::$switch);
                #[cfg(not(any(test, feature = "testing")))]
                false
            })*
        }
    };
}

questions! {
    /// Whether `durable` appends are acknowledged before their sync.
    acks_before_sync => AckBeforeSync;
    /// Whether a failed sync is tried again and its second answer believed.
    retries_failed_sync => RetryFailedSync;
    /// Whether directories are not synced.
    skips_directory_sync => SkipDirectorySync;
    /// Whether recovery leaves out its syncs.
    serves_recovered_tail_unsynced => ServeRecoveredTailUnsynced;
    /// Whether a frame's header is believed without its checksum.
    checks_payload_only => PayloadOnlyChecksum;
    /// Whether recovery cuts at the first bad byte.
    truncates_at_first_bad_byte => TruncateAtFirstBadByte;
    /// Whether an index entry is believed without looking at the frame.
    trusts_index => TrustIndex;
}

#[cfg(any(test, feature = "testing"))]
impl Sabotage {
    /// One rule switched off.
    pub fn of(switch: Switch) -> Self {
        Self { switches: switch as u32 }
    }

    fn has(self, switch: Switch) -> bool {
        self.switches & switch as u32 != 0
    }
}
