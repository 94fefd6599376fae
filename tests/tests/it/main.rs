//! What clients see of a whole broker: the rules of produce and read, every error, hostile requests.

mod errors;
mod hostile;
mod produce;
mod read;
mod readme;
mod recovery;
mod wire;
