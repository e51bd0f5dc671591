//! The thread that prunes beside training.

use super::Inner;
use crate::error::ConfigError;
use crate::region::thread_time;
use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Instant;

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
        let builder = Builder::new().name("dimslab-pruner".to_owned());
        let thread = builder.spawn(move || run(&inner, &theirs)).map_err(ConfigError::Thread)?;
        Ok(Pruner { signal, thread: Some(thread) })
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
        let (begin, used) = (Instant::now(), thread_time());
        inner.round();
        inner.move_breadth(rest(signal, begin + (thread_time() - used).div_f32(inner.round_share())));
    }
}

/// Waits until then, or until the store goes. Returns whether a round was asked for meanwhile.
#[cfg(not(shuttle))]
fn rest((state, changed): &(Mutex<Signal>, Condvar), until: Instant) -> bool {
    let mut state = state.lock();
    while !state.stop && !changed.wait_until(&mut state, until).timed_out() {}
    state.wanted
}

/// In a model no time passes.
#[cfg(shuttle)]
fn rest(_: &(Mutex<Signal>, Condvar), _: Instant) -> bool {
    false
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
