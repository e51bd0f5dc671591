//! The sequence word.

use super::*;
use crate::sequence;

fn pair(record: &[AtomicU32]) -> (u32, u32) {
    (record[1].load(Ordering::Relaxed), record[2].load(Ordering::Relaxed))
}

fn started() -> Arc<[AtomicU32]> {
    let record = words([0, 0, 0]);
    sequence::start(&record, 0);
    record
}

#[test]
fn sequence_a_reader_never_sees_half_a_write() {
    explore("sequence: read, write, write", 3, || {
        let record = started();
        let theirs = Arc::clone(&record);
        let writer = spawn(move || {
            for value in 1..3 {
                let claim = sequence::claim(&theirs).unwrap();
                claim.record[1].store(value, Ordering::Relaxed);
                claim.record[2].store(value, Ordering::Relaxed);
            }
        });
        let (one, other) = sequence::read(&record, || Some(pair(&record))).unwrap();
        assert_eq!(one, other, "torn");
        writer.join().unwrap();
        assert_eq!(sequence::read(&record, || Some(pair(&record))).unwrap(), (2, 2), "an update that returned is seen");
    });
}

#[test]
fn sequence_writers_lose_no_update() {
    explore("sequence: write, write", 3, || {
        let record = started();
        let increment = |record: &[AtomicU32]| {
            let claim = sequence::claim(record).unwrap();
            let (one, other) = pair(claim.record);
            assert_eq!(one, other, "a writer sees the last writer's words");
            claim.record[1].store(one + 1, Ordering::Relaxed);
            claim.record[2].store(other + 1, Ordering::Relaxed);
        };
        let theirs = Arc::clone(&record);
        let thread = spawn(move || increment(&theirs));
        increment(&record);
        thread.join().unwrap();
        assert_eq!(pair(&record), (2, 2));
    });
}

#[test]
fn sequence_a_reader_that_loses_patience_keeps_writers_whole() {
    explore("sequence: read, write x 3", 2, || {
        let record = started();
        let theirs = Arc::clone(&record);
        let writer = spawn(move || {
            for _ in 0..3 {
                let claim = sequence::claim(&theirs).unwrap();
                let (one, _) = pair(claim.record);
                claim.record[1].store(one + 1, Ordering::Relaxed);
                claim.record[2].store(one + 1, Ordering::Relaxed);
            }
        });
        let (one, other) = sequence::read(&record, || Some(pair(&record))).unwrap();
        assert_eq!(one, other, "torn");
        writer.join().unwrap();
        assert_eq!(pair(&record), (3, 3));
    });
}
