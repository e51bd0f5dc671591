//! The power is cut at every step of every operation, and what is left must load: the latest snapshot that was
//! acknowledged, or the next one.

use std::sync::Arc;

use super::sim::{Faults, Keep, SimFs};
use super::tests::{Model, disk, open, root};
use super::*;

/// What a cut may keep: nothing, all, and random subsets of what was not synced.
fn keeps(step: u64, random: u64) -> impl Iterator<Item = Keep> {
    let random = (0..random).map(move |number| Keep::Some(step * 1000 + number));
    [Keep::Nothing, Keep::Everything].into_iter().chain(random)
}

/// Runs `operation` on copies of `disk`, cut at every step it makes, and shows `check` every disk that may be found
/// afterwards. Returns the number of cuts.
fn cut_everywhere(
    disk: &SimFs,
    random: u64,
    operation: impl Fn(&SimFs) -> Result<(), SnapshotError>,
    check: impl Fn(&SimFs, bool),
) -> u64 {
    let whole = disk.copy();
    operation(&whole).unwrap();
    let steps = whole.steps();
    let mut cuts = 0;
    for dies_at in 0..=steps {
        let running = disk.copy();
        running.set_faults(Faults { dies_at: Some(dies_at), ..Faults::default() });
        let acknowledged = operation(&running).is_ok();
        assert_eq!(acknowledged, dies_at == steps, "dead since step {dies_at} of {steps}");
        for keep in keeps(dies_at, random) {
            check(&running.cut(keep), acknowledged);
            cuts += 1;
        }
    }
    cuts
}

fn directory(disk: &SimFs) -> Result<Directory, SnapshotError> {
    Directory::create_on(Arc::new(disk.clone()), root())
}

/// The disk holds one of two states, and can be saved to.
fn holds(disk: &SimFs, old: &Model, new: &Model, acknowledged: bool) {
    let snapshot = open(disk).unwrap();
    snapshot.verify().unwrap();
    let is_new = new.is_in(&snapshot).unwrap();
    assert!(is_new || !acknowledged, "an acknowledged snapshot is lost");
    assert!(is_new || old.is_in(&snapshot).unwrap(), "neither the old nor the new state");
    let mut next = if is_new { new.clone() } else { old.clone() };
    let since = next.step;
    next.work(3, 20);
    next.save(&directory(disk).unwrap(), Some(since)).unwrap();
    assert!(next.is_in(&open(disk).unwrap()).unwrap(), "the next save is not what is read");
    let left = disk.files(root());
    assert!(left.iter().all(|path| !path.to_string_lossy().contains(".tmp")), "{left:?}");
}

#[test]
fn a_first_save_is_whole_or_absent() {
    let disk = SimFs::new();
    let mut model = Model::new(1);
    model.work(40, 60);
    let save = |disk: &SimFs| {
        let directory = Directory::create_on(Arc::new(disk.clone()), root())?;
        model.clone().save(&directory, None).map(|_| ())
    };
    let cuts = cut_everywhere(&disk, 20, save, |disk, acknowledged| match open(disk) {
        Ok(snapshot) => assert!(model.is_in(&snapshot).unwrap()),
        Err(SnapshotError::NotFound { .. } | SnapshotError::Io { .. }) if !acknowledged => {
            save(disk).unwrap();
            assert!(model.is_in(&open(disk).unwrap()).unwrap());
        }
        Err(error) => panic!("acknowledged: {acknowledged}, and {error}"),
    });
    assert!(cuts > 500, "{cuts} cuts");
}

#[test]
fn full_saves_increments_and_compaction_survive_a_cut_at_every_step() {
    let mut cuts = 0;
    for seed in 0..4 {
        let (disk, directory) = disk();
        let mut old = Model::new(seed);
        old.work(40, 60);
        old.save(&directory, None).unwrap();
        // A full one, an increment on it, another.
        for round in 0..3 {
            let since = (round > 0).then_some(old.step);
            let mut new = old.clone();
            new.work(20, 60);
            let save = |disk: &SimFs| new.clone().save(&self::directory(disk)?, since).map(|_| ());
            let mut saved = new.clone();
            saved.changed.clear();
            cuts += cut_everywhere(&disk, 6, save, |disk, acknowledged| holds(disk, &old, &saved, acknowledged));
            new.save(&directory, since).unwrap();
            old = new;
        }
        let compact = |disk: &SimFs| self::directory(disk)?.compact().map(|saved| assert!(saved.is_some()));
        cuts += cut_everywhere(&disk, 6, compact, |disk, acknowledged| holds(disk, &old, &old, acknowledged));
        let tidy = |disk: &SimFs| self::directory(disk)?.keep_newest(1).map(|_| ());
        cuts += cut_everywhere(&disk, 6, tidy, |disk, acknowledged| holds(disk, &old, &old, acknowledged));
    }
    assert!(cuts > 4000, "{cuts} cuts");
}

#[test]
fn a_cut_while_recovering_from_a_cut_loses_nothing() {
    let (disk, directory) = disk();
    let mut old = Model::new(77);
    old.work(20, 30);
    old.save(&directory, None).unwrap();
    let mut new = old.clone();
    new.work(10, 30);
    let save = |disk: &SimFs| new.clone().save(&self::directory(disk)?, Some(old.step)).map(|_| ());
    let whole = disk.copy();
    save(&whole).unwrap();
    let mut saved = new.clone();
    saved.changed.clear();
    let mut cuts = 0;
    for first in (0..whole.steps()).step_by(3) {
        let running = disk.copy();
        running.set_faults(Faults { dies_at: Some(first), ..Faults::default() });
        assert!(save(&running).is_err());
        let found = running.cut(Keep::Some(first));
        if !old.is_in(&open(&found).unwrap()).unwrap() {
            continue;
        }
        cuts += cut_everywhere(&found, 2, save, |disk, acknowledged| holds(disk, &old, &saved, acknowledged));
    }
    assert!(cuts > 1000, "{cuts} cuts");
}
