//! The whole DLRM once more, in double precision, sample by sample and number by number: slow, plain, and
//! written from the equations, not from the crate's code. Tests hold the crate to it.

/// One linear layer, `y = w·x + b`.
#[derive(Clone)]
pub(crate) struct Linear {
    pub(crate) w: Vec<Vec<f64>>,
    pub(crate) b: Vec<f64>,
}

/// The model, and at the same time the shape in which gradients come back.
#[derive(Clone)]
pub(crate) struct Twin {
    pub(crate) bottom: Vec<Linear>,
    pub(crate) top: Vec<Linear>,
    pub(crate) has_dense: bool,
}

/// A batch: `dense[row][feature]`, `embeddings[feature][row][dimension]`.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) dense: Vec<f64>,
    pub(crate) vectors: Vec<Vec<f64>>,
    pub(crate) label: f64,
}

impl Linear {
    fn zeros_like(&self) -> Self {
        Self { w: self.w.iter().map(|row| vec![0.0; row.len()]).collect(), b: vec![0.0; self.b.len()] }
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.w.iter().zip(&self.b).map(|(w, b)| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b).collect()
    }
}

fn relu(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x.max(0.0)).collect()
}

/// Everything a forward pass of one sample computes. `before[l]` is what enters layer `l`, `sums[l]` what
/// leaves it ahead of its ReLU.
struct Trace {
    bottom_before: Vec<Vec<f64>>,
    bottom_sums: Vec<Vec<f64>>,
    vectors: Vec<Vec<f64>>,
    top_before: Vec<Vec<f64>>,
    top_sums: Vec<Vec<f64>>,
    logit: f64,
}

impl Twin {
    /// Reads the flat parameters in the order bottom to top, weight (row by row) before bias.
    pub(crate) fn from_flat(bottom: &[usize], top: &[usize], flat: &[f64]) -> Self {
        let mut flat = flat.iter().copied();
        let mut mlp = |sizes: &[usize]| {
            let mut layers = Vec::new();
            for pair in sizes.windows(2) {
                let w = (0..pair[1]).map(|_| flat.by_ref().take(pair[0]).collect()).collect();
                layers.push(Linear { w, b: flat.by_ref().take(pair[1]).collect() });
            }
            layers
        };
        let twin = Self { has_dense: bottom.len() > 1, bottom: mlp(bottom), top: mlp(top) };
        assert!(flat.next().is_none(), "more parameters than the sizes hold");
        twin
    }

    /// Names and flat values of every tensor, in the order of [`from_flat`](Self::from_flat).
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<f64>)> {
        let mut all = Vec::new();
        for (name, mlp) in [("bottom", &self.bottom), ("top", &self.top)] {
            for (i, layer) in mlp.iter().enumerate() {
                all.push((format!("{name}.{i}.weight"), layer.w.concat()));
                all.push((format!("{name}.{i}.bias"), layer.b.clone()));
            }
        }
        all
    }

    pub(crate) fn flat(&self) -> Vec<f64> {
        self.tensors().into_iter().flat_map(|(_, values)| values).collect()
    }

    fn trace(&self, sample: &Sample) -> Trace {
        let (mut bottom_before, mut bottom_sums) = (Vec::new(), Vec::new());
        let mut x = sample.dense.clone();
        for layer in &self.bottom {
            let sum = layer.apply(&x);
            bottom_before.push(std::mem::replace(&mut x, relu(&sum)));
            bottom_sums.push(sum);
        }
        let mut vectors = Vec::new();
        let mut crossed = Vec::new();
        if self.has_dense {
            crossed.extend(&x);
            vectors.push(x);
        }
        vectors.extend(sample.vectors.iter().cloned());
        for i in 0..vectors.len() {
            for j in 0..i {
                crossed.push((0..vectors[i].len()).map(|d| vectors[i][d] * vectors[j][d]).sum::<f64>());
            }
        }
        let (mut top_before, mut top_sums) = (Vec::new(), Vec::new());
        let mut x = crossed;
        for (l, layer) in self.top.iter().enumerate() {
            let sum = layer.apply(&x);
            let y = if l + 1 < self.top.len() { relu(&sum) } else { sum.clone() };
            top_before.push(std::mem::replace(&mut x, y));
            top_sums.push(sum);
        }
        Trace { bottom_before, bottom_sums, vectors, top_before, top_sums, logit: x[0] }
    }

    pub(crate) fn logit(&self, sample: &Sample) -> f64 {
        self.trace(sample).logit
    }

    /// Mean binary cross-entropy, by its textbook form (logits here are small).
    pub(crate) fn loss(&self, samples: &[Sample]) -> f64 {
        let one = |sample: &Sample| {
            let p = 1.0 / (1.0 + (-self.logit(sample)).exp());
            -(sample.label * p.ln() + (1.0 - sample.label) * (1.0 - p).ln())
        };
        samples.iter().map(one).sum::<f64>() / samples.len() as f64
    }

    /// Gradients of the mean loss: by every parameter, in a model of the same shape, and by every sample's
    /// vectors.
    pub(crate) fn gradients(&self, samples: &[Sample]) -> (Twin, Vec<Vec<Vec<f64>>>) {
        let mut sum = Twin {
            bottom: self.bottom.iter().map(Linear::zeros_like).collect(),
            top: self.top.iter().map(Linear::zeros_like).collect(),
            has_dense: self.has_dense,
        };
        let mut vectors = Vec::new();
        for sample in samples {
            let trace = self.trace(sample);
            let p = 1.0 / (1.0 + (-trace.logit).exp());
            let mut flow = vec![(p - sample.label) / samples.len() as f64];
            for l in (0..self.top.len()).rev() {
                let open = |o: usize| l + 1 == self.top.len() || trace.top_sums[l][o] > 0.0;
                flow = back(&self.top[l], &trace.top_before[l], &flow, open, &mut sum.top[l]);
            }
            let n = trace.vectors.len();
            let dim = trace.vectors[0].len();
            let mut dz = vec![vec![0.0; dim]; n];
            let passed = if self.has_dense { dim } else { 0 };
            for d in 0..passed {
                dz[0][d] += flow[d];
            }
            let mut at = passed;
            for i in 0..n {
                for j in 0..i {
                    for (d, (zi, zj)) in trace.vectors[i].iter().zip(&trace.vectors[j]).enumerate() {
                        dz[i][d] += flow[at] * zj;
                        dz[j][d] += flow[at] * zi;
                    }
                    at += 1;
                }
            }
            if self.has_dense {
                let mut flow = dz.remove(0);
                for l in (0..self.bottom.len()).rev() {
                    let open = |o: usize| trace.bottom_sums[l][o] > 0.0;
                    flow = back(&self.bottom[l], &trace.bottom_before[l], &flow, open, &mut sum.bottom[l]);
                }
            }
            vectors.push(dz);
        }
        (sum, vectors)
    }
}

/// One layer backward for one sample: adds to `sum`, returns the gradient of the layer's input.
fn back(layer: &Linear, x: &[f64], dy: &[f64], open: impl Fn(usize) -> bool, sum: &mut Linear) -> Vec<f64> {
    let mut dx = vec![0.0; x.len()];
    for o in (0..dy.len()).filter(|o| open(*o)) {
        sum.b[o] += dy[o];
        for i in 0..x.len() {
            sum.w[o][i] += dy[o] * x[i];
            dx[i] += dy[o] * layer.w[o][i];
        }
    }
    dx
}

/// Numbers without a pattern, from -1 to 1: a counter, mixed (the finalizer of SplitMix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Exactly representable in single precision, so that both models start from the same numbers.
    pub(crate) fn next(&mut self) -> f32 {
        ((self.bits() >> 44) as f32 / (1u32 << 19) as f32) - 1.0
    }

    pub(crate) fn vec(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.next() * scale).collect()
    }
}

/// `max |a - b| / max |b|`: how far a tensor is off, against its own size.
pub(crate) fn relative_error(a: impl IntoIterator<Item = f64>, b: &[f64]) -> f64 {
    let size = b.iter().fold(0.0f64, |size, b| size.max(b.abs()));
    let mut a = a.into_iter();
    let mut worst = 0.0f64;
    for b in b {
        let off = (a.next().expect("as many values") - b).abs();
        assert!(off.is_finite(), "a value that is not finite");
        worst = worst.max(off);
    }
    assert!(a.next().is_none(), "as many values");
    if size == 0.0 { worst } else { worst / size }
}
