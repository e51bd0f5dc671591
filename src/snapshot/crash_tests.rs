//! The power is cut at every step of every operation, and what is left must load: the latest snapshot that was
//! acknowledged, or the next one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

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

/// The directory in which the process that is killed works, if this is that process.
const WORKER: &str = "DIMSLAB_KILLED_WORKER";

/// One generation of a worker: what it saves is a function of the generations before it.
fn generation(model: &mut Model, directory: Option<&Directory>, number: u64) {
    let since = (!number.is_multiple_of(4)).then_some(model.step);
    model.work(30, 80);
    if let Some(directory) = directory {
        model.save(directory, since).unwrap();
        if number % 8 == 7 {
            directory.compact().unwrap();
            directory.keep_newest(2).unwrap();
        }
    } else {
        model.changed.clear();
    }
}

fn work_until_killed(path: &Path) -> ! {
    let directory = Directory::create(path).unwrap();
    let mut model = Model::new(99);
    for number in 0.. {
        generation(&mut model, Some(&directory), number);
        println!("ACK {number}");
    }
    unreachable!("it is killed before that");
}

/// Starts a worker in `path`, waits for a random number of acknowledgements, 1 to 12, and a random moment, and kills it;
/// returns its last acknowledgement.
fn kill_a_worker(path: &Path, random: u64) -> usize {
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "snapshot::crash_tests::a_killed_process_leaves_what_it_acknowledged_or_the_next"])
        .args(["--nocapture", "--test-threads=1"])
        .env(WORKER, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(worker.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut numbers = lines.filter_map(|line| line.split("ACK ").nth(1).map(|number| number.parse::<usize>().unwrap()));
    let random = xxh3_64(&random.to_le_bytes());
    let awaited = numbers.nth((random >> 32) as usize % 12).unwrap();
    std::thread::sleep(Duration::from_micros(random % 30_000));
    worker.kill().unwrap();
    worker.wait().unwrap();
    numbers.last().unwrap_or(awaited)
}

/// What a worker's directory holds after each of its generations.
struct Replay {
    model: Model,
    states: Vec<Model>,
}

impl Replay {
    fn new() -> Replay {
        Replay { model: Model::new(99), states: Vec::new() }
    }

    /// The directory holds what was acknowledged, or the next, and can be saved to.
    fn check(&mut self, path: &Path, acknowledged: usize) {
        while self.states.len() < acknowledged + 2 {
            generation(&mut self.model, None, self.states.len() as u64);
            self.states.push(self.model.clone());
        }
        let snapshot = Snapshot::open(path).unwrap();
        snapshot.verify().unwrap();
        let found = self.states[acknowledged..].iter().take(2).any(|state| state.is_in(&snapshot).unwrap());
        assert!(found, "{acknowledged} was acknowledged, and step {} is there", snapshot.manifest().step);
        let mut next = Model::new(1);
        next.work(10, 10);
        next.step = snapshot.manifest().step + 1;
        next.save(&Directory::create(path).unwrap(), None).unwrap();
        assert!(next.is_in(&Snapshot::open(path).unwrap()).unwrap());
    }
}

/// A real process on a real file system is killed at a random moment. `DIMSLAB_KILLS` says how often, 40 if not given.
#[test]
fn a_killed_process_leaves_what_it_acknowledged_or_the_next() {
    if let Some(path) = std::env::var_os(WORKER) {
        work_until_killed(path.as_ref());
    }
    let kills = std::env::var("DIMSLAB_KILLS").map_or(40, |kills| kills.parse::<u64>().unwrap());
    let mut replay = Replay::new();
    for kill in 0..kills {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let acknowledged = kill_a_worker(&path, kill);
        replay.check(&path, acknowledged);
    }
}

/// Runs a command; whether it succeeded.
fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// An image that is mounted, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// With what makes ext4 hide a missing sync switched off.
    fn new(image: &Path, at: PathBuf) -> Option<Mounted> {
        std::fs::create_dir_all(&at).unwrap();
        let options = ["-o", "loop,data=writeback,noauto_da_alloc"];
        run(Command::new("mount").args(options).arg(image).arg(&at)).then(|| Mounted(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg(&self.0));
    }
}

/// The same on a real ext4 whose disk is looked at before anything more is written back: a power cut. Without the right to
/// mount, it says that it was skipped. `DIMSLAB_CUTS` says how often, 8 if not given.
#[test]
fn an_ext4_that_is_cut_holds_what_was_acknowledged_or_the_next() {
    let cuts = std::env::var("DIMSLAB_CUTS").map_or(8, |cuts| cuts.parse::<u64>().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (image, cut) = (folder.path().join("image"), folder.path().join("cut"));
    std::fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
    let made = run(Command::new("mkfs.ext4").arg("-q").arg(&image));
    let Some(disk) = made.then(|| Mounted::new(&image, folder.path().join("disk"))).flatten() else {
        println!("skipped: no mkfs.ext4, or no right to mount");
        return;
    };
    let mut replay = Replay::new();
    for number in 0..cuts {
        let name = format!("checkpoint-{number}");
        let acknowledged = kill_a_worker(&disk.0.join(&name), number);
        assert!(run(Command::new("cp").arg("--sparse=always").arg(&image).arg(&cut)));
        let after = Mounted::new(&cut, folder.path().join("after")).unwrap();
        replay.check(&after.0.join(&name), acknowledged);
        std::fs::remove_dir_all(disk.0.join(&name)).unwrap();
    }
}
