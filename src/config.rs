//! What a store is made of: its budget, its policy, its tables.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Smallest and largest dimension of a table.
pub(crate) const DIM_RANGE: std::ops::RangeInclusive<usize> = 1..=1024;

/// How a table's weights follow their gradients, with the state that lives beside them.
///
/// State belongs to a chunk and comes and goes with it: a chunk that is grown, or grown again, starts with zero state,
/// because its weights start anew and the old state would only shrink their first steps (AdaEmbed resets evicted rows
/// for the same reason, OSDI'23 section 4.3). The exception is row-wise Adagrad, whose one accumulator belongs to the
/// row: a chunk grown later inherits it, so that the row's older dimensions keep their step size. It goes when the row
/// is evicted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Optimizer {
    /// `w -= lr * g`. No state.
    Sgd {
        /// Learning rate.
        lr: f32,
    },
    /// Duchi et al. 2011: `acc += g²; w -= lr * g / (sqrt(acc) + eps)`. One value of state per dimension.
    Adagrad {
        /// Learning rate.
        lr: f32,
        /// Added to the root.
        eps: f32,
        /// What `acc` starts with.
        initial_accumulator: f32,
    },
    /// Adagrad with one accumulator per row, of the mean square of the row's gradient over its live dimensions.
    RowwiseAdagrad {
        /// Learning rate.
        lr: f32,
        /// Added to the root.
        eps: f32,
        /// What `acc` starts with.
        initial_accumulator: f32,
    },
    /// Kingma & Ba 2015, algorithm 1, on the rows a batch touches; the bias correction counts a chunk's own updates.
    /// Two values of state per dimension and one per chunk.
    Adam {
        /// Learning rate.
        lr: f32,
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root.
        eps: f32,
    },
}

impl Optimizer {
    /// The learning rate.
    pub fn learning_rate(&self) -> f32 {
        match *self {
            Optimizer::Sgd { lr }
            | Optimizer::Adagrad { lr, .. }
            | Optimizer::RowwiseAdagrad { lr, .. }
            | Optimizer::Adam { lr, .. } => lr,
        }
    }

    fn check(&self, table: &str) -> Result<(), ConfigError> {
        let fail = |what, found: f32, expected| {
            Err(ConfigError::Table { table: table.to_owned(), what, found: found.to_string(), expected })
        };
        let lr = self.learning_rate();
        if !(lr.is_finite() && lr >= 0.0) {
            return fail("the learning rate", lr, "a finite number of at least 0");
        }
        match *self {
            Optimizer::Sgd { .. } => Ok(()),
            Optimizer::Adagrad { eps, initial_accumulator, .. }
            | Optimizer::RowwiseAdagrad { eps, initial_accumulator, .. } => {
                if !(eps.is_finite() && eps > 0.0) {
                    fail("eps", eps, "a finite number above 0")
                } else if !(initial_accumulator.is_finite() && initial_accumulator >= 0.0) {
                    fail("the initial accumulator", initial_accumulator, "a finite number of at least 0")
                } else {
                    Ok(())
                }
            }
            Optimizer::Adam { beta1, beta2, eps, .. } => {
                if !(0.0..1.0).contains(&beta1) {
                    fail("beta1", beta1, "a number from 0 to below 1")
                } else if !(0.0..1.0).contains(&beta2) {
                    fail("beta2", beta2, "a number from 0 to below 1")
                } else if !(eps.is_finite() && eps > 0.0) {
                    fail("eps", eps, "a finite number above 0")
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// What is added to the fallback's value when a chunk is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Init {
    /// Nothing: a new chunk reads as its dimensions did before. The best of four for rows that come back (AdaEmbed,
    /// OSDI'23, figure 12). Right for models whose gradient at zero is not zero, such as a DLRM's dot interaction.
    Zero,
    /// Uniform in `[-bound, bound]`, drawn from the store's seed, the table and the key, so that a row's start does not
    /// depend on when it is made. Needed where every term is a product of embeddings, as in a factorization machine.
    Uniform {
        /// Largest absolute value.
        bound: f32,
    },
}

/// What dimensions without a chunk read as, and where their gradients go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fallback {
    /// They read as zero; their gradients only count for the row's importance.
    Zero,
    /// They read as one vector that all rows of the table share, and train it.
    DefaultVector,
    /// They read as one of `rows` vectors, chosen by a hash of the key, and train it: what the key lost is not lost
    /// altogether (CAFE, SIGMOD'24 section 4). The vectors are always held, as part of the budget.
    HashedRow {
        /// Number of shared vectors.
        rows: usize,
    },
}

/// Which rows keys name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keys {
    /// A row of its own for each key; every `u64` is legal.
    Exact,
    /// A key names row `hash(key) mod virtual_rows`, and keys that fall together share it: FIITED's virtually hashed
    /// table. Rows are then listed by that number.
    Hashed {
        /// Size of the virtual table.
        virtual_rows: u64,
    },
}

/// One table: a categorical feature's id space and its dimension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableConfig {
    pub(crate) name: String,
    pub(crate) dim: usize,
    pub(crate) chunk: usize,
    pub(crate) optimizer: Optimizer,
    pub(crate) init: Init,
    pub(crate) fallback: Fallback,
    pub(crate) keys: Keys,
}

impl TableConfig {
    /// Dimensions of a chunk unless [`chunk`](Self::chunk) says otherwise.
    pub const DEFAULT_CHUNK: usize = 4;
    /// The optimizer unless [`optimizer`](Self::optimizer) says otherwise.
    pub const DEFAULT_OPTIMIZER: Optimizer = Optimizer::Adagrad { lr: 0.01, eps: 1e-8, initial_accumulator: 0.0 };

    /// A table of `dim` dimensions, 1 to 1024.
    #[must_use]
    pub fn new(name: impl Into<String>, dim: usize) -> Self {
        TableConfig {
            name: name.into(),
            dim,
            chunk: Self::DEFAULT_CHUNK,
            optimizer: Self::DEFAULT_OPTIMIZER,
            init: Init::Zero,
            fallback: Fallback::Zero,
            keys: Keys::Exact,
        }
    }

    /// Dimensions of a chunk: 4, 8, 16, 32, 64 or 128. Small chunks follow a row's needs closely; large ones cost less beside
    /// the weights (12 bytes for the row's first chunk, 8 for each further one). Defaults to
    /// [`DEFAULT_CHUNK`](Self::DEFAULT_CHUNK); a table of fewer dimensions has one shorter chunk.
    #[must_use]
    pub fn chunk(mut self, dimensions: usize) -> Self {
        self.chunk = dimensions;
        self
    }

    /// How weights follow gradients. Defaults to [`DEFAULT_OPTIMIZER`](Self::DEFAULT_OPTIMIZER).
    #[must_use]
    pub fn optimizer(mut self, optimizer: Optimizer) -> Self {
        self.optimizer = optimizer;
        self
    }

    /// What a new chunk starts with. Defaults to [`Init::Zero`].
    #[must_use]
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// What missing dimensions read as. Defaults to [`Fallback::Zero`].
    #[must_use]
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = fallback;
        self
    }

    /// Which rows keys name. Defaults to [`Keys::Exact`].
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its dimension.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Seed of the table's hash of row keys in a store with this seed. A seed of its own, so that collisions of hashed rows
    /// are not the same in all tables.
    pub(crate) fn hash_seed(&self, store_seed: u64) -> u64 {
        xxh3_64_with_seed(self.name.as_bytes(), store_seed)
    }

    /// Dimensions of its chunks: what was asked for, or all of the table's if there are fewer.
    #[must_use]
    pub fn chunk_dims(&self) -> usize {
        self.chunk.min(self.dim)
    }

    /// Chunks of a full row.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.dim.div_ceil(self.chunk)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let fail =
            |what, found: String, expected| Err(ConfigError::Table { table: self.name.clone(), what, found, expected });
        if !DIM_RANGE.contains(&self.dim) {
            return fail("the dimension", self.dim.to_string(), "1 to 1024");
        }
        if ![4, 8, 16, 32, 64, 128].contains(&self.chunk) {
            return fail("the chunk size", self.chunk.to_string(), "4, 8, 16, 32, 64 or 128 dimensions");
        }
        if let Init::Uniform { bound } = self.init
            && !(bound.is_finite() && bound >= 0.0)
        {
            return fail("the bound of the initial weights", bound.to_string(), "a finite number of at least 0");
        }
        if self.fallback == (Fallback::HashedRow { rows: 0 }) {
            return fail("the number of shared hashed rows", "0".to_owned(), "at least 1");
        }
        if self.keys == (Keys::Hashed { virtual_rows: 0 }) {
            return fail("the number of virtual rows", "0".to_owned(), "at least 1");
        }
        self.optimizer.check(&self.name)
    }
}

/// Which rows and chunks the budget goes to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Policy {
    /// Every row is made whole when it is first trained and stays; beyond the budget, training it is an error.
    None,
    /// Rows grow and shrink by importance.
    Fiited(FiitedConfig),
}

/// When rows come to huge pages of 2 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HugePages {
    /// Never.
    Never,
    /// Once growth has gone by: a thread of the store moves what is in memory, 2 MiB at a time, and rests in between. No byte
    /// more is held. Where directories take most of 2 MiB of the heap, these are moved too, with whatever lies among them. Where the
    /// budget is smaller than 512 MiB, or the system cannot do it (Linux can from 6.1), all stays where it is;
    /// [`Stats::moved`](crate::Stats::moved) tells how many bytes of rows were moved.
    #[default]
    Later,
    /// Rows from the first use on, as far as the system has such pages; directories later. That use takes a moment, longest where the system has to find
    /// the memory; memory comes and goes 2 MiB at a time, and the largest record sizes of small budgets leave more of it
    /// free. A system that has no such pages is an error when the store is made.
    FirstUse,
}

impl HugePages {
    /// As it is written in snapshots; the first ones told only whether it was from the first use.
    fn written<'de, D: serde::Deserializer<'de>>(source: D) -> Result<HugePages, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            FromFirstUse(bool),
            Name(HugePages),
        }
        Ok(match Written::deserialize(source)? {
            Written::FromFirstUse(false) => HugePages::default(),
            Written::FromFirstUse(true) => HugePages::FirstUse,
            Written::Name(when) => when,
        })
    }
}

/// How fast utilities are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Decay {
    /// FIITED's γ: every step multiplies utilities by this, above 0 and at most 1.
    PerStep(f32),
    /// Utilities halve with every so many accesses for each live row. The window over which rows are compared then
    /// follows the number of rows that there is room for, whatever the batch size: long enough to tell them apart, and
    /// no longer. (Ageing a frequency sketch by the cache's size is TinyLFU's idea, Einziger et al. 2017, section 3.3.)
    PerCapacity(f32),
    /// As [`PerCapacity`](Decay::PerCapacity), by a number from 2.5 to 20 that follows the stream and begins at 5: longer while
    /// rows admitted of late lose importance like those that had a lucky streak, shorter while they keep it like those that
    /// come into fashion.
    Adaptive,
}

/// FIITED's policy (arXiv 2401.04408) and what dimslab adds to it.
///
/// Every chunk has a utility `u <- γ·u + a·g`, with `a` the number of times a step used the row and `g` the norm of the
/// chunk's gradient in that step. Divided by the table's scale, the mean norm of a chunk's gradient over its accesses of
/// late, it is the chunk's importance. A pruning round finds the importance below which chunks must go to leave
/// `headroom` of the budget free, over all tables at once, and takes those chunks. What has no chunk is counted in a
/// sketch of fixed size, and earns a chunk when its importance is clearly above that threshold. While there is room,
/// everything gets its chunks at once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FiitedConfig {
    /// How fast utilities are forgotten. Defaults to [`Decay::Adaptive`].
    pub decay: Decay,
    /// Steps between two pruning rounds; a round also comes when the free part of the budget has run low. Defaults to 500.
    pub period_steps: u64,
    /// Steps before the first round that is not forced by a full budget. Defaults to 100.
    pub warmup_steps: u64,
    /// A missing chunk must be this part more important than the threshold to be grown. Defaults to 0.2.
    pub hysteresis: f32,
    /// The part of the budget that a round leaves free for growth. Defaults to 0.04.
    pub headroom: f32,
    /// The part of the budget that goes to the sketch. Defaults to 1/32.
    pub sketch: f32,
    /// The most of one processor's time that rounds beside training take, 0.001 to 1. Where more rounds are asked for,
    /// they wait, and take up to five times the headroom at once. Has no meaning in a deterministic store, whose rounds
    /// are part of its steps. Defaults to 0.1.
    pub round_share: f32,
}

impl Default for FiitedConfig {
    fn default() -> Self {
        FiitedConfig {
            decay: Decay::Adaptive,
            period_steps: 500,
            warmup_steps: 100,
            hysteresis: 0.2,
            headroom: 0.04,
            sketch: 1.0 / 32.0,
            round_share: 0.1,
        }
    }
}

impl FiitedConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let within = |what, value: f32, ok: bool, expected| {
            if ok { Ok(()) } else { Err(ConfigError::Setting { what, found: value.to_string(), expected }) }
        };
        match self.decay {
            Decay::PerStep(factor) => {
                within("the decay per step", factor, factor > 0.0 && factor <= 1.0, "a number above 0 and at most 1")?;
            }
            Decay::PerCapacity(accesses) => {
                let legal = accesses.is_finite() && accesses >= 0.1;
                within("the decay's accesses per row", accesses, legal, "a finite number of at least 0.1")?;
            }
            Decay::Adaptive => {}
        }
        within("the period", self.period_steps as f32, self.period_steps > 0, "at least 1 step")?;
        let hysteresis = self.hysteresis;
        within(
            "the hysteresis",
            hysteresis,
            hysteresis.is_finite() && hysteresis >= 0.0,
            "a finite number of at least 0",
        )?;
        within("the headroom", self.headroom, (0.005..=0.5).contains(&self.headroom), "0.005 to 0.5")?;
        within("the sketch's part", self.sketch, (0.0001..=0.5).contains(&self.sketch), "0.0001 to 0.5")?;
        let share = self.round_share;
        within("the rounds' share of a processor", share, (0.001..=1.0).contains(&share), "0.001 to 1")
    }
}

/// What all tables of a store have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreConfig {
    pub(crate) budget: u64,
    pub(crate) policy: Policy,
    pub(crate) seed: u64,
    pub(crate) deterministic: bool,
    pub(crate) resident_target: f64,
    pub(crate) snapshots: bool,
    #[serde(deserialize_with = "HugePages::written")]
    pub(crate) huge_pages: HugePages,
}

impl StoreConfig {
    /// The target for resident over live bytes unless [`resident_target`](Self::resident_target) says otherwise.
    pub const DEFAULT_RESIDENT_TARGET: f64 = 1.05;

    /// A store that never holds more than `budget` bytes: slab, directories, sketch, optimizer state, metadata of every
    /// kind, and memory that waits for its last reader. Scratch space of a running call, in proportion to its batch, is
    /// not part of it.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        StoreConfig {
            budget,
            policy: Policy::Fiited(FiitedConfig::default()),
            seed: 0,
            deterministic: false,
            resident_target: Self::DEFAULT_RESIDENT_TARGET,
            snapshots: false,
            huge_pages: HugePages::Later,
        }
    }

    /// Which rows and chunks the budget goes to. Defaults to [`Policy::Fiited`] with its defaults.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Seed of the hash functions and of initial weights. Defaults to 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Growth and pruning happen in [`Store::step`](crate::Store::step), in an order that does not depend on threads,
    /// and not beside training. The same calls then give the same rows, bit for bit, if in each step every table's
    /// gradients come from one thread. What waits for `step` is scratch space like that of a call: one entry for each
    /// distinct key of the step that lacks a chunk. Defaults to false.
    #[must_use]
    pub fn deterministic(mut self, deterministic: bool) -> Self {
        self.deterministic = deterministic;
        self
    }

    /// How many bytes of records may stay in memory for each live one, 1.01 to 100. A round moves the chunks of the
    /// emptiest superblocks elsewhere while more than that is free, and gives the superblocks back to other record sizes
    /// or to the system; one superblock of each record size may be partly free all the same. Lower gives back more and
    /// moves more. Defaults to [`DEFAULT_RESIDENT_TARGET`](Self::DEFAULT_RESIDENT_TARGET).
    #[must_use]
    pub fn resident_target(mut self, ratio: f64) -> Self {
        self.resident_target = ratio;
        self
    }

    /// Keeps the memory that a [snapshot](crate::Store::snapshot) takes beside training: a 64th of the budget for rows
    /// that change before they are saved, a 128th for the keys of rows that are removed between two snapshots, and as much
    /// as the sketch and the shared rows of fallbacks take. It is part of the budget all the time, so that a snapshot
    /// changes nothing of what is grown or pruned. Defaults to false: no snapshots.
    #[must_use]
    pub fn snapshots(mut self, snapshots: bool) -> Self {
        self.snapshots = snapshots;
        self
    }

    /// When rows come to huge pages of 2 MiB. Random rows of stores much larger than the processor's caches are then read
    /// faster. Defaults to [`HugePages::Later`].
    #[must_use]
    pub fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    pub(crate) fn check(&self, tables: &[TableConfig]) -> Result<(), ConfigError> {
        if !(1.01..=100.0).contains(&self.resident_target) {
            return Err(ConfigError::Setting {
                what: "the target for resident over live bytes",
                found: self.resident_target.to_string(),
                expected: "a number from 1.01 to 100",
            });
        }
        if tables.is_empty() {
            return Err(ConfigError::NoTables);
        }
        for (position, table) in tables.iter().enumerate() {
            table.check()?;
            if tables[..position].iter().any(|other| other.name == table.name) {
                return Err(ConfigError::DuplicateTable { name: table.name.clone() });
            }
        }
        match &self.policy {
            Policy::None => Ok(()),
            Policy::Fiited(config) => config.check(),
        }
    }
}
