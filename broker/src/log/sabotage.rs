//! Rules that a test breaks on purpose in one instance, to show that the harness would notice.
//!
//! The set is carried by value, in the environment of a log and by its storage, never in a global, so that tests run
//! side by side. Without the feature `testing` every question is answered `false` and costs nothing.

/// Which rules are broken; none by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sabotage {
    /// Answers `durable` before the sync has ended (breaks D1 and F1).
    pub ack_before_sync: bool,
    /// Tells that a journal's records are durable before their sync (breaks D1, AK-3).
    pub journal_ack_before_sync: bool,
    /// Tries a failed sync again and believes the second answer (breaks F1).
    pub retry_failed_sync: bool,
    /// Leaves out the sync of directories (breaks D7).
    pub skip_directory_sync: bool,
    /// Serves what recovery found without syncing it, and without reading it from the device (breaks D6).
    pub serve_unsynced_tail: bool,
    /// Sums up the batch alone, not the header (breaks C1).
    pub payload_only_checksum: bool,
    /// Takes the first bad byte for the end of the log (breaks C3).
    pub truncate_at_first_bad_byte: bool,
    /// Believes an index without looking at its checksum or the frames (breaks C4).
    pub trust_index: bool,
}

/// Defines one question per switch.
macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident => $switch:ident;)*) => {
        impl Sabotage {
            $($(#[$doc])*
            #[inline]
            pub const fn $name(self) -> bool {
                cfg!(any(test, feature = "testing")) && self.$switch
            })*
        }
    };
}

questions! {
    /// Whether `durable` appends are acknowledged before their sync.
    acks_before_sync => ack_before_sync;
    /// Whether records of a journal are told to be durable before their sync.
    acks_journal_before_sync => journal_ack_before_sync;
    /// Whether a failed sync is tried again and its second answer believed.
    retries_failed_sync => retry_failed_sync;
    /// Whether directories are not synced.
    skips_directory_sync => skip_directory_sync;
    /// Whether recovery leaves out its syncs and believes the page cache.
    serves_unsynced_tail => serve_unsynced_tail;
    /// Whether a frame's header is believed without its checksum.
    checks_payload_only => payload_only_checksum;
    /// Whether recovery cuts at the first bad byte.
    truncates_at_first_bad_byte => truncate_at_first_bad_byte;
    /// Whether an index is believed without looking at its checksum or the frames.
    trusts_index => trust_index;
}
