//! Rules of this part, by driving the machine.
