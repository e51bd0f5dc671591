//! How fast a snapshot is read beside training.

use super::Inner;
use crate::region::thread_time;
use crate::sync::pause;
use std::time::{Duration, Instant};

/// Of one processor, what reading and writing a snapshot take while the store is trained, unless told otherwise.
const SHARE: f32 = 0.3;
/// The store is trained if a step ended so lately.
const LATELY: Duration = Duration::from_millis(500);
/// The longest rest at a time.
const REST_MOST: Duration = Duration::from_millis(200);

/// Keeps the thread that reads a snapshot, and between that writes it, to a share of a processor while others train.
pub(super) struct Pace {
    share: f32,
    /// The processor time that the thread had used when it was last let go on.
    used: Option<Duration>,
    steps: u64,
    /// When the number of steps was last seen to have changed.
    trained: Option<Instant>,
}

impl Pace {
    pub(super) fn new(inner: &Inner) -> Pace {
        Pace { share: SHARE, used: None, steps: inner.clock.steps(), trained: None }
    }

    /// Sets the share: from a hundredth to 1, which is no rest at all.
    pub(super) fn set(&mut self, share: f32) {
        // Of what is not a number, the least.
        self.share = share.max(0.01).min(1.0);
    }

    /// Rests from what the thread has done since it was last let go on, until that or images press.
    pub(super) fn rest(&mut self, inner: &Inner) {
        // In a model no time passes.
        if cfg!(any(shuttle, fuzzing)) {
            return;
        }
        let (steps, now, used) = (inner.clock.steps(), Instant::now(), thread_time());
        if std::mem::replace(&mut self.steps, steps) != steps {
            self.trained = Some(now);
        }
        if let Some(before) = self.used
            && self.trained.is_some_and(|trained| now - trained < LATELY)
        {
            let rest = used.saturating_sub(before).mul_f32(self.share.recip() - 1.0);
            let until = now + rest.min(REST_MOST);
            while Instant::now() < until && !inner.moment.is_pressing() {
                pause();
            }
        }
        self.used = Some(thread_time());
    }
}
