//! How fast a snapshot is read beside training.

use super::Inner;
use crate::region::thread_time;
use crate::sync::pause;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Of one processor, what reading and writing a snapshot take while the store is trained, unless told otherwise.
const SHARE: f32 = 0.2;
/// The store is trained if a step ended so lately.
const LATELY: Duration = Duration::from_millis(500);
/// The longest rest at a time.
const REST_MOST: Duration = Duration::from_millis(200);

/// Keeps the thread that reads a snapshot, and between that writes it, to a share of a processor while others train.
pub(super) struct Pace {
    share: f32,
    /// The thread that was last let go on, and the processor time that it had used.
    thread: Option<ThreadId>,
    used: Option<Duration>,
    steps: u64,
    /// When the number of steps was last seen to have changed.
    trained: Option<Instant>,
}

impl Pace {
    pub(super) fn new(steps: u64) -> Pace {
        Pace { share: SHARE, thread: None, used: None, steps, trained: None }
    }

    /// Sets the share: from a hundredth to 1, which is no rest at all.
    pub(super) fn set(&mut self, share: f32) {
        self.share = if share.is_nan() { SHARE } else { share.clamp(0.01, 1.0) };
    }

    /// Rests from what the thread has done since it was last let go on, until that or images press.
    pub(super) fn rest(&mut self, inner: &Inner) {
        // In a model no time passes.
        if cfg!(any(shuttle, fuzzing)) {
            return;
        }
        let (now, thread) = (Instant::now(), std::thread::current().id());
        if self.thread.replace(thread) != Some(thread) {
            self.used = None;
        }
        let until = now + self.due(inner.clock.steps(), now, thread_time());
        while Instant::now() < until && !inner.moment.is_pressing() {
            pause();
        }
        self.used = Some(thread_time());
    }

    /// Whether the store is trained, as far as was seen.
    pub(super) fn is_trained(&self, now: Instant) -> bool {
        self.trained.is_some_and(|trained| now.saturating_duration_since(trained) < LATELY)
    }

    /// The rest that is due after so many of the store's steps, when the thread has used so much of a processor.
    fn due(&mut self, steps: u64, now: Instant, used: Duration) -> Duration {
        if std::mem::replace(&mut self.steps, steps) != steps {
            self.trained = Some(now);
        }
        // A thread that was not here before has done nothing for this snapshot.
        let worked =
            self.used.filter(|_| self.is_trained(now)).map_or(Duration::ZERO, |before| used.saturating_sub(before));
        worked.min(REST_MOST).mul_f32(self.share.recip() - 1.0).min(REST_MOST)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn the_reader_rests_while_the_store_is_trained() {
        let ms = Duration::from_millis;
        let near = |rest: Duration, expected: f64| assert!((rest.as_secs_f64() - expected).abs() < 1e-6, "{rest:?}");
        let begin = Instant::now();
        let mut pace = Pace::new(7);
        pace.set(0.25);
        // It is not known what the thread did before.
        near(pace.due(8, begin, ms(500)), 0.0);
        pace.used = Some(ms(500));
        near(pace.due(8, begin + ms(3), ms(502)), 0.006);
        near(pace.due(8, begin + ms(450), ms(510)), 0.03);
        near(pace.due(8, begin + ms(450), ms(9_000)), 0.2);
        // Another thread, which has used less.
        near(pace.due(8, begin + ms(450), ms(1)), 0.0);
        // Nobody trains any more; then somebody does again.
        near(pace.due(8, begin + ms(600), ms(510)), 0.0);
        near(pace.due(9, begin + ms(700), ms(510)), 0.03);
        for (share, rest) in
            [(1.0, 0.0), (7.0, 0.0), (0.5, 0.01), (0.0, 0.2), (-1.0, 0.2), (f32::NAN, 0.01 * 0.8 / 0.2)]
        {
            pace.set(share);
            near(pace.due(9, begin + ms(700), ms(510)), rest);
        }
    }

    #[test]
    fn nobody_rests_for_a_store_that_is_not_trained() {
        let mut pace = Pace::new(7);
        pace.used = Some(Duration::ZERO);
        assert_eq!(pace.due(7, Instant::now(), Duration::from_millis(100)), Duration::ZERO);
    }
}
