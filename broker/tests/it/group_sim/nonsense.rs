//! Members that leave, and what a correct member never says.

use sawlog_broker::group::Mode;
use sawlog_broker::group::event::{Credit, Verb};
use sawlog_broker::model::{AssignmentEpoch, Source};

use super::Violation;
use super::client::{Asked, Held, Item};
use super::world::World;

/// What a correct client never does: the machine answers, and nothing else is touched.
impl World {
    pub(crate) fn leave(&mut self, index: usize) -> Result<(), Violation> {
        let member = self.clients[index].id;
        self.judge.member_gone(member);
        self.verb(index, Verb::Leave)?;
        self.clients[index].forget();
        Ok(())
    }

    /// Acks and nacks of records that were never delivered, under epochs that never were; credits of any size.
    pub(crate) fn nonsense(&mut self, index: usize, source: Source) -> Result<(), Violation> {
        if !self.clients[index].lives() || self.machine.state().config.mode == Mode::Offset {
            return Ok(());
        }
        let at = self.any_offset(source).get();
        let epoch = AssignmentEpoch(self.chance.below(self.machine.state().epoch + 3));
        let Some(record) = self.logs[&source].ever(at).copied() else { return Ok(()) };
        let slot = record.meta.slot.get();
        let held = Held { source, item: Item::Record(at), uid: record.uid, slot, epoch, started: false };
        let mine = self.clients[index].held.iter().any(|other| (other.source, other.item) == (source, held.item));
        match self.chance.below(4) {
            0 => self.verb(index, Verb::Credit(Credit { records: 0, bytes: 0 })),
            1 => self.verb(index, Verb::Credit(Credit { records: u64::MAX >> 1, bytes: u64::MAX })),
            2 if !mine => self.say(index, Asked::Ack, vec![held]),
            3 if !mine => self.say(index, Asked::Retry, vec![held]),
            _ => Ok(()),
        }
    }
}
