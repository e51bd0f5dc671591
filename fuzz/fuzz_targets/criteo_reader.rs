//! Any bytes as Criteo text, over one file or two: rows of the right shape, or a typed error at a place that exists.
#![no_main]

use std::io::Cursor;

use dimslab::data::{CRITEO_MISSING_KEY, Compression, CriteoReader, DataError, Input, Inputs, Row, RowSource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [allowed, cut, text @ ..] = data else {
        return;
    };
    let (first, second) = text.split_at(usize::from(*cut).min(text.len()));
    let input = |name: &str, bytes: &[u8]| Input::from_reader(name, Cursor::new(bytes.to_vec()));
    let (Ok(first), Ok(second)) = (input("first", first), input("second", second)) else {
        return;
    };
    // Lines of an archive are not those of its bytes.
    let plain = [&first, &second].iter().all(|input| input.compression() == Compression::Plain);
    let allowed = u64::from(*allowed);
    let mut reader = CriteoReader::new(Inputs::from_inputs(vec![first, second])).skip_bad_lines(allowed);

    let lines = 2 + text.iter().filter(|&&byte| byte == b'\n').count() as u64;
    let (mut row, mut rows) = (Row::default(), 0);
    loop {
        match reader.next_row(&mut row) {
            Ok(true) => {
                rows += 1;
                assert!(row.label == 0.0 || row.label == 1.0);
                assert_eq!((row.dense.len(), row.keys.len()), (13, 26));
                assert!(row.dense.iter().all(|value| (0.0..50.0).contains(value)));
                assert!(row.keys.iter().all(|&key| key <= CRITEO_MISSING_KEY));
            }
            Ok(false) => break,
            Err(DataError::Malformed(bad)) => {
                assert_eq!((bad.skipped, reader.skipped()), (allowed, allowed));
                assert!(bad.line >= 1 && !(plain && bad.line > lines), "{bad}");
                assert!((1..=41).contains(&bad.column), "{bad}");
                assert!(bad.to_string().len() < 1000, "{bad}");
                break;
            }
            // Bytes that begin like an archive.
            Err(DataError::Truncated { .. } | DataError::Corrupt { .. }) => return,
            Err(other) => panic!("{other}"),
        }
        // An archive can hold more lines than its bytes tell.
        if rows > 1 << 16 {
            return;
        }
    }
    assert!(reader.skipped() <= allowed);
});
