//! Which pauses a member was told of, so that it is told once when each ends, over cuts of the stream too.
//!
//! The broker tells a stream first, behind `Joined`, of each pause that lasts (rule OF-6). What it does not tell of then
//! has ended while there was no stream.

use sawlog_proto::v1;

use super::super::ConsumerEvent;
use crate::groups::PauseReason;

/// A pause that lasts, as far as is known.
#[derive(Debug)]
struct Pause {
    reason: Option<PauseReason>,
    topic: Option<String>,
    partition: Option<u32>,
    /// The present stream has told of it.
    confirmed: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    list: Vec<Pause>,
    /// The present stream may have more of them to tell.
    opening: bool,
}

impl Pauses {
    /// A stream begins.
    pub(super) fn joined(&mut self) {
        self.list.iter_mut().for_each(|pause| pause.confirmed = false);
        self.opening = !self.list.is_empty();
    }

    /// A frame that is no notice came: what the stream has not told of has ended.
    pub(super) fn other_frame(&mut self) -> Vec<ConsumerEvent> {
        if !std::mem::take(&mut self.opening) {
            return Vec::new();
        }
        let ended = self.list.extract_if(.., |pause| !pause.confirmed);
        ended
            .map(|Pause { reason, topic, partition, .. }| ConsumerEvent::Resumed { reason, topic, partition })
            .collect()
    }

    /// A notice came. `None`: it was told before the cut.
    pub(super) fn notice(&mut self, notice: v1::Notice) -> Option<ConsumerEvent> {
        let pause = notice.pause.unwrap_or_default();
        let reason = PauseReason::from_wire(pause.reason());
        let topic = Some(pause.topic).filter(|topic| !topic.is_empty());
        let partition = pause.partition;
        let same = |one: &Pause| one.reason == reason && one.topic == topic && one.partition == partition;
        let known = self.list.iter().position(same);
        if !notice.paused {
            known.map(|at| self.list.swap_remove(at));
            return Some(ConsumerEvent::Resumed { reason, topic, partition });
        }
        if let Some(at) = known {
            if !std::mem::replace(&mut self.list[at].confirmed, true) {
                return None;
            }
        } else {
            self.list.push(Pause { reason, topic: topic.clone(), partition, confirmed: true });
        }
        Some(ConsumerEvent::Paused { reason, topic, partition, note: pause.note })
    }
}
