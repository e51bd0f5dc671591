//! What the store synchronises with under shuttle: before every access to shared memory the scheduler may let another
//! thread go on. Shuttle runs one thread at a time and knows sequential consistency only, so an access behind such a
//! point is all there is to an atomic one, and a weak ordering shows nothing here: that is what the loom models are for.

use super::Ordering;
use super::atomic;
use crossbeam_epoch::{CompareExchangeError, Guard, Pointer, Shared};
use shuttle::sync as lock;
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};

/// Lets the scheduler choose who goes on. Shuttle has no time, so its sleep is this and nothing more; a yield would tell
/// the scheduler that this thread waits for another.
fn point() {
    shuttle::thread::sleep(std::time::Duration::ZERO);
}

/// A wait hands over for good, or the scheduler might let the waiting thread alone go on.
pub(crate) fn spin_wait(_attempt: u32) {
    shuttle::thread::yield_now();
}

pub(crate) fn fence(order: Ordering) {
    point();
    atomic::fence(order);
}

/// Atomics of one word as the real ones are, because region memory is made of them.
macro_rules! scheduled {
    ($name:ident, $value:ty) => {
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub(crate) struct $name(atomic::$name);

        impl $name {
            pub(crate) const fn new(value: $value) -> $name {
                $name(atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                point();
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                point();
                self.0.store(value, order);
            }

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                point();
                self.0.swap(value, order)
            }
        }
    };
}

/// Numbers, with the operations that exchange and those that fetch. There are no spurious failures here: a weak exchange is
/// as strong as the other.
macro_rules! scheduled_number {
    ($name:ident, $value:ty) => {
        scheduled_number!(
            $name, $value,
            compare_exchange compare_exchange_weak,
            fetch_add fetch_sub fetch_or fetch_and fetch_max
        );
    };
    ($name:ident, $value:ty, $($exchange:ident)+, $($fetch:ident)+) => {
        scheduled!($name, $value);

        impl $name {
            $(pub(crate) fn $exchange(
                &self,
                from: $value,
                to: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                point();
                self.0.compare_exchange(from, to, success, failure)
            })+

            $(pub(crate) fn $fetch(&self, operand: $value, order: Ordering) -> $value {
                point();
                self.0.$fetch(operand, order)
            })+

            pub(crate) fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut held = self.load(failure);
                while let Some(wanted) = update(held) {
                    match self.compare_exchange(held, wanted, success, failure) {
                        Ok(before) => return Ok(before),
                        Err(now) => held = now,
                    }
                }
                Err(held)
            }
        }
    };
}

scheduled!(AtomicBool, bool);
scheduled_number!(AtomicU32, u32);
scheduled_number!(AtomicU64, u64);

/// crossbeam-epoch's pointer. Its collector itself is taken as it is: a pin or a collection is one step here.
pub(crate) struct Atomic<T>(crossbeam_epoch::Atomic<T>);

impl<T> Atomic<T> {
    pub(crate) const fn null() -> Atomic<T> {
        Atomic(crossbeam_epoch::Atomic::null())
    }

    pub(crate) fn load<'g>(&self, order: Ordering, guard: &'g Guard) -> Shared<'g, T> {
        point();
        self.0.load(order, guard)
    }

    pub(crate) fn store<P: Pointer<T>>(&self, new: P, order: Ordering) {
        point();
        self.0.store(new, order);
    }

    pub(crate) fn compare_exchange<'g, P: Pointer<T>>(
        &self,
        from: Shared<'_, T>,
        to: P,
        success: Ordering,
        failure: Ordering,
        guard: &'g Guard,
    ) -> Result<Shared<'g, T>, CompareExchangeError<'g, T, P>> {
        point();
        self.0.compare_exchange(from, to, success, failure, guard)
    }
}

impl<T> From<Shared<'_, T>> for Atomic<T> {
    fn from(pointer: Shared<'_, T>) -> Atomic<T> {
        Atomic(pointer.into())
    }
}

/// Shuttle's mutex with the manners of parking_lot's: no poisoning.
pub(crate) struct Mutex<T>(lock::Mutex<T>);

pub(crate) struct MutexGuard<'m, T>(Option<lock::MutexGuard<'m, T>>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Mutex<T> {
        Mutex(lock::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(Some(guard))),
            Err(TryLockError::Poisoned(poisoned)) => Some(MutexGuard(Some(poisoned.into_inner()))),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

const HELD: &str = "only `Condvar::wait` takes the lock out, and puts it back";

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(HELD)
    }
}

pub(crate) struct Condvar(lock::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Condvar {
        Condvar(lock::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect(HELD);
        guard.0 = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }
}
