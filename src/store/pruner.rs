//! The thread that prunes beside training.

use super::Inner;
use crate::error::ConfigError;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;

#[derive(Default)]
struct Signal {
    wanted: bool,
    stop: bool,
}

/// A running pruning thread. It ends when this is dropped.
pub(super) struct Pruner {
    signal: Arc<(Mutex<Signal>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Pruner {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Pruner, ConfigError> {
        let signal = Arc::new((Mutex::new(Signal::default()), Condvar::new()));
        let (theirs, inner) = (Arc::clone(&signal), Arc::clone(inner));
        let builder = std::thread::Builder::new().name("dimslab-pruner".to_owned());
        let thread = builder.spawn(move || run(&inner, &theirs)).map_err(ConfigError::Thread)?;
        Ok(Pruner { signal, thread: Some(thread) })
    }

    /// Whether the thread has panicked: it does not end otherwise while this is there.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    #[cfg(test)]
    pub(super) fn thread(&self) -> std::thread::ThreadId {
        self.thread.as_ref().map(|thread| thread.thread().id()).expect("set until it is dropped")
    }

    /// Asks for a round.
    pub(super) fn wake(&self) {
        let (state, changed) = &*self.signal;
        state.lock().wanted = true;
        changed.notify_one();
    }
}

fn run(inner: &Inner, signal: &(Mutex<Signal>, Condvar)) {
    let (state, changed) = signal;
    loop {
        let mut state = state.lock();
        while !state.wanted && !state.stop {
            changed.wait(&mut state);
        }
        if state.stop {
            return;
        }
        state.wanted = false;
        drop(state);
        inner.round();
    }
}

impl Drop for Pruner {
    fn drop(&mut self) {
        let (state, changed) = &*self.signal;
        state.lock().stop = true;
        changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened; the store's memory is still freed in order.
            let _ = thread.join();
        }
    }
}
