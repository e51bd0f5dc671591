//! The thread that prunes beside training.

use super::Inner;
use super::bell::Bell;
use crate::error::ConfigError;
use crate::region::thread_time;
use crate::sync::thread::{Builder, JoinHandle};
use std::sync::Arc;
use std::time::Instant;

/// A running pruning thread. It ends when this is dropped.
pub(super) struct Pruner {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Pruner {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Pruner, ConfigError> {
        let bell = Arc::new(Bell::new());
        let (theirs, inner) = (Arc::clone(&bell), Arc::clone(inner));
        let builder = Builder::new().name("dimslab-pruner".to_owned());
        let thread = builder.spawn(move || run(&inner, &theirs)).map_err(ConfigError::Thread)?;
        Ok(Pruner { bell, thread: Some(thread) })
    }

    /// Whether the thread has panicked: it does not end otherwise while this is there.
    #[cfg(not(shuttle))]
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// In a model a panic ends the whole run.
    #[cfg(shuttle)]
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_none()
    }

    #[cfg(all(test, not(shuttle)))]
    pub(super) fn thread(&self) -> std::thread::ThreadId {
        self.thread.as_ref().map(|thread| thread.thread().id()).expect("set until it is dropped")
    }

    /// Asks for a round.
    pub(super) fn wake(&self) {
        self.bell.ring();
    }
}

fn run(inner: &Inner, bell: &Bell) {
    while bell.hear() {
        let (begin, used) = (Instant::now(), thread_time());
        inner.round();
        let rested = bell.rest(begin + (thread_time() - used).div_f32(inner.round_share()));
        if rested.end {
            return;
        }
        inner.move_breadth(rested.rung);
    }
}

impl Drop for Pruner {
    fn drop(&mut self) {
        self.bell.end();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened; the store's memory is still freed in order.
            let _ = thread.join();
        }
    }
}
