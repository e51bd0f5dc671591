//! The thread that moves superblocks to huge pages when growth has gone by.
//!
//! The first use of a huge page takes long where the system has to find it, and moving to one stops whoever uses a page for
//! the first time meanwhile. So neither is done while rows come: a superblock is moved once all of it is in memory.

use super::Inner;
use super::bell::Bell;
use crate::error::ConfigError;
use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No superblock is taken for so long: growth has gone by. It is not waited for longer than that.
const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
/// Times that a move has taken, of rest after it.
const RESTS: u32 = 4;

/// A running thread. It ends when this is dropped.
pub(super) struct Mover {
    bell: Arc<Bell>,
    /// How many superblocks had been taken when it was woken last.
    seen: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Mover, ConfigError> {
        let bell = Arc::new(Bell::new());
        let (theirs, inner) = (Arc::clone(&bell), Arc::clone(inner));
        let builder = Builder::new().name("dimslab-mover".to_owned());
        let thread = builder.spawn(move || run(&inner, &theirs)).map_err(ConfigError::Thread)?;
        Ok(Mover { bell, seen: AtomicU64::new(0), thread: Some(thread) })
    }

    /// Wakes the thread if superblocks were taken since the last call.
    #[inline]
    pub(super) fn notice(&self, inner: &Inner) {
        let taken = inner.superblocks.taken();
        // Relaxed: a call too many, or one that the next makes up for.
        if self.seen.load(Ordering::Relaxed) != taken {
            self.seen.store(taken, Ordering::Relaxed);
            self.bell.ring();
        }
    }
}

fn run(inner: &Inner, bell: &Bell) {
    while bell.hear() && wait_for_growth(inner, bell) {
        for superblock in inner.superblocks.numbers() {
            let begin = Instant::now();
            let moved = inner.superblocks.move_to_huge_page(superblock, &inner.reclaimer.pin());
            // One that could not be moved is tried again when more have been taken.
            if moved.unwrap_or(false) && bell.rest(Instant::now() + begin.elapsed() * RESTS).end {
                return;
            }
        }
    }
}

/// Returns false if the thread is to end.
fn wait_for_growth(inner: &Inner, bell: &Bell) -> bool {
    let begin = Instant::now();
    loop {
        let taken = inner.superblocks.taken();
        if bell.rest(Instant::now() + QUIET).end {
            return false;
        }
        if inner.superblocks.taken() == taken || begin.elapsed() > PATIENCE {
            return true;
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.bell.end();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}
