//! One trial: a method, a budget, a seed, one pass over the training rows and then the held-out tail.

use std::collections::BTreeMap;
use std::time::Instant;

use super::methods::Spec;
use super::record::{Band, Done, Point};
use super::stream::{Rows, Stream};
use super::{Method, StudyError, Training};
use crate::dlrm::metrics::{HistogramAuc, LossSums, Metrics, Scored};
use crate::dlrm::{DenseInput, DenseNet, DenseOptimizer, DlrmConfig};
use crate::sync::{AtomicBool, Ordering};

/// What all trials of a grid have in common.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Setup {
    pub(crate) dim: usize,
    pub(crate) bottom: Vec<usize>,
    pub(crate) top: Vec<usize>,
    /// Learning rate of the embeddings' Adagrad.
    pub(crate) lr: f32,
    /// Optimizer of the dense layers.
    pub(crate) dense: DenseOptimizer,
    /// Training rows of a window.
    pub(crate) window: u64,
}

pub(crate) const EPS: f32 = 1e-8;
/// Planted needs are looked for in ids that occur at least 2 to the power of this: the most popular 2,000 of a feature have
/// them.
const NEEDS_FROM: usize = 6;

/// A model with a method in place of its tables.
struct Trainee {
    net: DenseNet,
    method: Box<dyn Method>,
    dim: usize,
    embeddings: Vec<f32>,
    gradient: Vec<f32>,
    logits: Vec<f32>,
}

impl Trainee {
    fn look_up(&mut self, rows: Rows<'_>) -> Result<(), StudyError> {
        let values = rows.rows * self.dim;
        self.embeddings.resize(rows.ids.len() * self.dim, 0.0);
        for (feature, out) in self.embeddings.chunks_exact_mut(values).enumerate() {
            self.method.lookup(feature, rows.feature(feature), out)?;
        }
        Ok(())
    }

    /// Scores rows and learns from them; the scores are those from before.
    fn learn(&mut self, rows: Rows<'_>) -> Result<(), StudyError> {
        self.look_up(rows)?;
        let input = DenseInput { rows: rows.rows, dense: rows.dense, embeddings: &self.embeddings };
        self.net.backward(&input, rows.labels, &mut self.logits)?;
        self.gradient.resize(rows.rows * self.dim, 0.0);
        for feature in 0..rows.ids.len() / rows.rows {
            self.net.copy_embedding_gradient(feature, &mut self.gradient)?;
            self.method.train(feature, rows.feature(feature), &self.gradient)?;
        }
        self.net.update();
        self.method.end_step()
    }

    fn score(&mut self, rows: Rows<'_>) -> Result<(), StudyError> {
        self.look_up(rows)?;
        let input = DenseInput { rows: rows.rows, dense: rows.dense, embeddings: &self.embeddings };
        Ok(self.net.forward(&input, &mut self.logits)?)
    }
}

/// Runs a trial.
///
/// # Errors
/// [`StudyError::OverBudget`] if the method ever held more than `budget`; [`StudyError::Interrupted`] once `stop` is set;
/// what the method and the model refuse.
pub(crate) fn run(
    stream: &Stream,
    spec: &Spec,
    budget: u64,
    seed: u64,
    setup: &Setup,
    stop: &AtomicBool,
) -> Result<Done, StudyError> {
    let config = DlrmConfig {
        n_dense: stream.n_dense,
        n_features: stream.features.len(),
        dim: setup.dim,
        bottom: setup.bottom.clone(),
        top: setup.top.clone(),
        dense_optimizer: setup.dense,
        seed,
        threads: 1,
    };
    let training = Training { lr: setup.lr, eps: EPS, seed };
    let mut trainee = Trainee {
        net: DenseNet::new(&config)?,
        method: spec.build(stream, setup.dim, budget, training)?,
        dim: setup.dim,
        embeddings: Vec::new(),
        gradient: Vec::new(),
        logits: Vec::new(),
    };
    let full_bytes = Spec::full_bytes(stream, setup.dim);
    let limit = if spec.trains_at_full_size() { full_bytes } else { budget };
    let mut course = Course::default();
    let started = Instant::now();
    for rows in stream.train() {
        // Relaxed: the flag alone matters, it publishes no other data.
        if stop.load(Ordering::Relaxed) {
            return Err(StudyError::Interrupted);
        }
        trainee.learn(rows)?;
        course.add(&trainee.logits, rows.labels);
        if course.window.rows() >= setup.window {
            course.close(&*trainee.method, spec, limit)?;
        }
    }
    course.close(&*trainee.method, spec, limit)?;
    let seconds = started.elapsed().as_secs_f64();
    trainee.method.end_training();
    let mut heldout = Scored::default();
    for rows in stream.test() {
        trainee.score(rows)?;
        heldout.add(&trainee.logits, rows.labels);
    }
    let held = trainee.method.held();
    if held.now > budget {
        return Err(over(spec, held.now, budget, course.steps));
    }
    let (bands, needs_met) = dimensions(stream, &*trainee.method);
    Ok(Done {
        budget,
        held: held.now,
        peak: held.peak,
        full_bytes,
        train_rows: course.losses.rows(),
        test_rows: heldout.rows(),
        heldout: heldout.metrics(),
        progressive: course.progressive(),
        windows: course.points,
        bands,
        needs_met,
        samples_per_s: stream.train_rows as f64 / seconds.max(1e-9),
    })
}

fn over(spec: &Spec, held: u64, budget: u64, step: u64) -> StudyError {
    StudyError::OverBudget { method: spec.name.clone(), held, budget, step }
}

/// What is noted while a trial trains.
#[derive(Default)]
struct Course {
    steps: u64,
    window: Scored,
    losses: LossSums,
    histogram: HistogramAuc,
    points: Vec<Point>,
}

impl Course {
    fn add(&mut self, logits: &[f32], labels: &[f32]) {
        self.steps += 1;
        self.window.add(logits, labels);
        self.losses.add(logits, labels);
        self.histogram.add(logits, labels);
    }

    /// Ends a window. The peak is of all moments, so that it is enough to look at it here.
    fn close(&mut self, method: &dyn Method, spec: &Spec, limit: u64) -> Result<(), StudyError> {
        let held = method.held();
        if held.peak > limit {
            return Err(over(spec, held.peak, limit, self.steps));
        }
        if self.window.rows() > 0 {
            let metrics = self.window.metrics();
            self.points.push(Point { rows: self.losses.rows(), metrics, held: held.now });
            self.window.clear();
        }
        Ok(())
    }

    fn progressive(&self) -> Metrics {
        Metrics { auc: self.histogram.auc(), logloss: self.losses.log_loss(), ne: self.losses.normalized_entropy() }
    }
}

/// Own dimensions by how often ids occur, and how well they follow planted needs.
fn dimensions(stream: &Stream, method: &dyn Method) -> (Vec<Band>, Option<f64>) {
    let mut bands: Vec<(u64, u64)> = Vec::new();
    // By band: ids with each number of dimensions, those without and those with a need.
    let mut needs: Vec<BTreeMap<u16, [u64; 2]>> = Vec::new();
    for feature in 0..stream.features.len() {
        let counts = stream.counts(feature);
        for (id, (&count, dims)) in counts.iter().zip(method.own_dims(feature, counts.len())).enumerate() {
            let band = count.max(1).ilog2() as usize;
            bands.resize(bands.len().max(band + 1), (0, 0));
            bands[band].0 += 1;
            bands[band].1 += u64::from(dims);
            if let Some(&Some(needy)) = stream.needs(feature).get(id) {
                needs.resize_with(needs.len().max(band + 1), BTreeMap::new);
                needs[band].entry(dims).or_default()[usize::from(needy)] += 1;
            }
        }
    }
    let band = |(log, (ids, dims)): (usize, (u64, u64))| Band {
        occurrences: 1 << log,
        ids,
        dims: if ids > 0 { dims as f64 / ids as f64 } else { 0.0 },
    };
    (bands.into_iter().enumerate().map(band).collect(), needs_met(&needs[NEEDS_FROM.min(needs.len())..]))
}

/// Over all pairs of one id with and one without a need in the same band.
fn needs_met(bands: &[BTreeMap<u16, [u64; 2]>]) -> Option<f64> {
    let (mut met, mut pairs) = (0.0, 0.0);
    for band in bands {
        let mut below = 0.0;
        for [without, with] in band.values().map(|ids| ids.map(|count| count as f64)) {
            met += with * (below + 0.5 * without);
            below += without;
        }
        pairs += below * band.values().map(|ids| ids[1] as f64).sum::<f64>();
    }
    (pairs > 0.0).then(|| met / pairs)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::Held;
    use super::super::stream::tests::Listed;
    use super::*;

    pub(crate) fn setup() -> Setup {
        let dense = DenseOptimizer::Adagrad { lr: 0.02, eps: EPS, initial_accumulator: 0.0 };
        Setup { dim: 8, bottom: vec![8], top: vec![8], lr: 0.05, dense, window: 500 }
    }

    /// Labels that follow the ids.
    pub(crate) fn stream(rows: u64) -> Stream {
        let row = |i: u64| {
            let (a, b) = (crate::data::mix(i) % 40, crate::data::mix(i ^ 99) % 3000);
            let clicked = (a + b) % 3 == 0;
            (f32::from(u8::from(clicked)), vec![0.5], vec![a, b])
        };
        Stream::read(&mut Listed::new((0..rows).map(row).collect()), u64::MAX, 300, 64).unwrap()
    }

    #[test]
    fn the_same_trial_gives_the_same_figures() {
        let stream = stream(3000);
        let stop = AtomicBool::new(false);
        for name in ["full", "hash", "fiited", "cafe", "dimslab"] {
            let spec: Spec = name.parse().unwrap();
            let budget = if spec.is_full() { Spec::full_bytes(&stream, 8) } else { 56 << 10 };
            let mut runs = (0..2).map(|_| run(&stream, &spec, budget, 5, &setup(), &stop).unwrap());
            let (one, other) = (runs.next().unwrap(), runs.next().unwrap());
            assert_eq!(
                (one.heldout, &one.windows, &one.bands),
                (other.heldout, &other.windows, &other.bands),
                "{name}"
            );
            assert_eq!((one.train_rows, one.test_rows, one.windows.len()), (2700, 300, 6));
            assert!(one.peak <= budget && one.heldout.auc.unwrap() > 0.4, "{name}: {one:?}");
            let ids: u64 = one.bands.iter().map(|band| band.ids).sum();
            assert_eq!(ids, stream.sizes().iter().sum::<usize>() as u64);
        }
    }

    #[test]
    fn needs_are_met_as_far_as_dimensions_follow_them() {
        let band = |ids: &[(u16, [u64; 2])]| ids.iter().copied().collect::<BTreeMap<_, _>>();
        assert_eq!(needs_met(&[band(&[(0, [5, 0]), (16, [0, 3])])]), Some(1.0));
        assert_eq!(needs_met(&[band(&[(0, [0, 3]), (4, [5, 0])])]), Some(0.0));
        assert_eq!(needs_met(&[band(&[(8, [5, 5])]), BTreeMap::new()]), Some(0.5));
        // Three quarters of the pairs right, the second band without any.
        assert_eq!(needs_met(&[band(&[(0, [1, 1]), (4, [1, 1])]), band(&[(3, [7, 0])])]), Some(0.5));
        assert_eq!(needs_met(&[band(&[(0, [2, 0]), (4, [0, 1]), (8, [0, 1])])]), Some(1.0));
        assert_eq!(needs_met(&[]), None);
    }

    #[test]
    fn a_run_that_is_asked_to_stop_is_no_record() {
        let stream = stream(1000);
        let spec: Spec = "hash".parse().unwrap();
        let stopped = run(&stream, &spec, 1 << 20, 5, &setup(), &AtomicBool::new(true));
        assert!(matches!(stopped, Err(StudyError::Interrupted)));
    }

    /// A method that breaks its word.
    struct Greedy;

    impl Method for Greedy {
        fn lookup(&mut self, _: usize, _: &[u32], out: &mut [f32]) -> Result<(), StudyError> {
            out.fill(0.0);
            Ok(())
        }

        fn train(&mut self, _: usize, _: &[u32], _: &[f32]) -> Result<(), StudyError> {
            Ok(())
        }

        fn held(&self) -> Held {
            Held { now: 10, peak: 101 }
        }

        fn own_dims(&self, _: usize, ids: usize) -> Vec<u16> {
            vec![0; ids]
        }
    }

    #[test]
    fn more_than_the_budget_at_any_moment_voids_the_trial() {
        let spec: Spec = "hash".parse().unwrap();
        let mut course = Course::default();
        course.close(&Greedy, &spec, 101).unwrap();
        let error = course.close(&Greedy, &spec, 100).unwrap_err();
        assert!(matches!(error, StudyError::OverBudget { held: 101, budget: 100, .. }), "{error}");
    }
}
