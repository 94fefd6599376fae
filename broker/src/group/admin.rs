//! Calls of operators (rules OF-3, OF-6, OF-8, CB-4, RE-4, RD-3, RD-8).

use super::Now;
use super::effect::{Effects, Refusal};
use super::event::Admin;
use super::machine::Machine;

impl Machine {
    /// Does what an operator asks for.
    pub(super) fn admin(&mut self, admin: Admin, now: Now, fx: &mut Effects) -> Result<(), Refusal> {
        let _ = (admin, now, fx);
        todo!()
    }
}
