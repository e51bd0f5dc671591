//! Embedding storage for training recommenders in bounded memory.

#[doc(hidden)]
pub mod simd;

#[cfg(feature = "train")]
pub mod dlrm;
