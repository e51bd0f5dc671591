//! Where threads rest, so that the store has quiet points.

use parking_lot::{Condvar, Mutex};

use crate::sync::{AtomicBool, Ordering};

/// Threads pass it between two operations; while it is closed they wait there.
pub(super) struct Gate {
    /// Whether to look at `state` at all: keeps the lock off the threads' way.
    closed: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    closed: bool,
    resting: usize,
    running: usize,
}

impl Gate {
    /// An open gate for so many threads.
    pub(super) fn new(threads: usize) -> Gate {
        Gate {
            closed: AtomicBool::new(false),
            state: Mutex::new(State { closed: false, resting: 0, running: threads }),
            changed: Condvar::new(),
        }
    }

    /// Waits while the gate is closed.
    pub(super) fn pass(&self) {
        // Relaxed: a thread that sees it late rests one operation later; the lock orders everything else.
        if !self.closed.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        state.resting += 1;
        self.changed.notify_all();
        // Closed again before this thread woke up, it still rests: `resting` stays right.
        while state.closed {
            self.changed.wait(&mut state);
        }
        state.resting -= 1;
    }

    /// Closes the gate, runs `quiet` when every thread rests or has ended, and opens it again.
    pub(super) fn at_rest<T>(&self, quiet: impl FnOnce() -> T) -> T {
        let mut state = self.state.lock();
        state.closed = true;
        self.closed.store(true, Ordering::Relaxed);
        while state.resting < state.running {
            self.changed.wait(&mut state);
        }
        drop(state);
        let outcome = quiet();
        self.closed.store(false, Ordering::Relaxed);
        self.state.lock().closed = false;
        self.changed.notify_all();
        outcome
    }

    /// Whether all threads have ended.
    pub(super) fn is_deserted(&self) -> bool {
        self.state.lock().running == 0
    }

    /// To be held by each thread: tells the gate of its end, a panic included.
    pub(super) fn visitor(&self) -> Visitor<'_> {
        Visitor(self)
    }
}

/// A thread that the gate waits for.
pub(super) struct Visitor<'g>(&'g Gate);

impl Drop for Visitor<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        self.0.changed.notify_all();
    }
}
