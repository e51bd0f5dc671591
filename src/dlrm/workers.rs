//! The model's own threads.

use std::sync::Arc;

use rayon::prelude::*;

use super::TrainError;

/// More threads than any machine this runs on; a number above is taken for a slip.
const THREADS_MAX: usize = 4096;

/// A pool of N threads, or, for one thread, the caller's own: then nothing is handed over and nobody is
/// woken, which matters for small batches.
#[derive(Clone)]
pub(super) struct Workers {
    pool: Option<Arc<rayon::ThreadPool>>,
}

impl Workers {
    pub(super) fn new(threads: usize) -> Result<Self, TrainError> {
        if threads == 0 || threads > THREADS_MAX {
            return Err(TrainError::Config(format!("threads is {threads}; it must be from 1 to {THREADS_MAX}")));
        }
        if threads == 1 {
            return Ok(Self { pool: None });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("dlrm-{i}"))
            .build()
            .map_err(|error| TrainError::Threads { threads, reason: error.to_string() })?;
        Ok(Self { pool: Some(Arc::new(pool)) })
    }

    pub(super) fn count(&self) -> usize {
        self.pool.as_ref().map_or(1, |pool| pool.current_num_threads())
    }

    /// Which of the threads this is, below [`count`](Self::count). Meaningful inside [`run`](Self::run).
    pub(super) fn current(&self) -> usize {
        self.pool.as_ref().and_then(|pool| pool.current_thread_index()).unwrap_or(0)
    }

    /// Runs `work` on one of the threads, so that the calls it makes hand over work without being handed
    /// over themselves.
    pub(super) fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            None => work(),
            Some(pool) => pool.install(work),
        }
    }

    /// Runs `work` on every item, each on any of the threads.
    pub(super) fn each<T: Send>(&self, items: &mut [T], work: impl Fn(usize, &mut T) + Send + Sync) {
        match &self.pool {
            None => items.iter_mut().enumerate().for_each(|(i, item)| work(i, item)),
            Some(pool) => {
                pool.install(|| items.par_iter_mut().with_max_len(1).enumerate().for_each(|(i, item)| work(i, item)));
            }
        }
    }

    /// Runs `work` on every piece of `len` values, the last perhaps shorter. Pieces not begun when one fails
    /// are left out; which of several errors comes back is open.
    pub(super) fn try_pieces<E: Send>(
        &self,
        values: &mut [f32],
        len: usize,
        work: impl Fn(usize, &mut [f32]) -> Result<(), E> + Send + Sync,
    ) -> Result<(), E> {
        let len = len.max(1);
        match &self.pool {
            None => values.chunks_mut(len).enumerate().try_for_each(|(i, piece)| work(i, piece)),
            Some(pool) => pool.install(|| {
                let pieces = values.par_chunks_mut(len).with_max_len(1).enumerate();
                pieces.try_for_each(|(i, piece)| work(i, piece))
            }),
        }
    }

    /// Runs `work` for every number below `count`, each on any of the threads. Errors as in
    /// [`try_pieces`](Self::try_pieces).
    pub(super) fn try_each<E: Send>(
        &self,
        count: usize,
        work: impl Fn(usize) -> Result<(), E> + Send + Sync,
    ) -> Result<(), E> {
        match &self.pool {
            None => (0..count).try_for_each(work),
            Some(pool) => pool.install(|| (0..count).into_par_iter().with_max_len(1).try_for_each(work)),
        }
    }

    /// Runs `work` on every piece of `len` values and the piece of `beside` that belongs to it, which is as long, or
    /// empty if `beside` is.
    pub(super) fn pieces(
        &self,
        values: &mut [f32],
        beside: &mut [f32],
        len: usize,
        work: impl Fn(usize, &mut [f32], &mut [f32]) + Send + Sync,
    ) {
        if beside.is_empty() {
            let alone = |i: usize, piece: &mut [f32]| {
                work(i, piece, &mut []);
                Ok::<(), std::convert::Infallible>(())
            };
            let Ok(()) = self.try_pieces(values, len, alone);
            return;
        }
        let len = len.max(1);
        match &self.pool {
            None => {
                let pieces = values.chunks_mut(len).zip(beside.chunks_mut(len));
                pieces.enumerate().for_each(|(i, (piece, beside))| work(i, piece, beside));
            }
            Some(pool) => pool.install(|| {
                let pieces = values.par_chunks_mut(len).zip(beside.par_chunks_mut(len)).with_max_len(1).enumerate();
                pieces.for_each(|(i, (piece, beside))| work(i, piece, beside));
            }),
        }
    }
}
