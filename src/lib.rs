//! Embedding storage for training recommenders in bounded memory.

mod budget;
mod id;
mod region;
mod slab;
mod sync;

pub use id::TableId;
