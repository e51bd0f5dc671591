//! Simulated threads: a hook of the fuzz case that runs, called wherever shared state has taken one step of several.
//! There it may run whole operations of other simulated threads, while the one that came there stands still.

use crate::failpoint::Point;
use std::cell::Cell;

/// Where a simulated thread stands, as far as it matters to what others may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Others may do anything that does not wait for this thread.
    Open,
    /// A directory segment is partly or wholly frozen: whoever needs it must have room to replace it.
    Frozen,
    /// A round has begun, and holds its lock until the operation is over.
    RoundBegins,
    /// A round has measured all rows and is about to cut.
    CutBegins,
}

type Hook = &'static dyn Fn(Place);

thread_local! {
    static HOOK: Cell<Option<Hook>> = const { Cell::new(None) };
}

/// Runs a case, and `hook` wherever it may be interrupted.
pub fn interruptible<T>(hook: &dyn Fn(Place), case: impl FnOnce() -> T) -> T {
    /// Takes the hook away again, also when the case panics.
    struct Hooked;
    impl Drop for Hooked {
        fn drop(&mut self) {
            HOOK.set(None);
        }
    }
    // SAFETY: only the lifetime changes, and the hook is taken away before this call returns.
    HOOK.set(Some(unsafe { std::mem::transmute::<&dyn Fn(Place), Hook>(hook) }));
    let _hooked = Hooked;
    case()
}

pub(crate) fn reach(point: Point) {
    if let Some(hook) = HOOK.get() {
        hook(match point {
            Point::WordFrozen | Point::SegmentFrozen | Point::SuccessorBuilt => Place::Frozen,
            Point::RoundBegun => Place::RoundBegins,
            Point::CutBegins => Place::CutBegins,
            _ => Place::Open,
        });
    }
}
