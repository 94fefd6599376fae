//! What clients see of a whole broker: the rules of produce and read, every error, hostile requests.

mod durability;
mod errors;
mod hostile;
mod load;
mod produce;
mod read;
mod readme;
mod recovery;
mod shutdown;
mod wire;
