//! A store in which every point can be come to, and what threads do with it.

use super::cases::{Claims, Script};
use crate::hash::tag;
use crate::snapshot::{RowBlock, Source};
use crate::{Decay, Fallback, FiitedConfig, Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use std::collections::HashSet;

/// As many records have room with what AddressSanitizer has put between them.
pub(super) const BUDGET: u64 = if cfg!(dimslab_asan) { 23 << 16 } else { 17 << 16 };
pub(super) const DIM: usize = 16;
/// Whole rows.
pub(super) fn rows() -> TableId {
    TableId::new(0)
}

/// Rows whose missing dimensions read as a shared one.
pub(super) fn shared() -> TableId {
    TableId::new(1)
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Of four rows three have gone again: a round empties superblocks and cuts nothing.
    Sparse,
    /// All superblocks are full, with room for more: a round cuts.
    Full,
}

pub(super) struct Scene {
    pub(super) store: Store,
    /// Rows that are there from the beginning.
    pub(super) keys: Vec<u64>,
    /// Keys without a row whose tags begin alike.
    corner: Vec<u64>,
}

/// A gradient that differs from dimension to dimension and from key to key, so that some chunks matter more.
pub(super) fn gradients(keys: &[u64]) -> Vec<f32> {
    let value = |key: u64, dim: u64| 0.5 + (key.wrapping_mul(31).wrapping_add(dim / 4 * 7) % 64) as f32 / 8.0;
    keys.iter().flat_map(|&key| (0..DIM as u64).map(move |dim| value(key, dim))).collect()
}

impl Scene {
    pub(super) fn new(kind: Kind) -> Scene {
        Scene::with_budget(kind, BUDGET)
    }

    pub(super) fn with_budget(kind: Kind, budget: u64) -> Scene {
        let policy = FiitedConfig {
            decay: Decay::PerStep(0.5),
            // Rounds only when a test asks for one.
            period_steps: u64::MAX,
            warmup_steps: u64::MAX,
            headroom: 0.5,
            ..FiitedConfig::default()
        };
        let plain = TableConfig::new("rows", DIM).optimizer(Optimizer::Sgd { lr: 1.0 });
        let with_default = TableConfig::new("shared", DIM).optimizer(Optimizer::Sgd { lr: 1.0 });
        let config = StoreConfig::new(budget).policy(Policy::Fiited(policy)).snapshots(true);
        let store = Store::new(config, vec![plain, with_default.fallback(Fallback::DefaultVector)]).unwrap();
        let count = if kind == Kind::Sparse { 4000 } else { 5500 };
        let all: Vec<u64> = (0..count).collect();
        for keys in all.chunks(100) {
            let applied = store.apply_gradients(rows(), keys, &gradients(keys)).unwrap();
            assert_eq!((applied.admitted, applied.refused), (keys.len() as u64, 0));
        }
        let (keys, gone): (Vec<u64>, Vec<u64>) =
            all.into_iter().partition(|key| kind == Kind::Full || key.is_multiple_of(4));
        gone.iter().for_each(|&key| assert!(store.remove(rows(), key).unwrap()));
        // So old that a round begins new units.
        (0..5).for_each(|_| assert!(store.step().unwrap().round.is_none()));
        store.validate().unwrap();
        let hash = |key: &u64| store.inner.tables[rows().index()].hash(*key);
        let corner = (1u64 << 40..).filter(|key| tag(hash(key)) >> 26 == 0).take(1600).collect();
        Scene { store, keys, corner }
    }

    /// What the thread that is to be stopped does.
    pub(super) fn play(&self, script: Script) {
        let mut out = vec![0.0; self.keys.len() * DIM];
        match script {
            Script::NewStore => drop(Scene::new(Kind::Sparse)),
            Script::Stats => drop(self.store.stats()),
            Script::Read => self.store.gather(rows(), &self.keys, &mut out).unwrap(),
            Script::Update => self.train(&self.keys),
            Script::Insert => self.corner.chunks(50).for_each(|keys| self.train(keys)),
            Script::Grow => {
                self.take_a_chunk_each(&self.keys[..20]);
                self.train(&self.keys[..20]);
            }
            Script::Shared => self.corner.chunks(50).for_each(|keys| {
                self.store.apply_gradients(shared(), keys, &gradients(keys)).unwrap();
            }),
            Script::Remove => self.keys.iter().take(100).for_each(|&key| {
                self.store.remove(rows(), key).unwrap();
            }),
            Script::Round => {
                self.store.prune().unwrap();
            }
            Script::Snapshot => {
                let mut snapshot = self.store.snapshot(crate::SnapshotKind::Full).unwrap();
                // It is given up if others had to wait too long.
                while let Ok(true) = snapshot.next(&mut RowBlock::default()) {}
            }
            Script::Keep => {
                let _unread = self.store.snapshot(crate::SnapshotKind::Full).unwrap();
                self.train(&self.keys);
            }
        }
    }

    fn take_a_chunk_each(&self, keys: &[u64]) {
        let inner = &self.store.inner;
        let (table, guard) = (&inner.tables[rows().index()], inner.reclaimer.pin());
        let chains = table.chains(&inner.slabs);
        for &key in keys {
            let hash = table.resolve(key);
            let row = (tag(hash), table.find(&chains, hash, &guard).unwrap());
            let claim = chains.claim(row).unwrap();
            inner.pinned(table, &guard).shrink(row, claim, |info| info.ordinal == 2);
        }
    }

    fn train(&self, keys: &[u64]) {
        self.store.apply_gradients(rows(), keys, &gradients(keys)).unwrap();
    }

    /// Keys whose rows are claimed, while nobody else is at work.
    pub(super) fn claimed(&self) -> HashSet<u64> {
        let inner = &self.store.inner;
        let table = &inner.tables[rows().index()];
        let (chains, guard) = (table.chains(&inner.slabs), inner.reclaimer.pin());
        let mut claimed = HashSet::new();
        let mut at = Some(0);
        while let Some(from) = at {
            at = table.directory.walk(from, &guard, |tag, head| {
                if chains.is_claimed(head) {
                    claimed.insert(table.row_key(chains.hash(tag, head)));
                }
            });
        }
        claimed
    }

    /// What is counted has been done: no row is counted as evicted that a directory still has, and none as admitted that
    /// is not there yet. Only what the stopped thread does may lag behind.
    pub(super) fn check_counts(&self, script: Script) {
        let inner = &self.store.inner;
        for table in &inner.tables {
            let guard = inner.reclaimer.pin();
            let (mut there, mut at) = (0, Some(0));
            while let Some(from) = at {
                at = table.directory.walk(from, &guard, |_, _| there += 1);
            }
            let events = table.events();
            let counted = events.admitted - events.evicted;
            match script {
                Script::Insert | Script::Grow | Script::Shared => {
                    assert!(counted <= there, "{there} rows, after {events:?}")
                }
                Script::Remove | Script::Round => assert!(counted >= there, "{there} rows, after {events:?}"),
                _ => assert_eq!(counted, there, "{events:?}"),
            }
            assert!(counted.abs_diff(there) <= 1, "{there} rows, after {events:?}");
        }
    }

    pub(super) fn check_claims(&self, claims: Claims) -> HashSet<u64> {
        let claimed = self.claimed();
        let most = match claims {
            Claims::None | Claims::Shared => 0..=0,
            Claims::Perhaps => 0..=1,
            Claims::One => 1..=1,
        };
        assert!(most.contains(&claimed.len()), "rows {claimed:?} are claimed, expected {claims:?}");
        claimed
    }

    /// Lookups, updates, inserts with growth, and removal, all of a fixed number. `seed` sets threads' keys apart.
    pub(super) fn work(&self, seed: u64, avoid: &HashSet<u64>) {
        let there: Vec<u64> = self.keys.iter().copied().filter(|key| !avoid.contains(key)).collect();
        let mut out = vec![f32::NAN; there.len() * DIM];
        self.store.gather(rows(), &there, &mut out).unwrap();
        assert!(out.iter().all(|value| value.is_finite()));
        there.chunks(100).for_each(|keys| self.train(keys));
        let new = seed << 32..(seed << 32) + 500;
        let new: Vec<u64> = new.collect();
        for keys in new.chunks(50) {
            let made = self.store.apply_gradients(rows(), keys, &gradients(keys)).unwrap();
            assert_eq!((made.admitted, made.grown, made.refused), (50, 150, 0), "whole rows were not made");
            let stepped = self.store.apply_gradients(rows(), keys, &gradients(keys)).unwrap();
            assert_eq!((stepped.updated, stepped.missed), (50, 0), "a row that was made is missing");
        }
        let mut out = vec![0.0; new.len() * DIM];
        self.store.gather(rows(), &new, &mut out).unwrap();
        let expected: Vec<f32> = gradients(&new).iter().map(|gradient| -gradient).collect();
        assert_eq!(out, expected);
        new.iter().for_each(|&key| assert!(self.store.remove(rows(), key).unwrap()));
        if avoid.is_empty() {
            // Otherwise a listing waits, too, when it comes to the row.
            assert_eq!(self.store.iter(rows()).unwrap().filter(|row| row.key >> 32 == seed).count(), 0);
        }
    }

    /// Makes rows, and removes them again if it may, until one is refused. Returns whether that came to pass.
    pub(super) fn churn(&self, seed: u64, removes: bool) -> bool {
        let mut next = seed << 32;
        for _ in 0..60 {
            let keys: Vec<u64> = (next..next + 400).collect();
            next += 400;
            let made = self.store.apply_gradients(rows(), &keys, &gradients(&keys)).unwrap();
            let stats = self.store.stats();
            assert!(stats.held <= stats.budget && stats.peak <= stats.budget, "{stats:?}");
            if removes {
                for &key in &keys {
                    self.store.remove(rows(), key).unwrap();
                }
            }
            if made.refused > 0 {
                return true;
            }
        }
        false
    }
}
