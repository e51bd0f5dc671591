//! How a thread of the store is woken, and ended.

use crate::sync::{Condvar, Mutex};
use std::time::Instant;

#[derive(Default)]
struct State {
    rung: bool,
    end: bool,
}

/// What a thread waits for.
pub(super) struct Bell {
    state: Mutex<State>,
    changed: Condvar,
}

/// How a rest ended.
#[cfg_attr(shuttle, derive(Default))]
pub(super) struct Rested {
    /// The thread is to end.
    pub(super) end: bool,
    /// The bell was rung, perhaps before the rest, and not heard yet.
    pub(super) rung: bool,
}

impl Bell {
    pub(super) fn new() -> Bell {
        Bell { state: Mutex::new(State::default()), changed: Condvar::new() }
    }

    /// Wakes the thread.
    pub(super) fn ring(&self) {
        self.state.lock().rung = true;
        self.changed.notify_one();
    }

    /// Asks the thread to end.
    pub(super) fn end(&self) {
        self.state.lock().end = true;
        self.changed.notify_one();
    }

    /// Waits until the bell is rung. Returns false if the thread is to end.
    pub(super) fn hear(&self) -> bool {
        let mut state = self.state.lock();
        while !state.rung && !state.end {
            self.changed.wait(&mut state);
        }
        state.rung = false;
        !state.end
    }

    /// Waits until then, or until the thread is to end.
    #[cfg(not(shuttle))]
    pub(super) fn rest(&self, until: Instant) -> Rested {
        let mut state = self.state.lock();
        while !state.end && !self.changed.wait_until(&mut state, until).timed_out() {}
        Rested { end: state.end, rung: state.rung }
    }

    /// In a model no time passes.
    #[cfg(shuttle)]
    pub(super) fn rest(&self, _: Instant) -> Rested {
        Rested::default()
    }
}
