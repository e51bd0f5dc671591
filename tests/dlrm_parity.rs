//! The dense part against other implementations of the same model: PyTorch's numbers, and a
//! double-precision twin over twenty steps; then against itself on other numbers of threads.
//!
//! The numbers under `TORCH_` were printed by this script (PyTorch 2.15, CPU):
//!
//! ```python
//! import math, torch
//!
//! N_DENSE, FEATURES, KEYS, DIM, ROWS, STEPS = 3, 4, 5, 4, 6, 20
//! BOTTOM, TOP = [3, 5, 4], [4 + 10, 6, 1]
//!
//! def wave(n, step, scale):  # Rounded to multiples of 2^-12, so that every language reads the same numbers.
//!     return [round(math.sin(step * (i + 1)) * scale * 4096) / 4096 for i in range(n)]
//!
//! def mlp(sizes, relu_last, step):
//!     layers = []
//!     for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
//!         layer = torch.nn.Linear(a, b)
//!         flat = torch.tensor(wave(a * b + b, step + 0.1 * i, 0.8))
//!         layer.weight.data, layer.bias.data = flat[:a * b].reshape(b, a).clone(), flat[a * b:].clone()
//!         layers += [layer] + ([torch.nn.ReLU()] if relu_last or i + 2 < len(sizes) else [])
//!     return torch.nn.Sequential(*layers)
//!
//! bottom, top = mlp(BOTTOM, True, 0.7), mlp(TOP, False, 1.3)
//! tables = [torch.nn.Embedding(KEYS, DIM) for _ in range(FEATURES)]
//! for t, table in enumerate(tables):
//!     table.weight.data = torch.tensor(wave(KEYS * DIM, 0.9 + 0.2 * t, 0.6)).reshape(KEYS, DIM).clone()
//! parameters = [p for m in [bottom, top, *tables] for p in m.parameters()]
//! optimizer = torch.optim.Adagrad(parameters, lr=0.1, eps=1e-8, initial_accumulator_value=0.01)
//!
//! def batch(step):
//!     dense = torch.tensor(wave(ROWS * N_DENSE, 0.3 + 0.05 * step, 1.0)).reshape(ROWS, N_DENSE)
//!     keys = [torch.tensor([(r * (t + 2) + step * (t + 1)) % KEYS for r in range(ROWS)]) for t in range(FEATURES)]
//!     labels = torch.tensor([float((r + step) % 3 == 0) for r in range(ROWS)])
//!     return dense, keys, labels
//!
//! losses = []
//! for step in range(STEPS):
//!     dense, keys, labels = batch(step)
//!     z = torch.stack([bottom(dense)] + [table(k) for table, k in zip(tables, keys)], 1)
//!     low = torch.tril_indices(FEATURES + 1, FEATURES + 1, -1)
//!     pairs = torch.bmm(z, z.transpose(1, 2))[:, low[0], low[1]]
//!     logits = top(torch.cat([z[:, 0], pairs], 1)).squeeze(1)
//!     loss = torch.nn.BCEWithLogitsLoss()(logits, labels)
//!     optimizer.zero_grad()
//!     loss.backward()
//!     losses.append(loss.item())
//!     if step == 0:
//!         print("LOGITS", logits.tolist())
//!         named = [(f"bottom.{i}.{k}", getattr(bottom[2 * i], k)) for i in range(2) for k in ("weight", "bias")]
//!         named += [(f"top.{i}.{k}", getattr(top[2 * i], k)) for i in range(2) for k in ("weight", "bias")]
//!         named += [(f"table.{t}", table.weight) for t, table in enumerate(tables)]
//!         for name, p in named:
//!             print(name, [float(f"{x:.9g}") for x in p.grad.flatten().tolist()])
//!     optimizer.step()
//! print("LOSSES", losses)
//! ```
#![cfg(all(feature = "train", not(loom)))]

mod twin;

use dimslab::data::Batch;
use dimslab::dlrm::{DenseInput, DenseNet, DenseOptimizer, Dlrm, DlrmConfig, TrainError};
use dimslab::simd::scalar;
use dimslab::{Init, Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use twin::{Numbers, Sample, Twin, relative_error};

/// Six logits of the first step.
const TORCH_LOGITS: [f64; 6] = [
    0.6892436742782593,
    -0.014988243579864502,
    -1.033294439315796,
    -0.2269320785999298,
    -0.3072877824306488,
    0.4780348539352417,
];
/// Every gradient of the first step.
const TORCH_GRADIENTS: [(&str, &[f64]); 12] = [
    (
        "bottom.0.weight",
        &[
            0.017279081,
            0.00460737385,
            -0.0084711602,
            -0.126143798,
            -0.120781824,
            -0.104622684,
            -0.0836429372,
            -0.0807516575,
            -0.070641771,
            0.036476735,
            0.0416396484,
            0.0430794805,
            0.0736467913,
            0.0858487934,
            0.0903734565,
        ],
    ),
    ("bottom.0.bias", &[-0.0128955282, 0.131357163, 0.0879844576, 0.0520725697, -0.104135424]),
    (
        "bottom.1.weight",
        &[
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.00816409383,
            -0.00464989152,
            -0.112626307,
            0.0453168303,
            -0.132279918,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.125715137,
            0.00828582048,
            0.153330609,
            0.207254887,
            0.207623109,
        ],
    ),
    ("bottom.1.bias", &[0.0, -0.0672591999, 0.0, 0.221086234]),
    (
        "top.0.weight",
        &[
            0.0,
            -0.00746513484,
            0.0,
            0.0275743939,
            -0.0113336332,
            0.00365114631,
            -0.010308058,
            0.00738858199,
            -0.0308300871,
            -0.0150366239,
            -0.00525732618,
            0.0534270182,
            0.00143010821,
            0.0214929618,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            -0.0125307608,
            0.0,
            -0.112235539,
            0.0656044856,
            0.0347947851,
            -0.0283611454,
            -0.0497079566,
            0.0372918136,
            -0.000402262318,
            0.017763095,
            -0.0527433679,
            -0.0216233656,
            0.021513097,
            0.0,
            -0.028523501,
            0.0,
            -0.131690994,
            0.020753758,
            0.0354997851,
            -0.0510904714,
            -0.0196992494,
            0.0328507498,
            0.0252775904,
            0.0196713991,
            -0.0426125266,
            -0.0388691835,
            -0.0332965702,
            0.0,
            0.0441053957,
            0.0,
            0.140576333,
            -0.0265979972,
            -0.02991716,
            0.0448179618,
            0.0243656319,
            -0.025020279,
            -0.00296363607,
            -0.0198416412,
            0.0211392548,
            0.0246850923,
            0.00489503145,
            0.0,
            0.0236372985,
            0.0,
            0.11310295,
            -0.0425647423,
            -0.0529809184,
            0.0689525828,
            0.0278704371,
            -0.00602366868,
            0.00891037099,
            -0.0169676729,
            0.0428114347,
            0.0569830164,
            0.0216393415,
        ],
    ),
    ("top.0.bias", &[-0.038634073, 0.0, -0.0881691203, -0.0765324086, 0.128391385, 0.0887914747]),
    ("top.1.weight", &[-0.0131802997, 0.0, 0.145783424, 0.402946144, 0.396345317, 0.168766752]),
    ("top.1.bias", &[0.151511252]),
    (
        "table.0",
        &[
            -0.000101456419,
            0.000732999179,
            -0.00373212527,
            -0.00128230988,
            0.000291356817,
            0.000667186454,
            0.00881635025,
            -0.00604857598,
            -0.0973405689,
            -0.0786505863,
            0.0519666448,
            0.168048978,
            -0.000999893527,
            0.0226801988,
            0.0151516972,
            -0.00596952904,
            -0.0126921078,
            0.00223107915,
            0.00601799786,
            0.032787025,
        ],
    ),
    (
        "table.1",
        &[
            0.0043617757,
            -0.0372166485,
            -0.0202275142,
            -0.0305791497,
            -0.0374198519,
            -0.00107576139,
            0.0396592058,
            0.0459940955,
            0.0133287124,
            -0.00349426945,
            -0.0123499706,
            -0.0246159341,
            -0.0221014358,
            -0.031448856,
            -0.0108153373,
            -0.050323125,
            0.0704461858,
            -0.035382878,
            -0.0835707635,
            -0.018089639,
        ],
    ),
    (
        "table.2",
        &[
            0.0305461213,
            0.0368644372,
            -0.00819936488,
            0.0125875883,
            0.00114935637,
            0.00225417828,
            -0.00258527789,
            0.0143140173,
            -0.00397202279,
            -0.0205162633,
            -0.0420603082,
            0.0189182963,
            -0.00102348253,
            -0.00652491348,
            0.00298734941,
            -0.0218623914,
            0.128302529,
            0.0366828442,
            -0.0930742174,
            -0.0486426204,
        ],
    ),
    (
        "table.3",
        &[
            -0.0249445327,
            -0.0675815269,
            0.0140718818,
            -0.12467055,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
        ],
    ),
];
/// The loss of every step.
const TORCH_LOSSES: [f64; 20] = [
    0.6202705502510071,
    0.8018777370452881,
    0.6381486058235168,
    0.7624733448028564,
    0.8343212008476257,
    0.9324548840522766,
    0.5839224457740784,
    0.7058706879615784,
    0.619563102722168,
    0.6477726101875305,
    0.6137636303901672,
    0.6456170678138733,
    0.667134702205658,
    0.8140749931335449,
    0.7643412947654724,
    0.4858122766017914,
    0.5682005286216736,
    0.6373969912528992,
    0.5424375534057617,
    0.7914350628852844,
];

const ADAGRAD: DenseOptimizer = DenseOptimizer::Adagrad { lr: 0.1, eps: 1e-8, initial_accumulator: 0.01 };

fn wide(values: &[f32]) -> impl Iterator<Item = f64> + '_ {
    values.iter().map(|x| f64::from(*x))
}

/// The script's `wave`.
fn wave(n: usize, step: f64, scale: f64) -> Vec<f32> {
    (0..n).map(|i| (((step * (i + 1) as f64).sin() * scale * 4096.0).round_ties_even() / 4096.0) as f32).collect()
}

/// Embedding tables as plain vectors with Adagrad, the gradients of one key summed first.
struct Tables {
    dim: usize,
    weights: Vec<Vec<f32>>,
    accumulators: Vec<Vec<f32>>,
}

impl Tables {
    fn gather(&self, keys: &[Vec<usize>]) -> Vec<f32> {
        let mut out = Vec::new();
        for (table, keys) in self.weights.iter().zip(keys) {
            for key in keys {
                out.extend_from_slice(&table[key * self.dim..][..self.dim]);
            }
        }
        out
    }

    /// The gradient of table `t`, `[keys, dim]`, from those of the looked-up rows.
    fn gradient(&self, t: usize, keys: &[usize], rows: &[f32]) -> Vec<f32> {
        let mut sum = vec![0.0; self.weights[t].len()];
        for (key, row) in keys.iter().zip(rows.chunks(self.dim)) {
            scalar::add(&mut sum[key * self.dim..][..self.dim], row);
        }
        sum
    }

    fn update(&mut self, t: usize, gradient: &[f32]) {
        scalar::adagrad(&mut self.weights[t], &mut self.accumulators[t], gradient, 0.1, 1e-8);
    }
}

#[test]
fn pytorch_gets_the_same_numbers() {
    let (n_dense, features, keys, dim, rows) = (3, 4, 5, 4, 6);
    let mut net = DenseNet::new(&DlrmConfig {
        n_dense,
        n_features: features,
        dim,
        bottom: vec![5],
        top: vec![6],
        dense_optimizer: ADAGRAD,
        seed: 0,
        threads: 1,
    })
    .unwrap();
    let mut flat = Vec::new();
    for (sizes, step) in [([3, 5, 4], 0.7), ([14, 6, 1], 1.3)] {
        for (i, pair) in sizes.windows(2).enumerate() {
            flat.extend(wave(pair[0] * pair[1] + pair[1], step + 0.1 * i as f64, 0.8));
        }
    }
    net.set_parameters(&flat).unwrap();
    let mut tables = Tables {
        dim,
        weights: (0..features).map(|t| wave(keys * dim, 0.9 + 0.2 * t as f64, 0.6)).collect(),
        accumulators: vec![vec![0.01; keys * dim]; features],
    };

    for (step, expected) in TORCH_LOSSES.iter().enumerate() {
        let dense = wave(rows * n_dense, 0.3 + 0.05 * step as f64, 1.0);
        let keys: Vec<Vec<usize>> =
            (0..features).map(|t| (0..rows).map(|r| (r * (t + 2) + step * (t + 1)) % keys).collect()).collect();
        let labels: Vec<f32> = (0..rows).map(|r| f32::from(u8::from((r + step) % 3 == 0))).collect();
        let embeddings = tables.gather(&keys);
        let mut logits = Vec::new();
        let input = DenseInput { rows, dense: &dense, embeddings: &embeddings };
        let loss = net.backward(&input, &labels, &mut logits).unwrap();
        assert!((loss - expected).abs() < 5e-6, "loss of step {step}: {loss}, PyTorch {expected}");

        let mut gradients: Vec<(String, Vec<f32>)> =
            net.parameters().into_iter().map(|p| (p.name, p.gradient.to_vec())).collect();
        for (t, keys) in keys.iter().enumerate() {
            let mut of_rows = vec![f32::NAN; rows * dim];
            net.copy_embedding_gradient(t, &mut of_rows).unwrap();
            gradients.push((format!("table.{t}"), tables.gradient(t, keys, &of_rows)));
            tables.update(t, &gradients[8 + t].1);
        }
        if step == 0 {
            let error = relative_error(wide(&logits), &TORCH_LOGITS);
            assert!(error < 1e-6, "logits: relative error {error:e}");
            for ((name, got), (torch_name, expected)) in gradients.iter().zip(TORCH_GRADIENTS) {
                assert_eq!(name, torch_name);
                let error = relative_error(wide(got), expected);
                assert!(error < 2e-6, "{name}: relative error {error:e}");
            }
            assert_eq!(gradients.len(), TORCH_GRADIENTS.len());
        }
        net.update();
    }
}

/// A middling model whose embeddings are rows of tables, and its twin.
struct Run {
    net: DenseNet,
    tables: Tables,
    twin: Twin,
    twin_tables: Vec<Vec<f64>>,
    /// Accumulators of the twin's parameters and tables.
    twin_state: (Vec<f64>, Vec<Vec<f64>>),
    /// Sizes that the twin's MLPs go through.
    sizes: (Vec<usize>, Vec<usize>),
    numbers: Numbers,
    n_dense: usize,
}

const KEYS: usize = 40;

fn config(n_dense: usize, n_features: usize, dim: usize, threads: usize) -> DlrmConfig {
    DlrmConfig {
        n_dense,
        n_features,
        dim,
        bottom: vec![32, 24],
        top: vec![40, 16],
        dense_optimizer: ADAGRAD,
        seed: 11,
        threads,
    }
}

impl Run {
    fn new(n_dense: usize, n_features: usize, dim: usize) -> Self {
        let net = DenseNet::new(&config(n_dense, n_features, dim, 2)).unwrap();
        let flat: Vec<f64> = net.parameters().iter().flat_map(|p| wide(p.values)).collect();
        let vectors = n_features + usize::from(n_dense > 0);
        let crossed = vectors * (vectors - 1) / 2 + if n_dense > 0 { dim } else { 0 };
        let bottom = if n_dense > 0 { vec![n_dense, 32, 24, dim] } else { vec![] };
        let mut numbers = Numbers(5);
        let weights: Vec<Vec<f32>> = (0..n_features).map(|_| numbers.vec(KEYS * dim, 0.3)).collect();
        let sizes = (bottom, vec![crossed, 40, 16, 1]);
        Self {
            net,
            twin: Twin::from_flat(&sizes.0, &sizes.1, &flat),
            sizes,
            twin_tables: weights.iter().map(|table| wide(table).collect()).collect(),
            twin_state: (vec![0.01; flat.len()], vec![vec![0.01; KEYS * dim]; n_features]),
            tables: Tables { dim, accumulators: vec![vec![0.01; KEYS * dim]; n_features], weights },
            numbers,
            n_dense,
        }
    }

    /// Draws a batch: dense features, keys of every table, labels.
    fn draw(&mut self, rows: usize) -> (Vec<f32>, Vec<Vec<usize>>, Vec<f32>) {
        let dense = self.numbers.vec(rows * self.n_dense, 1.0);
        let mut key = || (self.numbers.bits() % KEYS as u64) as usize;
        let keys: Vec<Vec<usize>> = self.tables.weights.iter().map(|_| (0..rows).map(|_| key()).collect()).collect();
        // Learnable: the label follows the first key.
        let labels = keys[0].iter().map(|key| f32::from(u8::from(key % 3 == 0))).collect();
        (dense, keys, labels)
    }

    fn samples(&self, dense: &[f32], keys: &[Vec<usize>], labels: &[f32]) -> Vec<Sample> {
        let dim = self.tables.dim;
        let vector = |t: usize, key: usize| self.twin_tables[t][key * dim..][..dim].to_vec();
        (0..labels.len())
            .map(|r| Sample {
                dense: wide(&dense[r * self.n_dense..][..self.n_dense]).collect(),
                vectors: keys.iter().enumerate().map(|(t, keys)| vector(t, keys[r])).collect(),
                label: f64::from(labels[r]),
            })
            .collect()
    }
}

impl Run {
    /// One Adagrad step of the twin and of its tables.
    fn twin_step(&mut self, samples: &[Sample], keys: &[Vec<usize>]) {
        let dim = self.tables.dim;
        let (gradients, vectors) = self.twin.gradients(samples);
        for (t, keys) in keys.iter().enumerate() {
            let mut gradient = vec![0.0; KEYS * dim];
            for (r, key) in keys.iter().enumerate() {
                for (sum, g) in gradient[key * dim..][..dim].iter_mut().zip(&vectors[r][t]) {
                    *sum += g;
                }
            }
            adagrad(&mut self.twin_tables[t], &mut self.twin_state.1[t], &gradient);
        }
        let mut flat = self.twin.flat();
        adagrad(&mut flat, &mut self.twin_state.0, &gradients.flat());
        self.twin = Twin::from_flat(&self.sizes.0, &self.sizes.1, &flat);
    }
}

/// `acc += g²; w -= lr·g/(√acc + eps)` on every number.
fn adagrad(w: &mut [f64], acc: &mut [f64], g: &[f64]) {
    for ((w, acc), g) in w.iter_mut().zip(acc).zip(g) {
        *acc += g * g;
        *w -= 0.1 * g / (acc.sqrt() + 1e-8);
    }
}

#[test]
fn twenty_steps_follow_the_twin() {
    for (n_dense, n_features, dim) in [(13, 8, 16), (0, 6, 8), (4, 3, 7)] {
        let mut run = Run::new(n_dense, n_features, dim);
        let mut first_loss = 0.0;
        for step in 0..20 {
            let rows = if step % 5 == 4 { 33 } else { 200 };
            let (dense, keys, labels) = run.draw(rows);
            let samples = run.samples(&dense, &keys, &labels);

            let embeddings = run.tables.gather(&keys);
            let mut logits = Vec::new();
            let input = DenseInput { rows, dense: &dense, embeddings: &embeddings };
            let loss = run.net.backward(&input, &labels, &mut logits).unwrap();
            let twin_logits: Vec<f64> = samples.iter().map(|sample| run.twin.logit(sample)).collect();
            let error = relative_error(wide(&logits), &twin_logits);
            assert!(error < 2e-5, "logits of step {step}, {n_dense} dense: relative error {error:e}");
            let twin_loss = run.twin.loss(&samples);
            assert!((loss - twin_loss).abs() < 1e-5, "step {step}, {n_dense} dense: loss {loss}, twin {twin_loss}");
            first_loss = if step == 0 { loss } else { first_loss };

            for (t, keys) in keys.iter().enumerate() {
                let mut of_rows = vec![f32::NAN; rows * dim];
                run.net.copy_embedding_gradient(t, &mut of_rows).unwrap();
                let gradient = run.tables.gradient(t, keys, &of_rows);
                run.tables.update(t, &gradient);
            }
            run.net.update();

            run.twin_step(&samples, &keys);
            if step == 19 && n_features == 8 {
                assert!(loss < 0.9 * first_loss, "{n_dense} dense: the model has not learnt: {first_loss} to {loss}");
            }
        }
    }
}

fn store(n_features: usize, dim: usize) -> Store {
    let adagrad = Optimizer::Adagrad { lr: 0.1, eps: 1e-8, initial_accumulator: 0.01 };
    let table = |t| TableConfig::new(format!("t{t}"), dim).optimizer(adagrad).init(Init::Uniform { bound: 0.3 });
    let config = StoreConfig::new(64 << 20).policy(Policy::None).seed(3).deterministic(true);
    Store::new(config, (0..n_features).map(table).collect()).unwrap()
}

fn batch(dense: &[f32], keys: &[Vec<usize>], labels: &[f32]) -> Batch {
    Batch {
        rows: labels.len(),
        n_dense: dense.len() / labels.len(),
        n_features: keys.len(),
        labels: labels.to_vec(),
        dense: dense.to_vec(),
        keys: keys.concat().into_iter().map(|key| key as u64).collect(),
    }
}

/// The model on a store, from look-up to update, against the twin on plain tables.
#[test]
fn twenty_steps_on_a_store_follow_the_twin() {
    for (n_dense, n_features, dim) in [(13, 8, 16), (0, 5, 8)] {
        let mut run = Run::new(n_dense, n_features, dim);
        let store = store(n_features, dim);
        let all: Vec<u64> = (0..KEYS as u64).collect();
        for (t, twin_table) in run.twin_tables.iter_mut().enumerate() {
            // A gradient of zero makes the rows and moves nothing; the twin then starts from the same rows.
            store.apply_gradients(TableId::new(t), &all, &vec![0.0; KEYS * dim]).unwrap();
            store.step().unwrap();
            let mut rows = vec![f32::NAN; KEYS * dim];
            store.gather(TableId::new(t), &all, &mut rows).unwrap();
            assert!(rows.iter().any(|x| *x != 0.0), "rows start from drawn weights");
            *twin_table = wide(&rows).collect();
        }
        let mut model = Dlrm::new(config(n_dense, n_features, dim, 2)).unwrap();
        for step in 0..20 {
            let rows = if step % 5 == 4 { 33 } else { 200 };
            let (dense, keys, labels) = run.draw(rows);
            let batch = batch(&dense, &keys, &labels);
            let samples = run.samples(&dense, &keys, &labels);
            let (mut scores, mut logits) = (Vec::new(), Vec::new());
            model.forward(&store, &batch, &mut scores).unwrap();
            let loss = model.train_step(&store, &batch, &mut logits).unwrap();
            assert_eq!(scores, logits, "a training step scores before it updates");
            assert_eq!(loss.rows, rows);
            let twin_logits: Vec<f64> = samples.iter().map(|sample| run.twin.logit(sample)).collect();
            let error = relative_error(wide(&logits), &twin_logits);
            assert!(error < 2e-5, "logits of step {step}, {n_dense} dense: relative error {error:e}");
            let (mean, twin_loss) = (loss.mean, run.twin.loss(&samples));
            assert!((mean - twin_loss).abs() < 1e-5, "step {step}, {n_dense} dense: loss {mean}, twin {twin_loss}");
            run.twin_step(&samples, &keys);
        }
        store.validate().unwrap();
        assert!(model.buffer_bytes() > 0 && model.parameter_bytes() > 0);
    }
}

/// The same model, store and data on one, two and three threads.
#[test]
fn on_a_store_too_the_number_of_threads_changes_no_bit() {
    let trace = |threads: usize| -> Vec<u64> {
        let mut run = Run::new(3, 5, 8);
        let store = store(5, 8);
        let mut model = Dlrm::new(config(3, 5, 8, threads)).unwrap();
        let mut trace = Vec::new();
        for rows in [300, 130, 1, 300] {
            let (dense, keys, labels) = run.draw(rows);
            let mut logits = Vec::new();
            let loss = model.train_step(&store, &batch(&dense, &keys, &labels), &mut logits).unwrap();
            trace.push(loss.mean.to_bits());
            trace.extend(logits.iter().map(|x| u64::from(x.to_bits())));
        }
        let all: Vec<u64> = (0..KEYS as u64).collect();
        let mut rows = vec![0.0; KEYS * 8];
        for t in 0..5 {
            store.gather(TableId::new(t), &all, &mut rows).unwrap();
            trace.extend(rows.iter().map(|x| u64::from(x.to_bits())));
        }
        trace
    };
    let one = trace(1);
    assert!(one == trace(2) && one == trace(3));
}

#[test]
fn a_store_or_batch_of_another_shape_is_refused() {
    let mut run = Run::new(3, 2, 8);
    let (dense, keys, labels) = run.draw(4);
    let good = batch(&dense, &keys, &labels);
    let mut model = Dlrm::new(config(3, 2, 8, 1)).unwrap();
    let mut logits = Vec::new();
    let mut refused = |store: &Store, batch: &Batch| match model.train_step(store, batch, &mut logits) {
        Err(TrainError::Batch(text)) => text,
        other => panic!("not refused: {other:?}"),
    };
    assert!(refused(&store(3, 8), &good).contains("3 tables"));
    assert!(refused(&store(2, 4), &good).contains("dimension 4"));
    let fitting = store(2, 8);
    assert!(refused(&fitting, &Batch { keys: good.keys[1..].to_vec(), ..good.clone() }).contains("keys"));
    assert!(refused(&fitting, &Batch { labels: vec![], ..good.clone() }).contains("labels"));
    assert!(refused(&fitting, &Batch::default()).contains("no rows"));
    assert_eq!(fitting.stats().rows, 0, "a refused batch trains nothing");
    let mut dirty = good.clone();
    dirty.dense[0] = f32::INFINITY;
    dirty.dense[1] = f32::NEG_INFINITY;
    assert!(matches!(model.train_step(&fitting, &dirty, &mut logits), Err(TrainError::Diverged { .. })));
    assert_eq!(fitting.stats().rows, 0, "a diverged batch trains nothing");
    model.train_step(&fitting, &good, &mut logits).unwrap();
    assert!(fitting.stats().rows > 0);
}

/// Everything that a few steps leave behind, as bits.
fn trace(config: &DlrmConfig, batches: &[usize]) -> Vec<u64> {
    let mut net = DenseNet::new(config).unwrap();
    let mut numbers = Numbers(99);
    let mut trace = Vec::new();
    for &rows in batches {
        let dense = numbers.vec(rows * config.n_dense, 1.0);
        let embeddings = numbers.vec(config.n_features * rows * config.dim, 0.5);
        let labels: Vec<f32> = (0..rows).map(|r| (r % 2) as f32).collect();
        let input = DenseInput { rows, dense: &dense, embeddings: &embeddings };
        let mut logits = Vec::new();
        let loss = net.backward(&input, &labels, &mut logits).unwrap();
        assert_eq!(logits.len(), rows);
        trace.push(loss.to_bits());
        trace.extend(logits.iter().map(|x| u64::from(x.to_bits())));
        let mut gradient = vec![0.0; rows * config.dim];
        for t in 0..config.n_features {
            net.copy_embedding_gradient(t, &mut gradient).unwrap();
            trace.extend(gradient.iter().map(|x| u64::from(x.to_bits())));
        }
        net.update();
        trace.extend(net.parameters().iter().flat_map(|p| p.values).map(|x| u64::from(x.to_bits())));
        net.forward(&input, &mut logits).unwrap();
        trace.extend(logits.iter().map(|x| u64::from(x.to_bits())));
    }
    trace
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // A full batch, the short one at the end of a stream, a single row, and a large one again.
    for batches in [&[300, 130, 1, 700][..], &[1], &[2048, 77]] {
        for (n_dense, n_features) in [(13, 7), (0, 5)] {
            let one = trace(&config(n_dense, n_features, 16, 1), batches);
            for threads in [2, 3] {
                let several = trace(&config(n_dense, n_features, 16, threads), batches);
                assert!(one == several, "{threads} threads, {n_dense} dense features, batches {batches:?}");
            }
        }
    }
}

/// Rows do not see each other: a row's logit is the same alone and in a batch, up to rounding.
#[test]
fn a_row_scores_the_same_in_any_company() {
    let mut net = DenseNet::new(&config(5, 4, 8, 2)).unwrap();
    let (rows, dim) = (150, 8);
    let mut numbers = Numbers(1);
    let (dense, embeddings) = (numbers.vec(rows * 5, 1.0), numbers.vec(4 * rows * dim, 0.5));
    let mut together = Vec::new();
    net.forward(&DenseInput { rows, dense: &dense, embeddings: &embeddings }, &mut together).unwrap();
    for r in [0, 1, 63, 64, 79, 80, 149] {
        let own: Vec<f32> = (0..4).flat_map(|t| embeddings[(t * rows + r) * dim..][..dim].to_vec()).collect();
        let mut alone = Vec::new();
        net.forward(&DenseInput { rows: 1, dense: &dense[r * 5..][..5], embeddings: &own }, &mut alone).unwrap();
        assert!((alone[0] - together[r]).abs() < 1e-5, "row {r}: {} alone, {} together", alone[0], together[r]);
    }
}

#[test]
fn buffers_stop_growing() {
    let mut net = DenseNet::new(&config(5, 4, 8, 2)).unwrap();
    let mut numbers = Numbers(1);
    let (dense, embeddings, labels) = (numbers.vec(500 * 5, 1.0), numbers.vec(500 * 4 * 8, 0.5), vec![1.0; 500]);
    let mut logits = Vec::new();
    let mut step = |net: &mut DenseNet, rows: usize| {
        let input = DenseInput { rows, dense: &dense[..rows * 5], embeddings: &embeddings[..rows * 32] };
        net.backward(&input, &labels[..rows], &mut logits).unwrap();
        net.update();
    };
    // Which thread meets which shard is open, so that a thread may meet its first one late.
    (0..50).for_each(|_| step(&mut net, 500));
    let bytes = net.buffer_bytes();
    assert!(bytes > 0);
    for rows in [500, 20, 1, 500, 64, 499] {
        step(&mut net, rows);
    }
    assert_eq!(net.buffer_bytes(), bytes);
}

#[test]
fn what_does_not_fit_is_refused() {
    let bad = |change: &dyn Fn(&mut DlrmConfig)| {
        let mut config = config(3, 2, 4, 1);
        change(&mut config);
        match DenseNet::new(&config) {
            Err(TrainError::Config(text)) => text,
            Err(other) => panic!("another error: {other}"),
            Ok(_) => panic!("accepted: {config:?}"),
        }
    };
    assert!(bad(&|c| c.dim = 0).contains("width of 0"));
    assert!(bad(&|c| c.bottom = vec![8, 0]).contains("width of 0"));
    assert!(bad(&|c| c.threads = 0).contains("threads is 0"));
    assert!(bad(&|c| c.top = vec![usize::MAX]).contains("a size of"));
    assert!(bad(&|c| c.top = vec![1 << 20, 1 << 20]).contains("parameters"));
    assert!(bad(&|c| (c.n_dense, c.n_features) = (0, 1)).contains("at least two"));
    assert!(bad(&|c| c.dense_optimizer = DenseOptimizer::Sgd { lr: f32::NAN }).contains("lr is NaN"));

    let mut net = DenseNet::new(&config(3, 2, 4, 1)).unwrap();
    let (dense, embeddings, mut logits) = (vec![0.5; 6], vec![0.1; 16], Vec::new());
    let good = DenseInput { rows: 2, dense: &dense, embeddings: &embeddings };
    assert!(matches!(net.copy_embedding_gradient(0, &mut [0.0; 8]), Err(TrainError::Batch(_))));
    assert!(matches!(net.backward(&good, &[1.0], &mut logits), Err(TrainError::Batch(_))));
    let short = DenseInput { dense: &dense[1..], ..good };
    assert!(matches!(net.forward(&short, &mut logits), Err(TrainError::Batch(_))));
    let empty = DenseInput { rows: 0, dense: &[], embeddings: &[] };
    assert!(matches!(net.backward(&empty, &[], &mut logits), Err(TrainError::Batch(_))));
    net.forward(&empty, &mut logits).unwrap();
    assert!(logits.is_empty());

    let before: Vec<f32> = net.parameters().iter().flat_map(|p| p.values.to_vec()).collect();
    let dirty = [0.5, f32::NAN, 0.5, 0.5, 0.5, 0.5];
    let diverged = net.backward(&DenseInput { dense: &dirty, ..good }, &[1.0, 0.0], &mut logits);
    assert!(matches!(diverged, Err(TrainError::Diverged { .. })));
    net.update();
    let after: Vec<f32> = net.parameters().iter().flat_map(|p| p.values.to_vec()).collect();
    assert_eq!(before, after);
}
