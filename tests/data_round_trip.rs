//! What is written is what is read: property tests of the readers over odd bytes, line ends, compression and splits into
//! several files.
#![cfg(all(feature = "train", not(loom)))]

use std::io::{Cursor, Write};

use dimslab::data::{CRITEO_MISSING_KEY, Columns, CriteoReader, CsvReader, Input, Inputs, Row, RowSource};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use xxhash_rust::xxh3::xxh3_64;

fn rows(source: &mut dyn RowSource) -> Result<Vec<Row>, TestCaseError> {
    let (mut row, mut all) = (Row::default(), Vec::new());
    loop {
        match source.next_row(&mut row) {
            Ok(true) => all.push(row.clone()),
            Ok(false) => return Ok(all),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
}

/// How the text of a test gets into files.
#[derive(Clone, Copy, Debug)]
struct Shape {
    crlf: bool,
    last_line_end: bool,
    compression: u8,
}

fn shape() -> impl Strategy<Value = Shape> {
    (any::<bool>(), any::<bool>(), 0u8..3).prop_map(|(crlf, last_line_end, compression)| Shape {
        crlf,
        last_line_end,
        compression,
    })
}

fn packed(text: Vec<u8>, compression: u8) -> Vec<u8> {
    match compression {
        0 => text,
        1 => {
            // Two members, cut anywhere.
            let (a, b) = text.split_at(text.len() / 3);
            let mut out = Vec::new();
            for part in [a, b] {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
                encoder.write_all(part).unwrap();
                out = encoder.finish().unwrap();
            }
            out
        }
        _ => zstd::stream::encode_all(&text[..], 1).unwrap(),
    }
}

/// One input of the lines.
fn input(name: &str, lines: &[Vec<u8>], shape: Shape) -> Input {
    let end: &[u8] = if shape.crlf { b"\r\n" } else { b"\n" };
    let mut text = lines.join(end);
    if shape.last_line_end && !lines.is_empty() {
        text.extend_from_slice(end);
    }
    Input::from_reader(name, Cursor::new(packed(text, shape.compression))).unwrap()
}

#[derive(Clone, Debug)]
struct CriteoLine {
    label: bool,
    integers: Vec<Option<i64>>,
    categories: Vec<Option<(u32, u8)>>,
}

fn criteo_line() -> impl Strategy<Value = CriteoLine> {
    let integer = prop_oneof![-5i64..5000, any::<i32>().prop_map(i64::from), -(1i64 << 58)..1 << 58];
    (any::<bool>(), vec(option::of(integer), 13), vec(option::of((any::<u32>(), 0u8..3)), 26))
        .prop_map(|(label, integers, categories)| CriteoLine { label, integers, categories })
}

impl CriteoLine {
    fn text(&self) -> Vec<u8> {
        let mut fields = vec![u8::from(self.label).to_string()];
        fields.extend(self.integers.iter().map(|x| x.map_or(String::new(), |x| x.to_string())));
        fields.extend(self.categories.iter().map(|c| match c {
            None => String::new(),
            Some((id, 0)) => format!("{id:08x}"),
            Some((id, 1)) => format!("{id:x}"),
            Some((id, _)) => format!("{id:08X}"),
        }));
        fields.join("\t").into_bytes()
    }

    fn check(&self, row: &Row) -> Result<(), TestCaseError> {
        prop_assert_eq!(row.label, f32::from(u8::from(self.label)));
        let keys: Vec<u64> = self.categories.iter().map(|c| c.map_or(CRITEO_MISSING_KEY, |c| u64::from(c.0))).collect();
        prop_assert_eq!(&row.keys, &keys);
        prop_assert_eq!(row.dense.len(), 13);
        for (value, x) in row.dense.iter().zip(&self.integers) {
            let want = (1.0 + x.unwrap_or(0).max(0) as f64).ln();
            prop_assert!((f64::from(*value) - want).abs() <= 2e-6 * want.max(1.0), "{} {:?}", value, x);
        }
        Ok(())
    }
}

/// A CSV field of any bytes, as likely as not one that needs quotes.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(vec![b',', b'"', b'\n', b'\r', b' ', b'a', 0, 0xff, 0xc3, b'\t']);
    prop_oneof![vec(odd, 0..6), vec(any::<u8>(), 0..6), Just(Vec::new())]
}

fn quoted(field: &[u8], always: bool) -> Vec<u8> {
    if !always && !field.iter().any(|byte| b",\"\r\n".contains(byte)) {
        return field.to_vec();
    }
    let mut out = vec![b'"'];
    for &byte in field {
        out.extend_from_slice(if byte == b'"' { b"\"\"" } else { std::slice::from_ref(&byte) });
    }
    out.push(b'"');
    out
}

type CsvLine = (bool, i64, f64, Vec<u8>, Vec<u8>, bool);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn criteo(files in vec((vec(criteo_line(), 0..5), shape()), 1..4)) {
        let inputs = files.iter().enumerate().map(|(i, (lines, shape))| {
            let lines: Vec<Vec<u8>> = lines.iter().map(CriteoLine::text).collect();
            input(&i.to_string(), &lines, *shape)
        });
        let read = rows(&mut CriteoReader::new(Inputs::from_inputs(inputs.collect())))?;
        let lines: Vec<&CriteoLine> = files.iter().flat_map(|(lines, _)| lines).collect();
        prop_assert_eq!(read.len(), lines.len());
        for (row, line) in read.iter().zip(lines) {
            line.check(row)?;
        }
    }

    #[test]
    fn csv(files in vec((vec((any::<bool>(), any::<i64>(), -1e30f64..1e30, field(), field(), any::<bool>()), 0..5), shape()), 1..4)) {
        let text = |(label, time, dense, a, b, always): &CsvLine| {
            let fields = [
                a.clone(), u8::from(*label).to_string().into_bytes(), time.to_string().into_bytes(),
                dense.to_string().into_bytes(), b"not read".to_vec(), b.clone(),
            ];
            fields.map(|field| quoted(&field, *always)).join(&b',')
        };
        let inputs = files.iter().enumerate().map(|(i, (lines, shape))| {
            let header = b"a,click,when,x,note,b".to_vec();
            let lines: Vec<Vec<u8>> = std::iter::once(header).chain(lines.iter().map(text)).collect();
            input(&i.to_string(), &lines, *shape)
        });
        let columns = Columns::parse("label=click,time=when,dense=x,ignore=note,cat=*").unwrap();
        let mut source = CsvReader::new(Inputs::from_inputs(inputs.collect()), &columns).unwrap();
        let read = rows(&mut source)?;
        let lines: Vec<&CsvLine> = files.iter().flat_map(|(lines, _)| lines).collect();
        prop_assert_eq!(read.len(), lines.len());
        for (row, (label, _, dense, a, b, _)) in read.iter().zip(&lines) {
            prop_assert_eq!(row.label, f32::from(u8::from(*label)));
            prop_assert_eq!(&row.keys, &vec![xxh3_64(a), xxh3_64(b)]);
            let want = (1.0 + dense.abs()).ln().copysign(*dense);
            prop_assert!((f64::from(row.dense[0]) - want).abs() <= 1e-5 * want.abs().max(1e-3));
        }
        let times = lines.iter().map(|line| line.1);
        prop_assert_eq!(source.time_range(), times.clone().min().zip(times.max()));
    }

    /// A damaged Criteo line is an error at its own line and at a field of it, or still a line of the format.
    #[test]
    fn one_changed_byte(lines in vec(criteo_line(), 1..4), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let shape = Shape { crlf: false, last_line_end: true, compression: 0 };
        let mut texts: Vec<Vec<u8>> = lines.iter().map(CriteoLine::text).collect();
        let last = texts.len() - 1;
        let at = at.index(texts[last].len());
        texts[last][at] = byte;
        let mut source = CriteoReader::new(Inputs::from_inputs(vec![input("x", &texts, shape)]));
        let mut row = Row::default();
        for line in &lines[..last] {
            prop_assert!(source.next_row(&mut row).unwrap());
            line.check(&row)?;
        }
        match source.next_row(&mut row) {
            Ok(more) => prop_assert!(more && row.dense.len() == 13 && row.keys.len() == 26),
            Err(dimslab::data::DataError::Malformed(bad)) => {
                let last_line = last as u64 + 1;
                prop_assert!(bad.line == last_line || (byte == b'\n' && bad.line <= last_line + 1), "{}", bad);
                prop_assert!((1..=41).contains(&bad.column), "{}", bad);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
