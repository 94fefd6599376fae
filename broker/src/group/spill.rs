//! Bounds of what is held, and lanes that are spilled to the dead letters to stay within (rules AK-7, KO-7).

use super::Now;
use super::effect::Effects;
use super::machine::Machine;
use crate::model::Source;

impl Machine {
    /// Counts of held records, blocked lanes or bytes scanned ahead crossed 80 % or 100 % of their bounds, or fell below
    /// 80 %: at the end of an event that touched the source, as long as any is at 80 % or more, and once after.
    pub(super) fn after_bounds(&mut self, source: Source, now: Now, fx: &mut Effects) {
        let _ = (source, now, fx);
    }
}
