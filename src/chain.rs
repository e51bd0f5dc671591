//! A row: its head record and the chain of further chunks behind it.
//!
//! ```text
//! head  [ sequence | hash | info | link? | row state? | weights | state ]      link: only where rows have several chunks
//! tail  [ link | info | weights | state ]                                      link: the next tail's index, 0 at the end
//! ```
//!
//! The head keeps the lower half of its key's hash. The upper half is the tag under which the directory has the row: the
//! hash is a permutation ([`crate::hash`]), so the two together are the key.
//!
//! The head's sequence word orders everything in the row, tails included: payloads are written, and chunks enter and
//! leave the chain, under its claim. A row that went (evicted, removed, or moved to another head) is never live again
//! under that index; whoever meets it asks the directory again.
//!
//! Records are reused only after a grace period, so under one pin an index that was found keeps meaning its row.

mod layout;
mod near;
mod record;
mod saved;

pub(crate) use layout::{Ordinals, RowLayout};
use record::follow;
pub(crate) use record::{Head, Tail};
pub(crate) use saved::{IMAGE_HEADER, SavedChunk};

use crate::directory::Probe;
use crate::failpoint::{Point, reach};
use crate::hash::{join, low};
use crate::id::{ChunkIndex, Info};
use crate::moment::Moment;
use crate::rowcopy;
use crate::sequence::{self, Claim, Gone, Unclaimed};
use crate::slab::{Records, Slab};
use crate::sync::{AtomicU32, Ordering};
use crate::watch::{LINK_LOAD, LINK_STORE};

/// Positions in a head record; the sequence word is at 0.
const HASH: usize = 1;
const HEAD_INFO: usize = 2;
/// Where rows have more than one chunk.
const HEAD_LINK: usize = 3;
/// Positions in a tail record.
const TAIL_LINK: usize = 0;
const TAIL_INFO: usize = 1;
const TAIL_PAYLOAD: usize = 2;

/// A chunk to make: its ordinal, the utility it starts with, and its weights and state.
pub(crate) struct NewChunk<'a> {
    pub(crate) info: Info,
    pub(crate) payload: &'a [f32],
}

/// The rows of one table: their layout and the slabs their records are in.
pub(crate) struct Chains<'s> {
    pub(crate) layout: &'s RowLayout,
    pub(crate) heads: &'s Slab,
    pub(crate) tails: &'s Slab,
    head_records: Records<'s>,
    tail_records: Records<'s>,
    /// What images of rows are kept for, and the table's number in them.
    pub(crate) moment: &'s Moment,
    pub(crate) table: u32,
}

/// Where a row is: its tag in the directory, and its head.
pub(crate) type RowAt = (u32, ChunkIndex);

/// A chunk of a claimed row.
pub(crate) struct Chunk<'s> {
    /// `None` for the chunk in the head record.
    pub(crate) tail: Option<ChunkIndex>,
    info: &'s AtomicU32,
    pub(crate) payload: &'s [AtomicU32],
}

impl Chunk<'_> {
    #[inline]
    pub(crate) fn info(&self) -> Info {
        Info::unpack(self.info.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn set_info(&self, info: Info) {
        self.info.store(info.pack(), Ordering::Relaxed);
    }
}

impl<'s> Chains<'s> {
    #[inline]
    pub(crate) fn new(
        layout: &'s RowLayout,
        (heads, tails): (&'s Slab, &'s Slab),
        (moment, table): (&'s Moment, u32),
    ) -> Chains<'s> {
        Chains { layout, heads, tails, head_records: heads.records(), tail_records: tails.records(), moment, table }
    }

    /// Whether the record at `head`, which the directory has under the hash's tag, is a live row of the key that has
    /// this hash.
    #[inline]
    pub(crate) fn probe(&self, head: ChunkIndex, hash: u64) -> Probe {
        if !self.has(head, hash) {
            return Probe::Other;
        }
        // If the row moved, the directory's word, changed before that, is seen next.
        if sequence::is_live(self.head_records.get(head)) { Probe::Found } else { Probe::Gone }
    }

    /// Whether the record at `head`, which the directory has or had under the hash's tag, is of the key that has this hash.
    #[inline]
    pub(crate) fn has(&self, head: ChunkIndex, hash: u64) -> bool {
        self.head(head).has(hash)
    }

    /// The hash of the row at `head`, which the directory has under `tag`.
    #[inline]
    pub(crate) fn hash(&self, tag: u32, head: ChunkIndex) -> u64 {
        join(tag, self.head_records.get(head)[HASH].load(Ordering::Relaxed))
    }

    /// Where a head record says which tail is the first, if its rows have tails.
    #[inline]
    fn head_link<'r>(&self, record: &'r [AtomicU32]) -> Option<&'r AtomicU32> {
        (self.layout.chunks > 1).then(|| &record[HEAD_LINK])
    }

    #[inline]
    fn link(&self, word: &AtomicU32) -> Option<ChunkIndex> {
        // Relaxed: as in `follow`.
        ChunkIndex::from_raw(word.load(LINK_LOAD)).filter(|&index| self.tails.contains(index))
    }

    /// Calls `visit` with a row's position in `rows` and one of its chunks: the tail record (`None` for the head's own) and
    /// what it says of itself. The first chunks of all rows come first, then the second ones, and so on, so that the waits
    /// for memory overlap. No row is claimed: figures of about one moment, to decide whether a claim is worth it. No more
    /// than a row can have, so it ends even if a chain changes meanwhile.
    pub(crate) fn peek(&self, rows: &[RowAt], mut visit: impl FnMut(usize, Option<ChunkIndex>, Info)) {
        let heads = || rows.iter().map(|&(_, head)| self.head_records.get(head));
        heads().for_each(|record| rowcopy::prefetch((&raw const record[HEAD_INFO]).cast()));
        let mut tails = Vec::with_capacity(rows.len());
        for (position, record) in heads().enumerate() {
            visit(position, None, Info::unpack(record[HEAD_INFO].load(Ordering::Relaxed)));
            tails.extend(self.head_link(record).and_then(|link| self.ask_for(link)).map(|tail| (position, tail)));
        }
        for _ in 1..self.layout.chunks {
            tails.retain_mut(|(position, tail)| {
                let record = self.tail_records.get(*tail);
                visit(*position, Some(*tail), Info::unpack(record[TAIL_INFO].load(Ordering::Relaxed)));
                let next = self.ask_for(&record[TAIL_LINK]);
                *tail = next.unwrap_or(*tail);
                next.is_some()
            });
        }
    }

    /// Asks the processor for the first line of the tail that a link leads to.
    #[inline]
    fn ask_for(&self, link: &AtomicU32) -> Option<ChunkIndex> {
        let tail = self.link(link);
        if let Some(tail) = tail {
            rowcopy::prefetch(self.tail_records.get(tail).as_ptr().cast());
        }
        tail
    }

    /// Copies the weights of all live chunks to their places in `out`, `[dim]`, and returns which these are. What the
    /// others' places hold then is of no use.
    #[inline]
    pub(crate) fn read(&self, head: ChunkIndex, out: &mut [f32]) -> Result<Ordinals, Gone> {
        self.read_head(self.head(head), out)
    }

    /// Like [`read`](Self::read), of a head that was found.
    #[inline]
    pub(crate) fn read_head(&self, head: Head<'s>, out: &mut [f32]) -> Result<Ordinals, Gone> {
        sequence::read(head.record, || self.copy_weights(head.record, out))
    }

    /// Like [`read_head`](Self::read_head), of a table whose rows have one chunk at most.
    #[inline(always)]
    pub(crate) fn read_single(&self, head: Head<'s>, out: &mut [f32]) -> Result<(), Gone> {
        let record = head.record;
        let weights = &record[self.layout.head_payload..self.layout.head_payload + out.len()];
        sequence::read(record, || {
            rowcopy::load(weights, out);
            reach(Point::RowHalfRead);
            Some(())
        })
    }

    /// One attempt; `None` if what was met can only be a row in the middle of a change.
    #[inline]
    fn copy_weights(&self, record: &[AtomicU32], out: &mut [f32]) -> Option<Ordinals> {
        let mut live = Ordinals::default();
        self.copy_chunk(&record[HEAD_INFO], &record[self.layout.head_payload..], &mut live, out)?;
        reach(Point::RowHalfRead);
        let Some(mut link) = self.head_link(record) else { return Some(live) };
        while let Some(Tail { record }) = follow(self.tail_records, link) {
            link = &record[TAIL_LINK];
            // A chain has no more chunks than ordinals, so this ends.
            self.copy_chunk(&record[TAIL_INFO], &record[TAIL_PAYLOAD..], &mut live, out)?;
        }
        Some(live)
    }

    /// Copies one chunk's weights to their place, if there is none in `live` of its ordinal.
    #[inline(always)]
    fn copy_chunk(&self, info: &AtomicU32, payload: &[AtomicU32], live: &mut Ordinals, out: &mut [f32]) -> Option<()> {
        let ordinal = Info::unpack(info.load(Ordering::Relaxed)).ordinal as usize;
        if ordinal >= self.layout.chunks || live.contains(ordinal) {
            return None;
        }
        live.insert(ordinal);
        let dims = self.layout.dims(ordinal);
        rowcopy::load(&payload[..dims.len()], &mut out[dims]);
        Some(())
    }

    /// Claims the row to change it, if nobody has it. `None`: there is no room for the image that a snapshot needs first.
    #[inline]
    pub(crate) fn try_claim(&self, row: RowAt) -> Result<Option<Claim<'s>>, Unclaimed> {
        let claim = sequence::try_claim(self.head_records.get(row.1))?;
        Ok(self.of_now(row, claim))
    }

    /// Claims the row to change it, waiting for the bounded copy of whoever has it, and, where a snapshot still needs the
    /// row as it is, for room for its image. In line: a claim handed over in memory is read before its parts have arrived there,
    /// which was a seventh of an update.
    #[inline(always)]
    pub(crate) fn claim(&self, row: RowAt) -> Result<Claim<'s>, Gone> {
        loop {
            let claim = sequence::claim(self.head_records.get(row.1))?;
            if let Some(claim) = self.of_now(row, claim) {
                return Ok(claim);
            }
            self.moment.wait_for_room();
        }
    }

    /// Claims the row to look at it.
    pub(crate) fn look(&self, head: ChunkIndex) -> Result<Claim<'s>, Gone> {
        let mut claim = sequence::claim(self.head_records.get(head))?;
        claim.unchanged();
        Ok(claim)
    }

    /// The same, if nobody has the row.
    pub(crate) fn look_at_once(&self, head: ChunkIndex) -> Result<Claim<'s>, Unclaimed> {
        let mut claim = sequence::try_claim(self.head_records.get(head))?;
        claim.unchanged();
        Ok(claim)
    }

    /// Whether somebody has the row claimed at this moment.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(crate) fn is_claimed(&self, head: ChunkIndex) -> bool {
        sequence::is_claimed(self.head_records.get(head))
    }

    /// Lets a claimed row be changed: a snapshot has it as it is, or does not need it. `None` if there is no room for that
    /// now; nobody has the row then.
    #[inline(always)]
    fn of_now(&self, row: RowAt, claim: Claim<'s>) -> Option<Claim<'s>> {
        // The phase is asked for after the claim: see `moment.rs`.
        if claim.phase() == self.moment.phase() { Some(claim) } else { self.keep_image(row, claim) }
    }

    /// The chunks of a claimed row, the head's first.
    #[inline]
    pub(crate) fn chunks(&self, claim: &Claim<'s>) -> impl Iterator<Item = Chunk<'s>> + use<'_, 's> {
        let tails = self.tail_records;
        let mut next = self.head_link(claim.record).and_then(named);
        let rest = std::iter::from_fn(move || {
            let (_, tail) = next?;
            let record = tails.get(tail);
            next = named(&record[TAIL_LINK]);
            Some(Chunk { tail: Some(tail), info: &record[TAIL_INFO], payload: &record[TAIL_PAYLOAD..] })
        });
        std::iter::once(self.first_chunk(claim)).chain(rest)
    }

    /// The chunk in the head record of a claimed row.
    #[inline]
    pub(crate) fn first_chunk(&self, claim: &Claim<'s>) -> Chunk<'s> {
        let head = claim.record;
        Chunk { tail: None, info: &head[HEAD_INFO], payload: &head[self.layout.head_payload..] }
    }

    /// What a round counts for a chunk. A row's head is counted with its first dimensions, wherever these are: which chunk is
    /// in the head's record follows from the order in which they came and went, which a snapshot does not keep.
    #[inline]
    pub(crate) fn bytes_of(&self, chunk: Info) -> u64 {
        if chunk.ordinal == 0 { self.heads.record_bytes() } else { self.tails.record_bytes() }
    }

    /// Which chunks a claimed row has.
    pub(crate) fn ordinals(&self, claim: &Claim<'s>) -> Ordinals {
        let mut live = Ordinals::default();
        self.chunks(claim).for_each(|chunk| live.insert(chunk.info().ordinal as usize));
        live
    }

    /// The word of state that the row has once, if its optimizer keeps one.
    #[inline]
    pub(crate) fn row_state<'c>(&self, claim: &'c Claim<'s>) -> Option<&'c AtomicU32> {
        (self.layout.head_payload > self.layout.row_state).then(|| &claim.record[self.layout.row_state])
    }

    /// Writes a new row into a record that nobody else can reach yet.
    pub(crate) fn init_head(&self, head: ChunkIndex, hash: u64, row_state: f32, chunk: &NewChunk<'_>) {
        let record = self.head_records.get(head);
        // Relaxed throughout: published with the index, by the directory's Release.
        record[HASH].store(low(hash), Ordering::Relaxed);
        record[HEAD_INFO].store(chunk.info.pack(), Ordering::Relaxed);
        if let Some(link) = self.head_link(record) {
            link.store(0, Ordering::Relaxed);
        }
        if self.layout.head_payload > self.layout.row_state {
            record[self.layout.row_state].store(row_state.to_bits(), Ordering::Relaxed);
        }
        rowcopy::store(chunk.payload, &record[self.layout.head_payload..]);
        sequence::start(record, self.moment.phase());
    }

    /// Ends a head that was written and could not be published. Its record is the caller's to free.
    pub(crate) fn discard_head(&self, head: ChunkIndex) {
        sequence::end_unpublished(self.head_records.get(head));
    }

    /// Puts a new chunk at the front of a claimed row's tails, in a record that nobody else can reach yet.
    pub(crate) fn grow(&self, claim: &Claim<'s>, tail: ChunkIndex, chunk: &NewChunk<'_>) {
        self.link_tail(claim.record, tail, chunk);
        reach(Point::ChunkGrown);
    }

    /// Like [`grow`](Self::grow), of a row that nobody else can reach yet.
    pub(crate) fn grow_unpublished(&self, head: ChunkIndex, tail: ChunkIndex, chunk: &NewChunk<'_>) {
        self.link_tail(self.head_records.get(head), tail, chunk);
    }

    fn link_tail(&self, head: &[AtomicU32], tail: ChunkIndex, chunk: &NewChunk<'_>) {
        let record = self.tail_records.get(tail);
        // Relaxed throughout: under the claim, or published with the head's index.
        record[TAIL_INFO].store(chunk.info.pack(), Ordering::Relaxed);
        rowcopy::store(chunk.payload, &record[TAIL_PAYLOAD..]);
        record[TAIL_LINK].store(head[HEAD_LINK].load(Ordering::Relaxed), Ordering::Relaxed);
        head[HEAD_LINK].store(tail.raw(), LINK_STORE);
    }

    /// Takes every chunk that `drop` names out of a claimed row and calls `retire` with the tail records that became
    /// free, then `left` with the number of chunks that stay. If none is left, the row is killed: the caller takes it
    /// out of the directory and retires its head.
    pub(crate) fn shrink(
        &self,
        mut claim: Claim<'s>,
        drop: impl Fn(Info) -> bool,
        mut retire: impl FnMut(ChunkIndex),
        left: impl FnOnce(usize),
    ) -> Shrunk {
        let (mut taken, mut stay) = (0, 0);
        let first = self.head_link(claim.record);
        let mut next = first;
        while let Some((link, tail)) = next.and_then(named) {
            let record = self.tail_records.get(tail);
            if drop(Info::unpack(record[TAIL_INFO].load(Ordering::Relaxed))) {
                link.store(record[TAIL_LINK].load(Ordering::Relaxed), LINK_STORE);
                reach(Point::ChunkTaken);
                retire(tail);
                taken += 1;
            } else {
                next = Some(&record[TAIL_LINK]);
                stay += 1;
            }
        }
        if !drop(Info::unpack(claim.record[HEAD_INFO].load(Ordering::Relaxed))) {
            left(stay + 1);
            return Shrunk { taken, row_gone: false };
        }
        taken += 1;
        left(stay);
        let Some((link, tail)) = first.and_then(named) else {
            claim.kill();
            return Shrunk { taken, row_gone: true };
        };
        // The head record stays, so the next chunk's content moves into it.
        let record = self.tail_records.get(tail);
        copy_words(&record[TAIL_PAYLOAD..], &claim.record[self.layout.head_payload..]);
        claim.record[HEAD_INFO].store(record[TAIL_INFO].load(Ordering::Relaxed), Ordering::Relaxed);
        link.store(record[TAIL_LINK].load(Ordering::Relaxed), LINK_STORE);
        retire(tail);
        Shrunk { taken, row_gone: false }
    }

    /// Moves a claimed row's tail into another record; the old one is the caller's to retire.
    pub(crate) fn relocate_tail(&self, claim: &Claim<'s>, from: ChunkIndex, to: ChunkIndex) {
        let mut link = &claim.record[HEAD_LINK];
        while let Some(tail) = ChunkIndex::from_raw(link.load(Ordering::Relaxed)) {
            if tail == from {
                copy_words(self.tail_records.get(from), self.tail_records.get(to));
                reach(Point::TailCopied);
                link.store(to.raw(), LINK_STORE);
                return;
            }
            link = &self.tail_records.get(tail)[TAIL_LINK];
        }
        unreachable!("the chunk to move was found in this claimed row");
    }

    /// Copies a claimed row's head into another record. `publish` then puts the new index in the old one's place; when
    /// it has, the old head is dead and the caller's to retire. Readers that wait for the claim then ask the directory.
    pub(crate) fn relocate_head(&self, mut claim: Claim<'s>, to: ChunkIndex, publish: impl FnOnce() -> bool) -> bool {
        let record = self.head_records.get(to);
        copy_words(&claim.record[HASH..], &record[HASH..]);
        sequence::start_instead(record, &claim);
        reach(Point::HeadCopied);
        let published = publish();
        reach(Point::HeadPublished);
        if published {
            claim.kill();
        } else {
            sequence::end_unpublished(record);
        }
        published
    }
}

/// The tail that a link of a claimed row names, beside the link.
#[inline]
fn named(link: &AtomicU32) -> Option<(&AtomicU32, ChunkIndex)> {
    // Relaxed: under the claim.
    ChunkIndex::from_raw(link.load(Ordering::Relaxed)).map(|tail| (link, tail))
}

fn copy_words(from: &[AtomicU32], to: &[AtomicU32]) {
    for (from, to) in from.iter().zip(to) {
        // Relaxed: under the claim.
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// What [`Chains::shrink`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shrunk {
    /// Chunks taken.
    pub(crate) taken: u32,
    /// None was left.
    pub(crate) row_gone: bool,
}
