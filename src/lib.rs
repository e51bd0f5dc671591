//! Embedding storage for training recommenders in bounded memory.

#[cfg(feature = "train")]
pub mod data;
