//! What the engine's fuzz targets share: reading a case, and letting simulated threads interrupt each other.

use std::cell::Cell;

mod edit;
pub mod world;

pub use edit::edit;

/// The bytes of a case. Beyond their end everything is 0.
pub struct Bytes<'d>(Cell<&'d [u8]>);

impl<'d> Bytes<'d> {
    pub fn new(data: &'d [u8]) -> Bytes<'d> {
        Bytes(Cell::new(data))
    }

    pub fn is_empty(&self) -> bool {
        self.0.get().is_empty()
    }

    pub fn next(&self) -> u8 {
        let Some((&first, rest)) = self.0.get().split_first() else { return 0 };
        self.0.set(rest);
        first
    }

    /// A number below `end`.
    pub fn below(&self, end: usize) -> usize {
        self.next() as usize % end
    }
}

/// Which simulated threads stand in the middle of an operation, and when the next one will be interrupted.
///
/// One operating-system thread runs them all: one that is interrupted stands still while the others run whole
/// operations, which may be interrupted in turn.
pub struct Schedule<const THREADS: usize> {
    busy: Cell<[bool; THREADS]>,
    depth: Cell<u32>,
    /// Points to pass by, then the number of operations to let in.
    armed: Cell<(u8, u8)>,
    operations_left: Cell<u32>,
}

/// Threads that stand still at once, at most.
const DEPTH_MAX: u32 = 3;

impl<const THREADS: usize> Schedule<THREADS> {
    pub fn new(operations: u32) -> Self {
        Schedule {
            busy: Cell::new([false; THREADS]),
            depth: Cell::new(0),
            armed: Cell::new((0, 0)),
            operations_left: Cell::new(operations),
        }
    }

    /// Whether there may be one more operation.
    pub fn take_operation(&self) -> bool {
        let left = self.operations_left.get();
        self.operations_left.set(left.saturating_sub(1));
        left > 0
    }

    /// Whether there may be more operations.
    pub fn goes_on(&self) -> bool {
        self.operations_left.get() > 0
    }

    /// Nobody is interrupted any more.
    pub fn disarm(&self) {
        self.armed.set((0, 0));
    }

    /// Lets `operations` in at the point after the next `points`.
    pub fn arm(&self, points: u8, operations: u8) {
        self.armed.set((points, operations));
    }

    /// No thread stands in the middle of anything.
    pub fn quiet(&self) -> bool {
        self.depth.get() == 0
    }

    /// A thread that is free, beginning at one, and a mark that it is busy.
    pub fn begin(&self, thread: usize) -> Option<Running<'_, THREADS>> {
        let mut busy = self.busy.get();
        let thread = (thread..thread + THREADS).map(|thread| thread % THREADS).find(|&thread| !busy[thread])?;
        busy[thread] = true;
        self.busy.set(busy);
        Some(Running { schedule: self, thread })
    }

    /// A thread may be interrupted here: calls `operation` if it is.
    pub fn point(&self, may: impl FnOnce() -> bool, mut operation: impl FnMut()) {
        match self.armed.get() {
            (_, 0) => {}
            (0, operations) if self.depth.get() < DEPTH_MAX && may() => {
                self.armed.set((0, 0));
                self.depth.set(self.depth.get() + 1);
                (0..operations).for_each(|_| operation());
                self.depth.set(self.depth.get() - 1);
            }
            (0, _) => {}
            (points, operations) => self.armed.set((points - 1, operations)),
        }
    }
}

/// A thread in the middle of an operation.
pub struct Running<'s, const THREADS: usize> {
    schedule: &'s Schedule<THREADS>,
    pub thread: usize,
}

impl<const THREADS: usize> Drop for Running<'_, THREADS> {
    fn drop(&mut self) {
        let mut busy = self.schedule.busy.get();
        busy[self.thread] = false;
        self.schedule.busy.set(busy);
    }
}
