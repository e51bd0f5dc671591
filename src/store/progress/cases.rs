//! How a thread comes to each point, and what may wait for it there.

use super::scene::Kind;
use crate::failpoint::Point;

/// What the thread does, over and over, until it is there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Script {
    /// Makes a store of its own.
    NewStore,
    /// Takes the figures.
    Stats,
    /// Reads rows.
    Read,
    /// Trains rows that are there.
    Update,
    /// Makes rows whose tags share their first bits, so that one part of the directory grows deep.
    Insert,
    /// Takes a chunk from rows and trains them, so that they grow again.
    Grow,
    /// Trains what has no chunk in a table with shared rows.
    Shared,
    /// Removes rows.
    Remove,
    /// Prunes.
    Round,
    /// Takes a snapshot.
    Snapshot,
    /// Trains rows that a snapshot is still to have, which nobody reads.
    Keep,
}

/// Rows that the thread keeps claimed at the point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Claims {
    None,
    One,
    /// One or none: what it does there it does with and without a claim.
    Perhaps,
    /// No row of a directory, but the one that stands in for missing ones.
    Shared,
}

pub(super) struct Case {
    pub(super) kind: Kind,
    pub(super) script: Script,
    /// Times to pass by first, so that the middle of a loop is met.
    pub(super) skip: u32,
    pub(super) claims: Claims,
    /// The thread is pinned: what others retire waits for it.
    pub(super) pinned: bool,
    /// It has frozen words of a segment that has no successor yet.
    pub(super) freezes: bool,
    /// It has just begun a snapshot.
    begins: bool,
}

impl Case {
    pub(super) fn in_round(&self) -> bool {
        // A snapshot begins under the rounds' lock.
        self.script == Script::Round || self.begins
    }
}

pub(super) fn case(point: Point) -> Case {
    use Point::*;
    use Script::*;
    let (kind, script, skip) = match point {
        Reserve => (Kind::Sparse, NewStore, 0),
        Residency => (Kind::Sparse, Stats, 3),
        RowHalfRead => (Kind::Sparse, Read, 5),
        Claimed | ChunkStepped => (Kind::Sparse, Update, 6),
        SharedRowStepped => (Kind::Sparse, Shared, 1),
        SlotsSeen | SlotsTaken | SlotsPutBack | RowWritten | RowEntered => (Kind::Sparse, Insert, 2),
        ChunkGrown => (Kind::Sparse, Grow, 2),
        Withdrawn | SuperblockReserved | SuperblockTaken | SuperblockAcquired => (Kind::Full, Insert, 0),
        SuperblockHalfCommitted => (Kind::Full, Insert, 2),
        SuccessorReserved | SegmentFrozen | SuccessorBuilt | SegmentReplaced | SegmentUnlinked => {
            (Kind::Sparse, Insert, 1)
        }
        WordFrozen => (Kind::Sparse, Insert, 50),
        SlotSettled => (Kind::Sparse, Insert, 2),
        SlotAdvancing => (Kind::Sparse, Insert, 1),
        SlotDeepening | SegmentFreed => (Kind::Sparse, Insert, 0),
        ChunkTaken | RecordFreeing => (Kind::Sparse, Remove, 1),
        RowKilled | RowRemoved | RecordsRetired => (Kind::Sparse, Remove, 3),
        RoundBegun | EvacuationBegun | Compacted | RoundEnding => (Kind::Sparse, Round, 0),
        UnitsChanged | RowEvacuated => (Kind::Sparse, Round, 100),
        RowMeasured | RowCut => (Kind::Full, Round, 300),
        CutBegins => (Kind::Full, Round, 0),
        TailCopied | HeadCopied | HeadPublished => (Kind::Sparse, Round, 3),
        SnapshotBegun => (Kind::Sparse, Snapshot, 0),
        RowSaved => (Kind::Sparse, Snapshot, 100),
        ImageKept => (Kind::Sparse, Keep, 10),
        SuperblockHalfRetired => (Kind::Sparse, Round, 5),
        SuperblockRetired | Decommit | Decommitted | SuperblockVacant => (Kind::Sparse, Round, 1),
    };
    let claims = match point {
        Claimed | ChunkStepped | ChunkGrown | ChunkTaken | TailCopied | HeadCopied | UnitsChanged | ImageKept
        | RowSaved => Claims::One,
        // Growth takes its records under the row's claim; a round's look at a row may end with a claim or without.
        SlotsSeen
        | SlotsTaken
        | Withdrawn
        | SlotsPutBack
        | SuperblockReserved
        | SuperblockTaken
        | SuperblockAcquired
        | SuperblockHalfCommitted
        | RowEvacuated => Claims::Perhaps,
        SharedRowStepped => Claims::Shared,
        _ => Claims::None,
    };
    let pinned = !matches!(
        point,
        Reserve | Residency | RoundBegun | CutBegins | EvacuationBegun | Compacted | RoundEnding | SnapshotBegun
    );
    let freezes = matches!(point, WordFrozen | SegmentFrozen | SuccessorBuilt);
    Case { kind, script, skip, claims, pinned, freezes, begins: point == SnapshotBegun }
}
