//! What clients see of a whole broker: the rules of produce and read, every error, hostile requests.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on ends its test there, as the tests themselves do")]

mod dead_letters;
mod durability;
mod errors;
mod event_ids;
mod group_chaos;
mod group_rules;
mod groups;
mod hostile;
mod hostile_groups;
mod limits;
mod load;
mod member;
mod outbox;
mod power;
mod produce;
mod produce_read;
mod projections;
mod proxy;
mod read;
mod readme;
mod recovery;
mod replays;
mod resume;
mod shutdown;
mod slow_disk;
mod slow_members;
mod wire;
