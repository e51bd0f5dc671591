//! Embedding storage for training recommenders in bounded memory.

mod budget;
mod directory;
mod id;
mod region;
mod rowcopy;
mod slab;
mod sync;

pub use id::TableId;
