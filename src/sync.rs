//! The only file that names std atomics, so that the same code runs under the model checkers: loom for small models in
//! every interleaving, shuttle for large ones in many (see `sync/scheduled.rs`).

#[cfg(shuttle)]
mod scheduled;

#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(shuttle)]
pub(crate) use scheduled::{Atomic, AtomicBool, AtomicU32, AtomicU64, Condvar, Mutex, fence, spin_wait};
#[cfg(shuttle)]
pub(crate) use shuttle::{thread, thread_local};
#[cfg(shuttle)]
pub(crate) use std::sync::atomic::{self, Ordering};

#[cfg(not(shuttle))]
pub(crate) use crossbeam_epoch::Atomic;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use parking_lot::{Condvar, Mutex};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::{thread, thread_local};

/// Waits a moment inside a retry loop: a processor hint, then a yield once spinning has not helped.
#[cfg(not(any(loom, shuttle)))]
pub(crate) fn spin_wait(attempt: u32) {
    // Simulated threads of a fuzz case have nobody to hand over to.
    if attempt < 64 || cfg!(fuzzing) {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// Waits long enough for another thread to end a batch.
#[cfg(not(any(loom, shuttle)))]
pub(crate) fn pause() {
    if !cfg!(fuzzing) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// In a model no time passes.
#[cfg(shuttle)]
pub(crate) fn pause() {
    spin_wait(u32::MAX);
}

/// Under the model checker every wait must hand over, or the waiting thread alone is explored.
#[cfg(loom)]
pub(crate) fn spin_wait(_attempt: u32) {
    loom::thread::yield_now();
}

/// As above.
#[cfg(loom)]
pub(crate) fn pause() {
    spin_wait(u32::MAX);
}

/// The lock of the model checker, with the face of the real one.
#[cfg(loom)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
