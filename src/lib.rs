//! Embedding storage for training recommenders in bounded memory.
