//! All trials of a comparison, several at a time, each on one thread. A grid that was stopped goes on where it was.

use std::sync::Arc;

use parking_lot::Mutex;

use super::StudyError;
use super::methods::Spec;
use super::record::{Cell, Outcome, Record, Records};
use super::stream::Stream;
use super::trial::{self, Setup};
use crate::sync::{AtomicBool, Ordering};

/// What to compare.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) methods: Vec<Spec>,
    pub(crate) ratios: Vec<f64>,
    pub(crate) seeds: Vec<u64>,
    pub(crate) setup: Setup,
    /// Every seed has the same stream.
    pub(crate) one_stream: bool,
    /// Trials at a time.
    pub(crate) threads: usize,
}

/// How far a grid is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) ended: usize,
    pub(crate) of: usize,
}

impl Plan {
    /// Every trial, seed by seed: a stream is made once, and what is there first is a whole comparison with few seeds.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &seed in &self.seeds {
            let cell = |spec: &Spec, ratio| Cell { method: spec.name.clone(), ratio, seed };
            cells.extend(self.methods.iter().filter(|spec| spec.is_full()).map(|spec| cell(spec, 1.0)));
            for &ratio in &self.ratios {
                cells.extend(self.methods.iter().filter(|spec| !spec.is_full()).map(|spec| cell(spec, ratio)));
            }
        }
        cells
    }

    fn spec(&self, cell: &Cell) -> Option<&Spec> {
        self.methods.iter().find(|spec| spec.name == cell.method)
    }
}

/// The stream of a seed, and the one before until its last trial has ended.
struct Streams<'a> {
    make: &'a (dyn Fn(u64) -> Result<Stream, StudyError> + Sync),
    last: Mutex<Option<(u64, Arc<Stream>)>>,
}

impl Streams<'_> {
    /// Whoever comes first makes it, the others wait.
    fn of(&self, seed: u64) -> Result<Arc<Stream>, StudyError> {
        let mut last = self.last.lock();
        if let Some((_, stream)) = last.as_ref().filter(|(of, _)| *of == seed) {
            return Ok(Arc::clone(stream));
        }
        *last = None;
        let stream = (self.make)(seed)?;
        if stream.train_rows == 0 {
            return Err(StudyError::Empty { rows: stream.test_rows(), test: stream.test_rows() });
        }
        let stream = Arc::new(stream);
        *last = Some((seed, Arc::clone(&stream)));
        Ok(stream)
    }
}

/// Runs every trial that has no record yet and returns all records in the plan's order. `make` gives a seed's stream.
///
/// # Errors
/// The first trial's that failed; trials that are under way then end, and their records are kept.
/// [`StudyError::Interrupted`] once `stop` is set.
pub(crate) fn run(
    plan: &Plan,
    records: &Records,
    make: &(dyn Fn(u64) -> Result<Stream, StudyError> + Sync),
    stop: &AtomicBool,
    on_record: &(dyn Fn(&Record, Progress) + Sync),
) -> Result<Vec<Record>, StudyError> {
    let cells = plan.cells();
    let mut done: Vec<Option<Record>> = cells.iter().map(|cell| records.read(cell)).collect::<Result<_, _>>()?;
    let left: Vec<usize> = (0..cells.len()).filter(|&at| done[at].is_none()).collect();
    let streams = Streams { make, last: Mutex::new(None) };
    let next = Mutex::new(left.iter().copied());
    let (ended, failed) = (Mutex::new(Vec::new()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..plan.threads.clamp(1, left.len().max(1)) {
            scope.spawn(|| {
                while failed.lock().is_none() {
                    let Some(at) = next.lock().next() else { return };
                    match one(plan, &cells[at], &streams, stop).and_then(|record| {
                        records.write(&record)?;
                        // As it is read back: a number may lose its last bit, and a grid that goes on must not differ.
                        Ok(records.read(&cells[at])?.unwrap_or(record))
                    }) {
                        Ok(record) => {
                            let mut ended = ended.lock();
                            ended.push((at, record));
                            let count = cells.len() - left.len() + ended.len();
                            if let Some((_, record)) = ended.last() {
                                on_record(record, Progress { ended: count, of: cells.len() });
                            }
                        }
                        Err(error) => {
                            failed.lock().get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    for (at, record) in ended.into_inner() {
        done[at] = Some(record);
    }
    Ok(done.into_iter().flatten().collect())
}

/// One trial's record.
fn one(plan: &Plan, cell: &Cell, streams: &Streams<'_>, stop: &AtomicBool) -> Result<Record, StudyError> {
    // Relaxed: the flag alone matters, it publishes no other data.
    if stop.load(Ordering::Relaxed) {
        return Err(StudyError::Interrupted);
    }
    let spec = plan.spec(cell).ok_or_else(|| StudyError::Name(format!("`{}` is not in the plan", cell.method)))?;
    let stream = streams.of(if plan.one_stream { 0 } else { cell.seed })?;
    let budget = (Spec::full_bytes(&stream, plan.setup.dim) as f64 / cell.ratio) as u64;
    let outcome = match trial::run(&stream, spec, budget, cell.seed, &plan.setup, stop) {
        Ok(done) => Outcome::Done(Box::new(done)),
        Err(error @ StudyError::TooSmall { .. }) => Outcome::Impossible(error.to_string()),
        Err(StudyError::Config(error @ crate::ConfigError::BudgetTooSmall { .. })) => {
            Outcome::Impossible(error.to_string())
        }
        Err(error) => return Err(error),
    };
    Ok(Record { cell: cell.clone(), outcome })
}

#[cfg(test)]
mod tests {
    use super::super::trial::tests::{setup, stream};
    use super::*;
    use crate::sync::AtomicU64;

    fn plan(threads: usize) -> Plan {
        let methods = ["full", "hash", "small-dim", "dimslab"].map(|name| name.parse().unwrap()).to_vec();
        Plan { methods, ratios: vec![2.0, 30.0], seeds: vec![1, 2], setup: setup(), one_stream: false, threads }
    }

    /// Without what depends on time.
    fn comparable(records: &[Record]) -> Vec<Record> {
        let mut records = records.to_vec();
        for record in &mut records {
            if let Outcome::Done(done) = &mut record.outcome {
                done.samples_per_s = 0.0;
            }
        }
        records
    }

    #[test]
    fn a_stopped_grid_goes_on_and_ends_alike() {
        let make = |seed| Ok(stream(3000 + seed));
        let settings = serde_json::Value::Null;
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stop = AtomicBool::new(false);
        let whole = Records::open(one.path(), &settings).unwrap();
        let at_once = run(&plan(1), &whole, &make, &stop, &|_, _| {}).unwrap();
        assert_eq!(at_once.len(), 2 * 7);
        // Hashing at 30x fits, one dimension of eight does not.
        let impossible: Vec<&Record> = at_once.iter().filter(|record| record.done().is_none()).collect();
        assert!(impossible.iter().any(|record| record.cell.method == "small-dim" && record.cell.ratio == 30.0));
        assert!(impossible.iter().all(|record| record.cell.ratio == 30.0 && record.cell.method != "hash"));

        let parts = Records::open(other.path(), &settings).unwrap();
        let interrupted = run(&plan(1), &parts, &make, &stop, &|_, progress| {
            if progress.ended == 5 {
                stop.store(true, Ordering::Relaxed);
            }
        });
        assert!(matches!(interrupted, Err(StudyError::Interrupted)));
        stop.store(false, Ordering::Relaxed);
        let (ran, of) = (AtomicU64::new(0), AtomicU64::new(0));
        let resumed = run(&plan(2), &parts, &make, &stop, &|_, progress| {
            ran.fetch_add(1, Ordering::Relaxed);
            of.fetch_max(progress.ended as u64, Ordering::Relaxed);
        });
        let resumed = resumed.unwrap();
        assert!(comparable(&resumed) == comparable(&at_once), "the same records");
        assert_eq!((ran.load(Ordering::Relaxed), of.load(Ordering::Relaxed)), (14 - 5, 14));
    }
}
