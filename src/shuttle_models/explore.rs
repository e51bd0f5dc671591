//! Running a model in many schedules, or in the one that failed.

use crate::Store;
use crate::sync::thread::{self, JoinHandle};
use shuttle::scheduler::{
    DataSource, PctScheduler, RandomDataSource, RandomScheduler, ReplayScheduler, Schedule, Scheduler, Task, TaskId,
};
use shuttle::{Config, FailurePersistence, Runner};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Priority changes that a PCT schedule begins with.
const PCT_DEPTH: usize = 3;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not what it should be")))
}

/// A thread with the store.
pub(super) fn spawn<T: Send + 'static>(
    store: &Arc<Store>,
    body: impl FnOnce(&Store) -> T + Send + 'static,
) -> JoinHandle<T> {
    let store = Arc::clone(store);
    thread::spawn(move || body(&store))
}

/// Runs a model `DIMSLAB_SHUTTLE_ITERATIONS` times under each scheduler, beginning with `DIMSLAB_SHUTTLE_SEED`; or
/// once, with the schedule in the file `DIMSLAB_SHUTTLE_REPLAY`.
pub(super) fn explore(model: &'static str, body: impl Fn() + Send + Sync + 'static) {
    let body = Arc::new(body);
    if let Some(file) = setting::<String>("DIMSLAB_SHUTTLE_REPLAY") {
        let replay = ReplayScheduler::new_from_file(file).expect("a schedule's file");
        Runner::new(replay, config()).run(move || body());
        return;
    }
    let iterations = setting("DIMSLAB_SHUTTLE_ITERATIONS").unwrap_or(200);
    let seed = setting("DIMSLAB_SHUTTLE_SEED").unwrap_or(1);
    run(model, "random", seed, RandomScheduler::new_from_seed(seed, iterations), &body);
    run(model, "bursts", seed, Bursts::new(seed, iterations), &body);
    run(model, "pct", seed, PctScheduler::new_from_seed(seed, PCT_DEPTH, iterations), &body);
}

fn config() -> Config {
    let mut config = Config::new();
    // A validation's tables and a panic's backtrace need more than the usual 60 KiB.
    config.stack_size = 512 << 10;
    config.failure_persistence = match setting::<String>("DIMSLAB_SHUTTLE_FAILED") {
        Some(folder) => FailurePersistence::File(Some(folder.into())),
        None => FailurePersistence::Print,
    };
    config
}

fn run(
    model: &'static str,
    scheduler: &'static str,
    seed: u64,
    choices: impl Scheduler + 'static,
    body: &Arc<impl Fn() + Send + Sync + 'static>,
) {
    let report = Report { model, scheduler, seed, schedules: Arc::new(Mutex::new(0)), start: Instant::now() };
    let (schedules, body) = (Arc::clone(&report.schedules), Arc::clone(body));
    Runner::new(choices, config()).run(move || {
        *schedules.lock().unwrap() += 1;
        body();
    });
}

/// Says how much was run, and, when a model fails, how to see that again.
struct Report {
    model: &'static str,
    scheduler: &'static str,
    seed: u64,
    schedules: Arc<Mutex<u64>>,
    start: Instant,
}

impl Drop for Report {
    fn drop(&mut self) {
        let Report { model, scheduler, seed, .. } = *self;
        let schedules = *self.schedules.lock().unwrap();
        let seconds = self.start.elapsed().as_secs_f64();
        let rate = schedules as f64 / seconds;
        if std::thread::panicking() {
            eprintln!("FAILED {model}: schedule {schedules} of {scheduler}, seed {seed}");
        } else {
            eprintln!(
                "ran {model}: {schedules} schedules of {scheduler}, seed {seed}, {seconds:.1} s, {rate:.0} a second"
            );
        }
    }
}

/// Goes on with the same thread for a random while. How long that mostly is, is chosen anew for each schedule: from a step
/// or two to half of what a model does.
struct Bursts {
    data: RandomDataSource,
    left: usize,
    /// One in so many steps ends a burst.
    burst: u64,
}

impl Bursts {
    fn new(seed: u64, iterations: usize) -> Bursts {
        Bursts { data: RandomDataSource::initialize(seed), left: iterations, burst: 1 }
    }
}

impl Scheduler for Bursts {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.left = self.left.checked_sub(1)?;
        let schedule = Schedule::new(self.data.reinitialize());
        self.burst = 2 << (self.data.next_u64() % 9);
        Some(schedule)
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool) -> Option<TaskId> {
        let stays = runnable.iter().map(|task| task.id()).find(|&id| Some(id) == current);
        if let Some(id) = stays
            && !yields
            && !self.data.next_u64().is_multiple_of(self.burst)
        {
            return Some(id);
        }
        let others: Vec<TaskId> = runnable.iter().map(|task| task.id()).filter(|&id| Some(id) != current).collect();
        match others.len() as u64 {
            0 => stays,
            count => Some(others[(self.data.next_u64() % count) as usize]),
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.data.next_u64()
    }
}
