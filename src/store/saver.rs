//! Adding a store's rows to the blocks of a snapshot.

use super::table::Table;
use crate::chain::{Chains, IMAGE_HEADER, Ordinals, RowAt, RowLayout};
use crate::hash::join;
use crate::id::Info;
use crate::rowcopy;
use crate::sequence::Claim;
use crate::snapshot::RowBlock;
use crate::sync::{AtomicU32, Ordering};

/// Adds rows of one table to blocks.
pub(super) struct Saver<'s> {
    table: &'s Table,
    chains: Chains<'s>,
    /// A row's chunks by their ordinals; those that are not live are of rows before.
    chunks: Vec<(Info, &'s [AtomicU32])>,
}

/// Where the next chunk's columns begin.
struct Next {
    weights: usize,
    state: usize,
}

impl<'s> Saver<'s> {
    pub(super) fn new(table: &'s Table, chains: Chains<'s>) -> Saver<'s> {
        let chunks = vec![(Info { utility: 0.0, ordinal: 0 }, &[][..]); table.layout.chunks];
        Saver { table, chains, chunks }
    }

    /// Adds those of some rows that are not saved yet: all of them, or those that were changed.
    pub(super) fn save(&mut self, rows: &[RowAt], changed_only: bool, block: &mut RowBlock) {
        let Saver { table, chains, chunks } = self;
        let layout = &table.layout;
        // Room for all that there may be, at once.
        let most = rows.len() * layout.chunks;
        let mut next = Next { weights: block.weights.len(), state: block.state.len() };
        block.weights.resize(next.weights + most * layout.chunk, 0.0);
        block.state.resize(next.state + most * (layout.payload_words() - layout.chunk), 0.0);
        chains.when_near(rows, |row| {
            chains.save(row.1, |claim| {
                if !changed_only || claim.was_changed() {
                    push(table, chains, (row, claim), chunks, (&mut next, block));
                }
            });
        });
        block.weights.truncate(next.weights);
        block.state.truncate(next.state);
    }
}

/// Adds a claimed row, its chunks in the order of their ordinals.
#[inline(always)]
fn push<'s>(
    table: &Table,
    chains: &Chains<'s>,
    (row, claim): (RowAt, &Claim<'s>),
    chunks: &mut [(Info, &'s [AtomicU32])],
    (next, block): (&mut Next, &mut RowBlock),
) {
    let layout = &table.layout;
    let mut live = Ordinals::default();
    for chunk in chains.chunks(claim) {
        let info = chunk.info();
        live.insert(usize::from(info.ordinal));
        chunks[usize::from(info.ordinal)] = (info, &chunk.payload[..layout.payload_words()]);
    }
    block.keys.push(table.row_key(chains.hash(row.0, row.1)));
    block.chunks.push(live.len() as u16);
    if let Some(word) = chains.row_state(claim) {
        // Relaxed: under the claim.
        block.row_state.push(f32::from_bits(word.load(Ordering::Relaxed)));
    }
    for ordinal in live.iter() {
        let (info, payload) = chunks[ordinal];
        block.ordinals.push(info.ordinal);
        block.utilities.push(info.utility);
        let (weights, state) = payload.split_at(layout.chunk);
        copy(weights, &mut block.weights, &mut next.weights);
        copy(state, &mut block.state, &mut next.state);
    }
}

#[inline(always)]
fn copy(words: &[AtomicU32], to: &mut [f32], next: &mut usize) {
    let end = *next + words.len();
    rowcopy::load(words, &mut to[*next..end]);
    *next = end;
}

/// Words of the image that `image` begins with.
pub(super) fn image_words(layout: &RowLayout, image: &[u32]) -> usize {
    IMAGE_HEADER + layout.row_state_words() + image[IMAGE_HEADER - 1] as usize * (1 + layout.payload_words())
}

/// Adds the row of the image that `image` begins with, its chunks in the order of their ordinals. `order` is scratch.
pub(super) fn push_image(table: &Table, image: &[u32], order: &mut Vec<(u8, usize)>, block: &mut RowBlock) {
    let layout = &table.layout;
    let (header, chunks) = image[..image_words(layout, image)].split_at(IMAGE_HEADER + layout.row_state_words());
    block.keys.push(table.row_key(join(header[2], header[1])));
    block.chunks.push(header[3] as u16);
    block.row_state.extend(header[IMAGE_HEADER..].iter().map(|&word| f32::from_bits(word)));
    let words_each = 1 + layout.payload_words();
    order.clear();
    order.extend((0..chunks.len()).step_by(words_each).map(|at| (Info::unpack(chunks[at]).ordinal, at)));
    order.sort_unstable();
    for &(_, at) in order.iter() {
        let chunk = &chunks[at..at + words_each];
        let info = Info::unpack(chunk[0]);
        block.ordinals.push(info.ordinal);
        block.utilities.push(info.utility);
        let words = |words: &[u32], to: &mut Vec<f32>| to.extend(words.iter().map(|&word| f32::from_bits(word)));
        let (weights, state) = chunk[1..].split_at(layout.chunk);
        words(weights, &mut block.weights);
        words(state, &mut block.state);
    }
}
