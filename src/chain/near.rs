//! Going over many rows: each is visited when its records are near.

use super::{Chains, RowAt};

/// Rows that go through a stage together.
const GROUP: usize = 16;
/// Records of a row that are asked for before it is visited, at most.
const RECORDS_MOST: usize = 8;

impl Chains<'_> {
    /// Calls `visit` with each row, in order, when the processor was asked for all of its records. The rows go through the
    /// stages of that in groups, one behind the other: head, first tail, second tail, and so on, so that the waits for
    /// memory overlap. No row is claimed, so a chain may change meanwhile: then the wrong lines come.
    pub(crate) fn when_near(&self, rows: &[RowAt], mut visit: impl FnMut(RowAt)) {
        let stages = self.layout.chunks.min(RECORDS_MOST);
        let groups: usize = rows.len().div_ceil(GROUP);
        let mut tails = [[None; GROUP]; RECORDS_MOST + 1];
        for turn in 0..groups + stages {
            for stage in 0..=stages {
                let Some(group) = turn.checked_sub(stage).filter(|&group| group < groups) else { continue };
                let members = &rows[group * GROUP..rows.len().min((group + 1) * GROUP)];
                if stage == stages {
                    members.iter().for_each(|&row| visit(row));
                    continue;
                }
                for (&(_, head), tail) in members.iter().zip(&mut tails[group % (RECORDS_MOST + 1)]) {
                    let head = self.head(head);
                    *tail = match stage {
                        0 => {
                            head.prefetch(self.head_words(true));
                            continue;
                        }
                        1 => self.first_tail(head),
                        _ => tail.and_then(|tail| self.tail_after(tail)),
                    };
                    if let Some(tail) = tail {
                        tail.prefetch(self.tail_words(true));
                    }
                }
            }
        }
    }
}
