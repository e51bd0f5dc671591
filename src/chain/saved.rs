//! Rows as a snapshot has them: saved as they are, kept as images before they change, and written again as they were.

use super::{Chains, HASH, HEAD_INFO, RowAt, TAIL_INFO, TAIL_LINK, TAIL_PAYLOAD};
use crate::failpoint::{Point, reach};
use crate::hash::low;
use crate::id::{ChunkIndex, Info};
use crate::moment::Keep;
use crate::rowcopy;
use crate::sequence::{self, Claim};
use crate::sync::{AtomicU32, Ordering};
use crate::watch::LINK_STORE;

/// Words of an image before the row's own state.
pub(crate) const IMAGE_HEADER: usize = 4;

/// A chunk as it was saved.
pub(crate) struct SavedChunk<'a> {
    pub(crate) info: Info,
    pub(crate) weights: &'a [f32],
    pub(crate) state: &'a [f32],
}

impl<'s> Chains<'s> {
    /// Calls `visit` with the claimed row if it is not saved yet: it then is, and not changed since.
    pub(crate) fn save(&self, head: ChunkIndex, visit: impl FnOnce(&Claim<'s>)) {
        // Without a claim first: what is in the new phase stays in it.
        if !sequence::is_of_before(self.head_records.get(head), self.moment.phase()) {
            return;
        }
        // Gone: whoever ended it, or moved it, has kept its image.
        let Ok(mut claim) = self.look(head) else { return };
        if claim.phase() == self.moment.phase() {
            return;
        }
        visit(&claim);
        reach(Point::RowSaved);
        claim.clean();
        claim.change_phase();
    }

    #[cold]
    pub(super) fn keep_image(&self, row: RowAt, mut claim: Claim<'s>) -> Option<Claim<'s>> {
        let size = self.image_words(&claim);
        match self.moment.keep(claim.was_changed(), size, |image| self.copy_image(row, &claim, image)) {
            Keep::Done => {
                claim.change_phase();
                Some(claim)
            }
            Keep::Full => {
                claim.unchanged();
                None
            }
        }
    }

    /// Words of a claimed row's image.
    fn image_words(&self, claim: &Claim<'s>) -> usize {
        IMAGE_HEADER + self.layout.row_state_words() + self.chunks(claim).count() * (1 + self.layout.payload)
    }

    /// Adds the image of a claimed row: its table, its hash, its number of chunks, its own state; then each chunk's info,
    /// weights and state.
    pub(crate) fn copy_image(&self, row: RowAt, claim: &Claim<'s>, image: &mut Vec<u32>) {
        let begin = image.len();
        // Relaxed: it stays until the record is reused.
        image.extend([self.table, self.head_records.get(row.1)[HASH].load(Ordering::Relaxed), row.0, 0]);
        // Relaxed: under the claim.
        image.extend(self.row_state(claim).map(|word| word.load(Ordering::Relaxed)));
        for chunk in self.chunks(claim) {
            image[begin + IMAGE_HEADER - 1] += 1;
            image.push(chunk.info.load(Ordering::Relaxed));
            rowcopy::append(&chunk.payload[..self.layout.payload], image);
        }
    }

    /// Writes a row as it was saved, not changed since, into records that nobody else can reach yet: the head's, then those
    /// of its tails. `chunk` gives the chunk of each.
    #[inline]
    pub(crate) fn init_saved<'a>(
        &self,
        records: &[ChunkIndex],
        hash: u64,
        row_state: f32,
        chunk: impl Fn(usize) -> SavedChunk<'a>,
    ) {
        // Relaxed throughout: published with the head's index, by the directory's Release.
        let write = |chunk: SavedChunk<'_>, info: &AtomicU32, payload: &[AtomicU32]| {
            info.store(chunk.info.pack(), Ordering::Relaxed);
            let (weights, state) = payload.split_at(self.layout.chunk);
            rowcopy::store(chunk.weights, weights);
            rowcopy::store(chunk.state, state);
        };
        let head = self.head_records.get(records[0]);
        head[HASH].store(low(hash), Ordering::Relaxed);
        if self.layout.head_payload > self.layout.row_state {
            head[self.layout.row_state].store(row_state.to_bits(), Ordering::Relaxed);
        }
        write(chunk(0), &head[HEAD_INFO], &head[self.layout.head_payload..]);
        let mut link = self.head_link(head);
        for (number, &tail) in records.iter().enumerate().skip(1) {
            let record = self.tail_records.get(tail);
            write(chunk(number), &record[TAIL_INFO], &record[TAIL_PAYLOAD..]);
            if let Some(before) = link.replace(&record[TAIL_LINK]) {
                before.store(tail.raw(), LINK_STORE);
            }
        }
        if let Some(last) = link {
            last.store(0, LINK_STORE);
        }
        sequence::start_saved(head, self.moment.phase());
    }
}
