//! Methods by name: `hash`, `dimslab`, and with settings of their own `dimslab+chunk=8+decay=2x`.

use std::str::FromStr;

use super::cafe::{self, Cafe};
use super::factored::Mixed;
use super::flat::Rows;
use super::hashed::{Hashed, QuotientRemainder};
use super::magnitude::Magnitude;
use super::oracle::Oracle;
use super::pruned::{Pruned, Pruning, Score};
use super::stored::{InStore, Missing, Stored};
use super::stream::Stream;
use super::{Method, StudyError, Training};
use crate::Decay;

/// Every method, with what it is.
pub(crate) const METHODS: [(&str, &str); 15] = [
    ("full", "a row for each id"),
    ("small-dim", "fewer dimensions for all"),
    ("hash", "the hashing trick in large tables"),
    ("qr", "quotient and remainder"),
    ("mde", "mixed dimension by popularity"),
    ("adaembed", "rows pruned by frequency times gradient"),
    ("frequency", "rows pruned by frequency"),
    ("gradient", "rows pruned by gradient"),
    ("random", "rows pruned at random"),
    ("fiited", "chunks pruned by utility, as published"),
    ("oracle", "the most frequent ids of the whole stream"),
    ("oracle-frozen", "the most frequent ids of its first quarter"),
    ("cafe", "own rows by a sketch, shared rows for the rest"),
    ("magnitude", "the largest weights, after training at full size"),
    ("dimslab", "the store"),
];

/// The part of the oracles' budget that goes to shared rows.
const ORACLE_SHARED: f64 = 0.3;
/// The frozen oracle knows this part of the stream.
const FROZEN_PART: usize = 4;

/// A method with its settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    /// As it was written; it is what runs are known by.
    pub(crate) name: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Full,
    SmallDim,
    Hash,
    QuotientRemainder,
    Mixed,
    /// A unit larger than a row means the row.
    Pruned(Pruning),
    Oracle {
        share: f64,
        frozen: bool,
    },
    Cafe {
        share: f64,
    },
    Magnitude,
    Store(Stored),
}

impl Kind {
    fn named(name: &str) -> Option<Kind> {
        let rows = |score| {
            let scaled = score != Score::Random;
            Kind::Pruned(Pruning { score, scaled, ..Pruning::ADAEMBED })
        };
        Some(match name {
            "full" => Kind::Full,
            "small-dim" => Kind::SmallDim,
            "hash" => Kind::Hash,
            "qr" => Kind::QuotientRemainder,
            "mde" => Kind::Mixed,
            "adaembed" => rows(Score::FrequencyGradient),
            "frequency" => rows(Score::Frequency),
            "gradient" => rows(Score::Gradient),
            "random" => rows(Score::Random),
            "fiited" => Kind::Pruned(Pruning { unit: 4, ..Pruning::ADAEMBED }),
            "oracle" => Kind::Oracle { share: ORACLE_SHARED, frozen: false },
            "oracle-frozen" => Kind::Oracle { share: ORACLE_SHARED, frozen: true },
            "cafe" => Kind::Cafe { share: cafe::SHARED },
            "magnitude" => Kind::Magnitude,
            "dimslab" => Kind::Store(Stored::default()),
            _ => return None,
        })
    }

    /// Sets one setting; `false` if the method has no such setting or the value is none of its.
    fn set(&mut self, name: &str, value: &str) -> bool {
        fn put<T: FromStr>(to: &mut T, value: &str) -> bool {
            value.parse().map(|value| *to = value).is_ok()
        }
        let part = |value: &str| value.parse().ok().filter(|part: &f64| (0.0..1.0).contains(part));
        match self {
            Kind::Pruned(pruning) => match name {
                "unit" => put(&mut pruning.unit, value) && pruning.unit > 0,
                "period" => put(&mut pruning.period, value) && pruning.period > 0,
                "decay" => put(&mut pruning.decay, value) && pruning.decay > 0.0 && pruning.decay <= 1.0,
                "whole" => part(value).map(|part| pruning.whole = part).is_some(),
                "scaled" => put(&mut pruning.scaled, value),
                "worth" => part(value).map(|part| pruning.worth = part).is_some(),
                "start" => put(&mut pruning.start, value),
                "global" => put(&mut pruning.global, value),
                "numbered" => put(&mut pruning.numbered, value),
                "charge" => put(&mut pruning.charge, value) && pruning.charge <= 1024,
                _ => false,
            },
            Kind::Oracle { share, .. } | Kind::Cafe { share } if name == "share" => {
                part(value).map(|part| *share = part).is_some()
            }
            Kind::Store(stored) => set_stored(stored, name, value),
            _ => false,
        }
    }
}

/// The store checks most values itself.
fn set_stored(stored: &mut Stored, name: &str, value: &str) -> bool {
    let number = value.parse::<f32>();
    let policy = &mut stored.policy;
    let to = match name {
        "chunk" => return value.parse().map(|chunk| stored.chunk = chunk).is_ok(),
        "period" => return value.parse().map(|steps| policy.period_steps = steps).is_ok(),
        "warmup" => return value.parse().map(|steps| policy.warmup_steps = steps).is_ok(),
        "decay" if value == "adaptive" => {
            policy.decay = Decay::Adaptive;
            return true;
        }
        "decay" => {
            let (number, kind): (&str, fn(f32) -> Decay) = match value.strip_suffix('x') {
                Some(number) => (number, Decay::PerCapacity),
                None => (value, Decay::PerStep),
            };
            return number.parse().map(|number| policy.decay = kind(number)).is_ok();
        }
        "missing" => {
            let share = |text: &str| text.strip_prefix("hashed:")?.parse().ok().filter(|s| (0.0..0.9).contains(s));
            stored.missing = match value {
                "zero" => Missing::Zero,
                "default" => Missing::Default,
                other => match share(other) {
                    Some(share) => Missing::Hashed(share),
                    None => return false,
                },
            };
            return true;
        }
        "init" => {
            let bound = number.ok().filter(|bound| bound.is_finite() && *bound >= 0.0);
            return bound.map(|bound| stored.init_bound = bound).is_some();
        }
        "hysteresis" => &mut policy.hysteresis,
        "headroom" => &mut policy.headroom,
        "sketch" => &mut policy.sketch,
        _ => return false,
    };
    number.map(|number| *to = number).is_ok()
}

impl FromStr for Spec {
    type Err = StudyError;

    fn from_str(text: &str) -> Result<Spec, StudyError> {
        let mut parts = text.split('+');
        let name = parts.next().unwrap_or_default();
        let mut kind = Kind::named(name).ok_or_else(|| {
            let known = METHODS.map(|(name, _)| name).join(", ");
            StudyError::Name(format!("`{name}` is no method: there are {known}"))
        })?;
        for part in parts {
            let set = part.split_once('=').is_some_and(|(name, value)| kind.set(name, value));
            if !set {
                return Err(StudyError::Name(format!("{text}: `{part}` is no setting of {name}, or no value of it")));
            }
        }
        Ok(Spec { name: text.to_owned(), kind })
    }
}

impl Spec {
    /// Whether the ratio means nothing to it.
    pub(crate) fn is_full(&self) -> bool {
        self.kind == Kind::Full
    }

    /// Whether it needs more than its budget while it trains, by its nature.
    pub(crate) fn trains_at_full_size(&self) -> bool {
        self.kind == Kind::Magnitude
    }

    /// Bytes of a row for each training id.
    pub(crate) fn full_bytes(stream: &Stream, dim: usize) -> u64 {
        stream.sizes().iter().sum::<usize>() as u64 * Rows::row_bytes(dim)
    }

    /// Makes the method for a stream.
    ///
    /// # Errors
    /// [`StudyError::TooSmall`] or the store's own error if the method cannot exist within the budget.
    pub(crate) fn build(
        &self,
        stream: &Stream,
        dim: usize,
        budget: u64,
        training: Training,
    ) -> Result<Box<dyn Method>, StudyError> {
        let sizes = &stream.sizes();
        Ok(match self.kind {
            Kind::Full => Box::new(Hashed::full(sizes, dim, training)),
            Kind::SmallDim => Box::new(Hashed::narrow(sizes, dim, budget, training)?),
            Kind::Hash => Box::new(Hashed::shared(sizes, dim, budget, training)),
            Kind::QuotientRemainder => Box::new(QuotientRemainder::new(sizes, dim, budget, training)),
            Kind::Mixed => Box::new(Mixed::new(sizes, dim, budget, training)?),
            Kind::Pruned(pruning) => {
                let unit = pruning.unit.min(dim);
                if !dim.is_multiple_of(unit) {
                    let text = format!("{}: units of {unit} dimensions do not divide {dim}", self.name);
                    return Err(StudyError::Name(text));
                }
                Box::new(Pruned::new(sizes, dim, budget, training, Pruning { unit, ..pruning })?)
            }
            Kind::Oracle { share, frozen } => {
                let known = stream.train_rows / if frozen { FROZEN_PART } else { 1 };
                Box::new(Oracle::new(&stream.counts_until(known), dim, budget, share, training))
            }
            Kind::Cafe { share } => Box::new(Cafe::new(sizes, dim, budget, share, training)),
            Kind::Magnitude => Box::new(Magnitude::new(Hashed::full(sizes, dim, training), budget)),
            Kind::Store(stored) => Box::new(InStore::new(&stream.features, dim, budget, training, stored)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::start::Start;
    use super::super::stream::tests::Listed;
    use super::*;

    #[test]
    fn every_method_is_known_by_its_name_and_made() {
        let rows = (0..3000u64).map(|i| ((i % 2) as f32, vec![i as f32], vec![i, i % 7])).collect();
        let stream = Stream::read(&mut Listed::new(rows), u64::MAX, 100, 64).unwrap();
        let training = Training { lr: 0.1, eps: 1e-8, seed: 3 };
        let full = Spec::full_bytes(&stream, 16);
        assert_eq!(full, (2900 + 7) * 128);
        for (name, _) in METHODS {
            let spec: Spec = name.parse().unwrap();
            let budget = if spec.is_full() { full } else { full / 2 };
            let method = spec.build(&stream, 16, budget, training).unwrap_or_else(|error| panic!("{name}: {error}"));
            let limit = if spec.trains_at_full_size() { full } else { budget };
            assert!(method.held().peak <= limit, "{name}");
        }
    }

    #[test]
    fn settings_are_read_and_wrong_ones_named() {
        let spec: Spec = "dimslab+chunk=8+decay=2x+missing=hashed:0.1+hysteresis=0.5".parse().unwrap();
        let Kind::Store(stored) = spec.kind else { panic!("{spec:?}") };
        assert_eq!((stored.chunk, stored.missing, stored.policy.hysteresis), (8, Missing::Hashed(0.1), 0.5));
        assert_eq!(stored.policy.decay, Decay::PerCapacity(2.0));
        let start = |text: &str| match text.parse::<Spec>().unwrap().kind {
            Kind::Store(stored) => stored.init_bound,
            other => panic!("{text}: {other:?}"),
        };
        let starts = ["dimslab", "dimslab+chunk=8", "dimslab+init=0", "dimslab+init=0.25"].map(start);
        assert_eq!(starts, [0.01, 0.01, 0.0, 0.25]);
        for bad in ["dimslab+init=-1", "dimslab+init=nan", "dimslab+init=inf", "dimslab+init="] {
            assert!(bad.parse::<Spec>().is_err(), "{bad}");
        }
        let spec: Spec = "adaembed+period=7+scaled=false+worth=0+start=own+numbered=false+charge=8".parse().unwrap();
        let wanted = Pruning {
            period: 7,
            scaled: false,
            worth: 0.0,
            start: Start::Own,
            numbered: false,
            charge: 8,
            ..Pruning::ADAEMBED
        };
        assert_eq!(spec.kind, Kind::Pruned(wanted));
        let settings = ["adaembed+start=x", "adaembed+start=random:-1", "adaembed+charge=9999", "fiited+period=0"];
        let names = ["", "hashh", "hash+rows=3", "dimslab+chunk", "dimslab+chunk=x", "cafe+share=2"];
        for text in settings.into_iter().chain(names) {
            let error = text.parse::<Spec>().unwrap_err().to_string();
            assert!(error.contains("is no method") || error.contains("is no setting"), "{text}: {error}");
        }
    }
}
