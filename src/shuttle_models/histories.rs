//! Linearizability: whether what threads saw of one key is what one after the other could have seen.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// One step on one key, with what it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A gradient: one more update if the row is there, which it answers.
    Update { there: bool },
    /// Makes the row, without updates, if it is missing, which it answers.
    Admit { made: bool },
    /// Answers whether the row was there.
    Remove { there: bool },
    /// Answers the row's updates, `None` if it is missing.
    Read(Option<u32>),
}

/// The row's updates while it is there.
type Row = Option<u32>;

impl Step {
    /// What the step makes of the row, unless its answer could not be.
    fn after(self, row: Row) -> Option<Row> {
        let (answer_fits, after) = match self {
            Step::Update { there } => (there == row.is_some(), row.map(|updates| updates + 1)),
            Step::Admit { made } => (made == row.is_none(), row.or(Some(0))),
            Step::Remove { there } => (there == row.is_some(), None),
            Step::Read(seen) => (seen == row, row),
        };
        answer_fits.then_some(after)
    }
}

/// A step and the moments between which it took place.
#[derive(Debug, Clone, Copy)]
struct Event {
    called: u64,
    returned: u64,
    step: Step,
}

/// What each thread did, in its order.
#[derive(Clone, Default)]
pub(super) struct History(Arc<Mutex<(u64, Vec<Vec<Event>>)>>);

impl History {
    fn now(&self) -> u64 {
        // Never held where another thread may go on, so never waited for.
        let mut held = self.0.lock().unwrap();
        held.0 += 1;
        held.0
    }

    /// Runs a call and notes the steps that it answers, which are in their order.
    pub(super) fn note(&self, thread: usize, call: impl FnOnce() -> Vec<Step>) {
        let called = self.now();
        let steps = call();
        let returned = self.now();
        let mut held = self.0.lock().unwrap();
        if held.1.len() <= thread {
            held.1.resize_with(thread + 1, Vec::new);
        }
        held.1[thread].extend(steps.into_iter().map(|step| Event { called, returned, step }));
    }

    /// Panics unless some order of all steps, each between its call and its return, gives every answer.
    pub(super) fn check(&self, row: Row) {
        let held = self.0.lock().unwrap();
        let mut refuted = HashSet::new();
        assert!(
            possible(&held.1, &mut vec![0; held.1.len()], row, &mut refuted),
            "no order of these steps gives these answers, from {row:?}: {:#?}",
            held.1
        );
    }
}

/// Whether what is left after the first `done` steps of each thread can be put in order.
fn possible(threads: &[Vec<Event>], done: &mut Vec<usize>, row: Row, refuted: &mut HashSet<(Vec<usize>, Row)>) -> bool {
    let next = |thread: usize, done: &[usize]| threads[thread].get(done[thread]).copied();
    let left = (0..threads.len()).filter_map(|thread| next(thread, done));
    let Some(first_return) = left.map(|event| event.returned).min() else { return true };
    if refuted.contains(&(done.clone(), row)) {
        return false;
    }
    for thread in 0..threads.len() {
        // Whatever returned before another was called comes before it.
        let Some(event) = next(thread, done).filter(|event| event.called < first_return) else { continue };
        let Some(after) = event.step.after(row) else { continue };
        done[thread] += 1;
        if possible(threads, done, after, refuted) {
            return true;
        }
        done[thread] -= 1;
    }
    refuted.insert((done.clone(), row));
    false
}

#[test]
fn histories_that_cannot_be_are_told_from_those_that_can() {
    let event = |called, returned, step| Event { called, returned, step };
    let can = |threads: Vec<Vec<Event>>| possible(&threads, &mut vec![0; threads.len()], Some(0), &mut HashSet::new());
    let updated = Step::Update { there: true };
    // A read beside two updates may see either; one after them must see both.
    let updates = vec![event(1, 4, updated), event(5, 8, updated)];
    for (seen, fits) in [(0, false), (1, true), (2, true), (3, false)] {
        assert_eq!(can(vec![updates.clone(), vec![event(6, 7, Step::Read(Some(seen)))]]), fits, "{seen} beside");
        assert_eq!(can(vec![updates.clone(), vec![event(9, 10, Step::Read(Some(seen)))]]), seen == 2, "{seen} after");
    }
    // Only one of two removals finds the row, unless it is made again between them.
    let removed = Step::Remove { there: true };
    let twice = vec![vec![event(1, 9, removed)], vec![event(2, 8, removed)]];
    assert!(!can(twice.clone()));
    let made = vec![event(3, 7, Step::Admit { made: true })];
    assert!(can([twice.clone(), vec![made]].concat()));
    let made_late = vec![event(10, 11, Step::Admit { made: true })];
    assert!(!can([twice, vec![made_late]].concat()));
}
