//! A SPEC on the first line, then any bytes as CSV, over one file or two: rows of the schema's shape, or a typed error.
#![no_main]

use std::io::Cursor;

use dimslab::data::{Columns, Compression, CsvReader, DataError, Input, Inputs, Row, RowSource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [allowed, cut, rest @ ..] = data else {
        return;
    };
    let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    let spec = String::from_utf8_lossy(&rest[..end]);
    let text = rest.get(end + 1..).unwrap_or_default();
    let columns = match Columns::parse(&spec) {
        Ok(columns) => columns,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    // The second file, if any, begins with the first one's header, or it would hardly ever get past it.
    let header_end = text.iter().position(|&byte| byte == b'\n').map_or(text.len(), |at| at + 1);
    let (first, body) = text.split_at(header_end + usize::from(*cut).min(text.len() - header_end));
    let second = [&text[..header_end], body].concat();
    let mut inputs = Vec::new();
    // Lines of an archive are not those of its bytes.
    let plain = [first, &second].iter().all(|bytes| Compression::of(bytes) == Compression::Plain);
    for (name, bytes) in [("first", first.to_vec()), ("second", second)] {
        inputs.extend(Input::from_reader(name, Cursor::new(bytes)));
    }

    let lines = 2 + text.iter().filter(|&&byte| byte == b'\n').count() as u64;
    let allowed = u64::from(*allowed);
    let mut reader = match CsvReader::new(Inputs::from_inputs(inputs), &columns) {
        Ok(reader) => reader.skip_bad_lines(allowed),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let shape = (reader.schema().dense.len(), reader.schema().categorical.len());
    let (mut row, mut rows) = (Row::default(), 0);
    loop {
        match reader.next_row(&mut row) {
            Ok(true) => {
                rows += 1;
                assert!(row.label == 0.0 || row.label == 1.0);
                assert_eq!((row.dense.len(), row.keys.len()), shape);
                assert!(row.dense.iter().all(|value| value.is_finite()));
            }
            Ok(false) => break,
            Err(DataError::Malformed(bad)) => {
                assert_eq!((bad.skipped, reader.skipped()), (allowed, allowed));
                assert!(bad.line >= 1 && !(plain && bad.line > lines), "{bad}");
                assert!(bad.column >= 1 && bad.to_string().len() < 1000 + spec.len() + text.len(), "{bad}");
                break;
            }
            Err(DataError::Truncated { .. } | DataError::Corrupt { .. }) => return,
            Err(DataError::HeaderMismatch { .. } | DataError::NoHeader { .. }) => break,
            Err(DataError::RecordTooLong { .. } | DataError::UnclosedQuote { .. }) => return,
            Err(other) => panic!("{other}"),
        }
        if rows > 1 << 16 {
            return;
        }
    }
    assert!(reader.skipped() <= allowed);
    assert!(reader.time_range().is_none_or(|(least, greatest)| least <= greatest));
});
