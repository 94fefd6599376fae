//! What can be chosen for envelopes and event ids of a topic.

use crate::limits;
use crate::partition::admit::EnvelopePolicy;
use crate::topics::TopicError;
use crate::topics::settings::within;

/// How long a repeat of an event id is found out, from the first append on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupWindow {
    /// Never.
    Off,
    /// For so many milliseconds.
    Ms(u64),
    /// As long as the record is kept.
    Log,
}

/// Envelopes and event ids of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventSettings {
    /// What the topic does about envelopes.
    pub envelope: EnvelopePolicy,
    /// How long repeats are found out; `None`: a day, unless `envelope` is off.
    pub window: Option<DedupWindow>,
    /// Ids remembered at most.
    pub max_ids: u32,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self { envelope: EnvelopePolicy::Off, window: None, max_ids: limits::EVENT_IDS }
    }
}

impl EventSettings {
    /// How long repeats are found out.
    pub fn dedup_window(&self) -> DedupWindow {
        match (self.window, self.envelope) {
            (Some(window), _) => window,
            (None, EnvelopePolicy::Off) => DedupWindow::Off,
            (None, EnvelopePolicy::Fill | EnvelopePolicy::Required) => DedupWindow::Ms(limits::DEDUP_WINDOW_MS),
        }
    }

    /// Whether repeats are found out.
    pub fn dedup(&self) -> bool {
        self.dedup_window() != DedupWindow::Off
    }

    pub(in crate::topics) fn check(&self) -> Result<(), TopicError> {
        if let Some(DedupWindow::Ms(ms)) = self.window {
            within("config.dedup_window_ms", ms, limits::DEDUP_WINDOW_MS_MIN, limits::DURATION_MS_MAX)?;
        }
        within("config.dedup_max_ids", u64::from(self.max_ids), 1, u64::from(limits::EVENT_IDS))
    }

    /// Each setting of both, by name.
    pub(in crate::topics) fn compared(&self, other: &Self) -> [(&'static str, String, String); 3] {
        let window = |settings: &Self| match settings.dedup_window() {
            DedupWindow::Off => "0".to_owned(),
            DedupWindow::Ms(ms) => ms.to_string(),
            DedupWindow::Log => "-1".to_owned(),
        };
        [
            ("envelope", format!("{:?}", self.envelope), format!("{:?}", other.envelope)),
            ("dedup_window_ms", window(self), window(other)),
            ("dedup_max_ids", self.max_ids.to_string(), other.max_ids.to_string()),
        ]
    }
}
