//! Values of flags and configuration keys: byte sizes, layer lists, names of formats and optimizers.
//!
//! Each is read from text by one function, for a flag and for a key of the configuration file alike.

use std::fmt;
use std::str::FromStr;

use crate::Decay;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes: `123456`, `500kB` (1000), `64MiB` (1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

/// Units of a byte size, in the spelling that is printed.
const UNITS: [(&str, u64); 11] = [
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no byte size: write 64MiB, 1GiB, 500kB or 123456");
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim());
        let scale = if unit.is_empty() {
            1
        } else {
            let known = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
            known.ok_or_else(wrong)?.1
        };
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(scale).ok_or_else(wrong)?,
            Err(_) => {
                let bytes = number.parse::<f64>().map_err(|_| wrong())? * scale as f64;
                if bytes >= u64::MAX as f64 {
                    return Err(wrong());
                }
                bytes as u64
            }
        };
        Ok(ByteSize(bytes))
    }
}

impl fmt::Display for ByteSize {
    /// The exact number in the largest binary unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, scale) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= scale && self.0.is_multiple_of(scale) {
                return write!(f, "{}{name}", self.0 / scale);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How fast utilities are forgotten: `0.999`, the factor per step, `5x`, half with every 5 accesses per live row, or `adaptive`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DecayRate(pub(crate) Decay);

impl FromStr for DecayRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "adaptive" {
            return Ok(DecayRate(Decay::Adaptive));
        }
        let (number, kind): (&str, fn(f32) -> Decay) = match text.trim().strip_suffix('x') {
            Some(number) => (number, Decay::PerCapacity),
            None => (text.trim(), Decay::PerStep),
        };
        let wrong = |_| {
            format!(
                "`{text}` is no decay: write a factor per step such as 0.999, accesses per row such as 5x, or `adaptive`"
            )
        };
        number.parse().map(|number| DecayRate(kind(number))).map_err(wrong)
    }
}

impl fmt::Display for DecayRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Decay::PerStep(factor) => write!(f, "{factor}"),
            Decay::PerCapacity(accesses) => write!(f, "{accesses}x"),
            Decay::Adaptive => f.write_str("adaptive"),
        }
    }
}

impl Serialize for DecayRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DecayRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a decay such as \"5x\", \"adaptive\" or 0.999")]
        enum Form {
            Number(f32),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(factor) => Ok(DecayRate(Decay::PerStep(factor))),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a byte size such as \"64MiB\" or 123456")]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(bytes) => Ok(ByteSize(bytes)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// Sizes of a network's hidden layers: `64,32`, or `none`; in a file also `[64, 32]` and `[]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Layers(pub(crate) Vec<usize>);

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Layers(Vec::new()));
        }
        let size = |part: &str| match part.trim().parse::<usize>() {
            Ok(size) if size > 0 => Ok(size),
            _ => Err(format!("`{text}` is no list of layer sizes: write 64,32 or none")),
        };
        text.split(',').map(size).collect::<Result<_, _>>().map(Layers)
    }
}

impl<'de> Deserialize<'de> for Layers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected layer sizes such as [64, 32] or \"64,32\", or \"none\"")]
        enum Form {
            Sizes(Vec<usize>),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Sizes(sizes) => Ok(Layers(sizes)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// How a data file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// Criteo TSV: label, 13 integers, 26 categorical strings; no header.
    Criteo,
    /// CSV with a header; --columns gives the roles.
    Csv,
}

/// Who decides which rows keep their dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PolicyName {
    /// Rows grow and shrink by their importance.
    Fiited,
    /// Every row gets its full dimension until the budget is spent.
    None,
}

/// Update rule of the embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OptimizerName {
    /// Plain gradient descent.
    Sgd,
    /// A sum of squared gradients per dimension.
    Adagrad,
    /// A sum of squared gradients per row.
    RowwiseAdagrad,
    /// Adam with two moments per dimension.
    Adam,
}

/// Update rule of the dense layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DenseOptimizerName {
    /// Plain gradient descent.
    Sgd,
    /// A sum of squared gradients per parameter.
    Adagrad,
}

/// What stands for the dimensions a row does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FallbackName {
    /// Zeros.
    Zero,
    /// One trained vector per table.
    DefaultVector,
    /// A trained row shared by the keys of one hash bucket.
    HashedRow,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes_are_read_in_both_kinds_of_units() {
        let cases = [
            ("0", 0),
            ("123456", 123_456),
            ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("500kB", 500_000),
            ("500 KB", 500_000),
            ("1.5KiB", 1536),
            ("2g", 2 << 30),
            ("7B", 7),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "64 MiBs", "-1", "1e3", "99999999999GiB", "1.2.3", "nan"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.contains("64MiB"), "{text}: {error}");
        }
    }

    #[test]
    fn a_printed_byte_size_reads_back_the_same() {
        for bytes in [0, 1, 1023, 1024, 500_000, 64 << 20, (1 << 30) + 1, 3 << 30, u64::MAX] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
        assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
    }

    #[test]
    fn layers_are_lists_or_none() {
        assert_eq!("64, 32".parse(), Ok(Layers(vec![64, 32])));
        assert_eq!("none".parse(), Ok(Layers(Vec::new())));
        for text in ["", "64,", "-1", "64,x"] {
            assert!(text.parse::<Layers>().is_err(), "{text}");
        }
    }
}
