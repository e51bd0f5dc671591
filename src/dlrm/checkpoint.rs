//! A run's state beside its store: the dense parameters, the metrics so far, the place in the data.

use super::metrics::{HistogramAuc, LossSums, Scored};
use super::{Dlrm, TrainError};
use crate::snapshot::{Data, Section};

/// The section that says how far a run has come.
const COUNTS: &str = "trainer/counts";
const HISTOGRAM: &str = "trainer/histogram";
const WINDOW: &str = "trainer/window";
const DENSE_STATE: &str = "dense-state/all";

fn section(name: String, shape: Vec<usize>, data: Data) -> Section {
    Section { name, shape, data }
}

fn find<'s>(sections: &'s [Section], name: &str) -> Result<&'s Data, TrainError> {
    let found = sections.iter().find(|section| section.name == name);
    found.map(|section| &section.data).ok_or_else(|| unfit(name))
}

fn unfit(name: &str) -> TrainError {
    TrainError::Config(format!("section `{name}` of the snapshot is missing or not of this run's shape"))
}

impl Dlrm {
    /// The dense parameters, `dense/NAME`, and their optimizer's state, for a snapshot.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        let mut sections: Vec<Section> = Vec::new();
        for parameter in self.dense().parameters() {
            let shape = vec![parameter.rows, parameter.columns];
            let name = format!("dense/{}", parameter.name);
            sections.push(section(name, shape, Data::F32(parameter.values.to_vec())));
        }
        let state = self.dense().state().to_vec();
        sections.push(section(DENSE_STATE.to_owned(), vec![state.len()], Data::F32(state)));
        sections
    }

    /// Goes on from what [`sections`](Self::sections) gave.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] if that was a model of another shape.
    pub fn restore(&mut self, sections: &[Section]) -> Result<(), TrainError> {
        let mut values = Vec::new();
        for parameter in self.dense().parameters() {
            let name = format!("dense/{}", parameter.name);
            match find(sections, &name)? {
                Data::F32(saved) if saved.len() == parameter.values.len() => values.extend_from_slice(saved),
                _ => return Err(unfit(&name)),
            }
        }
        let Data::F32(state) = find(sections, DENSE_STATE)? else { return Err(unfit(DENSE_STATE)) };
        self.dense_mut().set_parameters(&values)?;
        self.dense_mut().set_state(state)
    }
}

/// See [`run`](super::run::rows_of_closed_windows).
pub(super) fn rows_of_closed_windows(sections: &[Section]) -> Option<u64> {
    let Ok(Data::U64(counts)) = find(sections, COUNTS) else { return None };
    // Windows; then loss, positives and rows of the run, and of the open window.
    let &[_, _, _, rows, _, _, open] = &counts[..] else { return None };
    rows.checked_sub(open)
}

/// What a run has measured so far.
pub(super) struct Measured<'r> {
    pub(super) losses: &'r mut LossSums,
    pub(super) histogram: &'r mut HistogramAuc,
    pub(super) window: &'r mut Scored,
    pub(super) windows: &'r mut u64,
}

impl Measured<'_> {
    pub(super) fn sections(&self) -> Vec<Section> {
        let mut counts = vec![*self.windows];
        counts.extend(self.losses.words());
        counts.extend(self.window.words());
        let bins = self.histogram.words();
        let (logits, labels) = self.window.rows_kept();
        let window = [logits, labels].concat();
        vec![
            section(COUNTS.to_owned(), vec![counts.len()], Data::U64(counts)),
            section(HISTOGRAM.to_owned(), vec![bins.len()], Data::U64(bins)),
            section(WINDOW.to_owned(), vec![2, logits.len()], Data::F32(window)),
        ]
    }

    pub(super) fn restore(self, sections: &[Section]) -> Result<(), TrainError> {
        let Data::U64(counts) = find(sections, COUNTS)? else { return Err(unfit(COUNTS)) };
        let [windows, counts @ ..] = &counts[..] else { return Err(unfit(COUNTS)) };
        let (Some(losses), Some(window)) = (counts.first_chunk::<3>(), counts.last_chunk::<3>()) else {
            return Err(unfit(COUNTS));
        };
        let Data::F32(rows) = find(sections, WINDOW)? else { return Err(unfit(WINDOW)) };
        let (logits, labels) = rows.split_at(rows.len() / 2);
        let Data::U64(bins) = find(sections, HISTOGRAM)? else { return Err(unfit(HISTOGRAM)) };
        if logits.len() != labels.len() || !self.histogram.set_words(bins) {
            return Err(unfit(HISTOGRAM));
        }
        *self.windows = *windows;
        *self.losses = LossSums::of_words(*losses);
        self.window.set(logits, labels, *window);
        if self.window.rows() != logits.len() as u64 {
            return Err(unfit(WINDOW));
        }
        Ok(())
    }
}
