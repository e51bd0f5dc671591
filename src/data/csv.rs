//! CSV with a header line, in the dialect of RFC 4180: comma-separated, fields quoted with `"` where needed, `""` for a
//! quote inside one. Blank lines are passed over.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ::csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder, Terminator};
use xxhash_rust::xxh3::xxh3_64;

use super::batch::{Row, RowSource, Schema};
use super::columns::{Columns, Layout, Role};
use super::error::{BadLine, DataError, FieldFault, LABEL_EXPECTED, Tolerance, parse_label};
use super::input::{Input, Inputs, LINE_LIMIT};

const BUFFER_BYTES: usize = 64 << 10;
const NUMBER_EXPECTED: &str = "a finite number, or nothing";
/// What the parser finds after a file's last byte: a line that is a record of its own, unless a quote is still open.
const END: &[u8] = b"\n.";
const TIME_EXPECTED: &str = "an integer time";

/// Reads rows from one or several CSV files, with the columns' roles given by [`Columns`].
pub struct CsvReader {
    layout: Layout,
    schema: Schema,
    first: PathBuf,
    inputs: Inputs,
    current: Option<CsvFile>,
    record: ByteRecord,
    tolerance: Tolerance,
    times: Option<(i64, i64)>,
}

impl CsvReader {
    /// Reads the files in order as one stream; plain, gzip or zstd. Each file has the same header.
    ///
    /// # Errors
    /// As [`Inputs::files`] and [`CsvReader::new`].
    pub fn open<P: AsRef<Path>>(paths: &[P], columns: &Columns) -> Result<CsvReader, DataError> {
        CsvReader::new(Inputs::files(paths)?, columns)
    }

    /// Reads from inputs that are already there. The first one's header is read now.
    ///
    /// # Errors
    /// [`DataError::NoInput`], [`DataError::NoHeader`], [`DataError::Columns`], and what reading can meet.
    pub fn new(mut inputs: Inputs, columns: &Columns) -> Result<CsvReader, DataError> {
        let input = inputs.next_input()?.ok_or(DataError::NoInput)?;
        let mut record = ByteRecord::new();
        let (file, header) = CsvFile::begin(input, &mut record)?;
        let first = file.path().to_path_buf();
        let layout = columns.resolve(&first, &header)?;
        let schema = layout.schema();
        let tolerance = Tolerance::default();
        Ok(CsvReader { layout, schema, first, inputs, current: Some(file), record, tolerance, times: None })
    }

    /// Skips and counts up to `lines` malformed lines; the one after that is the error. Defaults to 0.
    #[must_use]
    pub fn skip_bad_lines(mut self, lines: u64) -> CsvReader {
        self.tolerance.allowed = lines;
        self
    }

    /// Goes on to the next file. `Ok(None)` after the last.
    fn next_file(&mut self) -> Result<Option<CsvFile>, DataError> {
        let Some(input) = self.inputs.next_input()? else {
            return Ok(None);
        };
        let (file, found) = CsvFile::begin(input, &mut self.record)?;
        let expected = self.layout.header();
        if found == expected {
            return Ok(Some(file));
        }
        let same = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
        let name = |header: &[String]| match header.get(same) {
            Some(name) => format!("`{name}`"),
            None => "no such column".to_owned(),
        };
        Err(DataError::HeaderMismatch {
            path: file.path().to_path_buf(),
            first: self.first.clone(),
            column: same + 1,
            found: name(&found),
            expected: name(expected),
        })
    }

    /// Decodes `self.record` into `row`.
    fn decode(&mut self, row: &mut Row) -> Result<(), FieldFault> {
        let roles = self.layout.roles();
        if self.record.len() != roles.len() {
            return Err(FieldFault::count(self.record.len(), roles.len(), "commas"));
        }
        row.dense.clear();
        row.keys.clear();
        let mut time = None;
        for (i, (field, role)) in self.record.iter().zip(roles).enumerate() {
            let fault = |expected| FieldFault::bytes(i, field, expected);
            match role {
                Role::Categorical => row.keys.push(xxh3_64(field)),
                Role::Dense => row.dense.push(dense_value(field).ok_or_else(|| fault(NUMBER_EXPECTED))?),
                Role::Label => row.label = parse_label(field).ok_or_else(|| fault(LABEL_EXPECTED))?,
                Role::Time => time = Some(parse::<i64>(field).ok_or_else(|| fault(TIME_EXPECTED))?),
                Role::Ignore => {}
            }
        }
        if let Some(t) = time {
            let (least, greatest) = self.times.unwrap_or((t, t));
            self.times = Some((least.min(t), greatest.max(t)));
        }
        Ok(())
    }

    #[cold]
    fn absorb(&mut self, path: &Path, line: u64, fault: FieldFault) -> Result<(), DataError> {
        let name = self.layout.header().get(fault.field);
        self.tolerance.absorb(BadLine {
            path: path.to_path_buf(),
            line,
            column: fault.field + 1,
            name: name.cloned().unwrap_or_else(|| "after the last column".to_owned()),
            found: fault.found,
            expected: fault.expected,
            skipped: 0,
        })
    }
}

impl RowSource for CsvReader {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn next_row(&mut self, row: &mut Row) -> Result<bool, DataError> {
        loop {
            let mut file = match self.current.take() {
                Some(file) => file,
                None => match self.next_file()? {
                    Some(file) => file,
                    None => return Ok(false),
                },
            };
            if !file.read(&mut self.record)? {
                continue;
            }
            if let Err(fault) = self.decode(row) {
                self.absorb(file.path(), file.record_line(&self.record), fault)?;
                self.current = Some(file);
                continue;
            }
            self.current = Some(file);
            return Ok(true);
        }
    }

    fn skipped(&self) -> u64 {
        self.tolerance.skipped
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        self.times
    }

    fn buffer_bytes(&self) -> u64 {
        let input = self.current.as_ref().map_or(0, |file| file.reader.get_ref().input.buffer_bytes());
        (BUFFER_BYTES + self.record.as_slice().len()) as u64 + input
    }
}

/// One CSV file, after its header.
struct CsvFile {
    reader: Reader<Bounded>,
    /// The header ends in `\r\n`, and so do the lines: the parser splits at `\n`, and the `\r` is taken off here.
    crlf: bool,
}

impl CsvFile {
    /// Starts on a file and reads its header.
    fn begin(input: Input, record: &mut ByteRecord) -> Result<(CsvFile, Vec<String>), DataError> {
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            // With `\n` as the one line end, a record ends where its line ends, and the line count is exact.
            .terminator(Terminator::Any(b'\n'))
            .from_reader(Bounded { input, left: LINE_LIMIT, total: 0, last: b'\n', end: END });
        let mut file = CsvFile { reader, crlf: false };
        if !file.read(record)? {
            return Err(DataError::NoHeader { path: file.path().to_path_buf() });
        }
        if record.iter().next_back().is_some_and(|name| name.ends_with(b"\r")) {
            file.crlf = true;
            strip_cr(record);
        }
        let header = record.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
        Ok((file, header))
    }

    fn path(&self) -> &Path {
        self.reader.get_ref().input.path()
    }

    /// Reads the next record; `Ok(false)` at the end of the file.
    fn read(&mut self, record: &mut ByteRecord) -> Result<bool, DataError> {
        loop {
            self.reader.get_mut().left = LINE_LIMIT;
            match self.reader.read_byte_record(record) {
                Ok(false) => return Ok(false),
                Ok(true) => {}
                Err(error) => return Err(self.explain(error, record)),
            }
            if self.reader.position().byte() == self.reader.get_ref().total + END.len() as u64 {
                return self.ended(record);
            }
            if self.crlf && self.line_ended() {
                strip_cr(record);
                if record.len() == 1 && record[0].is_empty() {
                    continue;
                }
            }
            return Ok(true);
        }
    }

    /// `Ok(false)` if the record, which has [`END`] in it, is nothing else.
    #[cold]
    fn ended(&self, record: &ByteRecord) -> Result<bool, DataError> {
        if record.iter().eq([&END[1..]]) {
            return Ok(false);
        }
        let inside = record.iter().next_back().map_or(0, line_ends);
        Err(DataError::UnclosedQuote { path: self.path().to_path_buf(), line: self.reader.position().line() - inside })
    }

    #[cold]
    fn explain(&self, error: ::csv::Error, record: &ByteRecord) -> DataError {
        let path = self.path().to_path_buf();
        let line = record.position().map_or(0, ::csv::Position::line);
        let source = match error.into_kind() {
            ErrorKind::Io(source) => source,
            // The other kinds concern seeking, text encoding and unequal lengths, none of which is in use.
            other => io::Error::other(format!("{other:?}")),
        };
        match source.get_ref() {
            Some(inner) if inner.is::<TooLong>() => DataError::RecordTooLong { path, line, limit: LINE_LIMIT },
            _ => self.reader.get_ref().input.explain(source),
        }
    }

    /// Whether the record read last had a line end, which only a file's last one may lack.
    fn line_ended(&self) -> bool {
        let bounded = self.reader.get_ref();
        self.reader.position().byte() < bounded.total || bounded.last == b'\n'
    }

    /// 1-based line on which `record`, which was read last, begins.
    fn record_line(&self, record: &ByteRecord) -> u64 {
        // The line count stands after the record's line end, which may be that of `END`.
        self.reader.position().line() - line_ends(record.as_slice()) - 1
    }
}

fn line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Takes one `\r` off the last field.
fn strip_cr(record: &mut ByteRecord) {
    let Some(last) = record.len().checked_sub(1) else {
        return;
    };
    if let Some(stripped) = record[last].strip_suffix(b"\r") {
        let stripped = stripped.to_vec();
        record.truncate(last);
        record.push_field(&stripped);
    }
}

/// Hands on at most a number of bytes until it is told that the record has ended, so that an unclosed quote cannot
/// gather a whole file in memory. After the last byte it hands on [`END`].
struct Bounded {
    input: Input,
    left: usize,
    /// Bytes of the input so far.
    total: u64,
    /// The last of them.
    last: u8,
    /// What has not been handed on of [`END`].
    end: &'static [u8],
}

#[derive(Debug)]
struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("record too long")
    }
}

impl std::error::Error for TooLong {}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other(TooLong));
        }
        let room = buffer.len().min(self.left);
        let n = self.input.read(&mut buffer[..room])?;
        self.left -= n;
        self.total += n as u64;
        match buffer[..n].last() {
            Some(&last) => self.last = last,
            None => return self.end.read(buffer),
        }
        Ok(n)
    }
}

/// `sign(x) ln(1 + abs(x))` of a number, 0 for an empty field; `None` for anything else, infinities and NaN included.
fn dense_value(field: &[u8]) -> Option<f32> {
    if field.is_empty() {
        return Some(0.0);
    }
    let x = parse::<f64>(field).filter(|x| x.is_finite())?;
    Some(x.abs().ln_1p().copysign(x) as f32)
}

fn parse<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const SPEC: &str = "label=y,time=t,dense=a,cat=*";

    fn inputs(texts: &[&str]) -> Inputs {
        let input = |(i, text): (usize, &&str)| {
            Input::from_reader(format!("{i}.csv"), Cursor::new(text.as_bytes().to_vec())).unwrap()
        };
        Inputs::from_inputs(texts.iter().enumerate().map(input).collect())
    }

    fn open(texts: &[&str]) -> Result<CsvReader, DataError> {
        CsvReader::new(inputs(texts), &Columns::parse(SPEC).unwrap())
    }

    fn rows(texts: &[&str]) -> Result<(Vec<Row>, CsvReader), DataError> {
        let mut source = open(texts)?;
        let (mut row, mut all) = (Row::default(), Vec::new());
        while source.next_row(&mut row)? {
            all.push(row.clone());
        }
        Ok((all, source))
    }

    fn error(texts: &[&str]) -> DataError {
        match rows(texts) {
            Err(error) => error,
            Ok((rows, _)) => panic!("no error, but {rows:?}"),
        }
    }

    #[test]
    fn values_keys_and_times() {
        let (rows, source) = rows(&["y,t,a,u,v\n1,10,2.5,x,\n0,-7,-3,\"x,\"\"y\",é\n1.0,8,,x,\n"]).unwrap();
        assert_eq!(source.schema(), &Schema { dense: vec!["a".into()], categorical: vec!["u".into(), "v".into()] });
        let row = |label, a: f32, keys: [&str; 2]| Row {
            label,
            dense: vec![a],
            keys: keys.map(|k| xxh3_64(k.as_bytes())).to_vec(),
        };
        let want = [row(1.0, 3.5f32.ln(), ["x", ""]), row(0.0, -(4f32.ln()), ["x,\"y", "é"]), row(1.0, 0.0, ["x", ""])];
        assert_eq!(rows, want);
        assert_eq!(source.time_range(), Some((-7, 10)));
        assert_ne!(xxh3_64(b""), xxh3_64(b"x"));
    }

    #[test]
    fn line_ends_blank_lines_and_a_byte_order_mark() {
        let (want, _) = rows(&["y,t,a,u\n1,1,2,p\n0,2,3,q\n"]).unwrap();
        for text in [
            "y,t,a,u\r\n1,1,2,p\r\n0,2,3,q\r\n",
            "y,t,a,u\r\n1,1,2,p\r\n0,2,3,q",
            "y,t,a,u\n1,1,2,p\n0,2,3,q",
            "y,t,a,u\n\n1,1,2,p\n\n\n0,2,3,q\n\n",
            "y,t,a,u\r\n\r\n1,1,2,p\r\n\r\n0,2,3,q\r\n\r\n",
            "\u{feff}y,t,a,u\n1,1,2,p\n0,2,3,q\n",
            "y,t,a,\"u\"\r\n1,1,2,\"p\"\r\n\"0\",2,3,\"q\"\r\n",
        ] {
            assert_eq!(rows(&[text]).unwrap().0, want, "{text:?}");
        }
    }

    #[test]
    fn each_kind_of_bad_field_has_its_place() {
        for (text, line, column, name, found) in [
            ("y,t,a,u\n1,1,2,p\n2,1,2,p\n", 3, 1, "y", "`2`"),
            ("y,t,a,u\nNaN,1,2,p\n", 2, 1, "y", "`NaN`"),
            ("y,t,a,u\n,1,2,p\n", 2, 1, "y", "nothing"),
            ("y,t,a,u\n1,1.5,2,p\n", 2, 2, "t", "`1.5`"),
            ("y,t,a,u\n1,,2,p", 2, 2, "t", "nothing"),
            ("y,t,a,u\n1,1,x,p\n", 2, 3, "a", "`x`"),
            ("y,t,a,u\n1,1,NaN,p\n", 2, 3, "a", "`NaN`"),
            ("y,t,a,u\n1,1,inf,p\n", 2, 3, "a", "`inf`"),
            ("y,t,a,u\n1,1,2\n", 2, 4, "u", "a line of 3 fields"),
            ("y,t,a,u\n1,1,2,p,q\n", 2, 5, "after the last column", "a line of 5 fields"),
            // Lines are counted through quoted line ends, blank lines and either kind of line end.
            ("y,t,a,u\n1,1,2,\"p\nq\"\n\n\n1,1,2,\"p\n\nq\"\n1,x,2,p\n", 9, 2, "t", "`x`"),
            ("y,t,a,u\n1,1,2,p\n\n1,x,2,\"p\n\nq\"\n1,x,2,p\n", 4, 2, "t", "`x`"),
            ("y,t,a,u\r\n1,1,2,\"p\r\nq\"\r\n\r\n1,x,2,p\r\n", 5, 2, "t", "`x`"),
            ("y,t,a,u\r\n1,1,2,p\r\n1,x,2,p", 3, 2, "t", "`x`"),
            ("y,t,a,u\r\n1,1,2,p\r\n1,x,2,\"p\nq\"", 3, 2, "t", "`x`"),
        ] {
            match error(&[text]) {
                DataError::Malformed(bad) => {
                    assert_eq!(
                        (bad.line, bad.column, bad.name.as_str(), bad.found.as_str()),
                        (line, column, name, found),
                        "{text:?}"
                    );
                    assert_eq!(bad.path, Path::new("0.csv"));
                }
                other => panic!("{text:?}: {other}"),
            }
        }
    }

    #[test]
    fn bad_lines_are_skipped_up_to_the_number_allowed() {
        let text = "y,t,a,u\n1,1,2,p\nx\n1,1,2,p\n1,x,2,p\n1,1,2,p\n2,1,2,p\n";
        let mut source = open(&[text]).unwrap().skip_bad_lines(2);
        let (mut row, mut count) = (Row::default(), 0);
        let bad = loop {
            match source.next_row(&mut row) {
                Ok(true) => count += 1,
                Err(DataError::Malformed(bad)) => break bad,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((count, bad.line, bad.skipped, source.skipped()), (3, 7, 2, 2));
    }

    #[test]
    fn files_share_a_header() {
        let (rows, _) = rows(&["y,t,a,u\n1,1,2,p", "y,t,a,u\n", "y,t,a,u\n0,1,2,p\n"]).unwrap();
        assert_eq!(rows.len(), 2);
        for (second, column) in [("y,t,a,w\n", 4), ("y,t,a\n", 4), ("y,t,a,u,v\n", 5), ("0,1,2,p\n", 1)] {
            match error(&["y,t,a,u\n1,1,2,p\n", second]) {
                DataError::HeaderMismatch { path, first, column: at, .. } => {
                    assert_eq!((path.as_path(), first.as_path(), at), (Path::new("1.csv"), Path::new("0.csv"), column));
                }
                other => panic!("{other}"),
            }
        }
        assert!(matches!(error(&[""]), DataError::NoHeader { .. }));
        assert!(matches!(error(&["\n\n"]), DataError::NoHeader { .. }));
        assert!(matches!(error(&["y,t,a,u\n", ""]), DataError::NoHeader { .. }));
        assert!(rows_of_header_only().is_empty());
    }

    fn rows_of_header_only() -> Vec<Row> {
        rows(&["y,t,a,u\n"]).unwrap().0
    }

    #[test]
    fn a_quote_that_is_still_open_at_the_end_is_placed() {
        for (text, line) in [
            ("y,t,a,u\n1,1,2,p\n1,1,2,\"p\n0,2,3,q\n0,2,3,q\n", 3),
            ("y,t,a,u\n1,1,2,\"p", 2),
            ("y,t,a,u\n1,1,2,\"p\n", 2),
            ("y,t,a,u\n1,1,2,\"", 2),
            // Two quotes within quotes are one that is part of the value.
            ("y,t,a,u\n1,1,2,\"p\"\"\n0,1,2,q\"\"", 2),
            ("y,t,a,u\n\n\n1,\"1\n\n\",2,\"p\n0,2,3,q", 6),
            ("y,t,a,u\r\n1,1,2,p\r\n1,1,2,\"p\r\n0,2,3,q\r\n", 3),
            ("y,t,a,\"u\n1,1,2,p\n", 1),
            ("\"", 1),
        ] {
            match error(&[text]) {
                DataError::UnclosedQuote { path, line: at } => {
                    assert_eq!((path.as_path(), at), (Path::new("0.csv"), line), "{text:?}");
                }
                other => panic!("{text:?}: {other}"),
            }
        }
        // Not by the number of lines that are malformed, for what is lost here is not one line.
        let mut source = open(&["y,t,a,u\n1,1,2,\"p\n"]).unwrap().skip_bad_lines(9);
        assert!(matches!(source.next_row(&mut Row::default()), Err(DataError::UnclosedQuote { .. })));
        // Closed at the very end, with and without a line end, and values that look like what comes after it.
        for (text, value) in
            [("\"p\n\"", "p\n"), ("\"p\"\n", "p"), ("\"p\n.\"", "p\n."), (".", "."), ("\"\"\"\"", "\"")]
        {
            let (rows, _) = rows(&[&format!("y,t,a,u\n1,1,2,{text}")]).unwrap();
            assert_eq!((rows.len(), rows[0].keys[0]), (1, xxh3_64(value.as_bytes())), "{text:?}");
        }
        // A last line that looks like it is a line like any other.
        for end in [".", ".\n", "\".\"", ".\r\n", ".\r"] {
            match error(&[&format!("y,t,a,u\n{end}")]) {
                DataError::Malformed(bad) => assert_eq!((bad.line, bad.found.as_str()), (2, "a line of 1 field")),
                other => panic!("{end:?}: {other}"),
            }
        }
    }

    #[test]
    fn an_unclosed_quote_does_not_take_the_whole_file() {
        let text = format!("y,t,a,u\n1,1,2,p\n1,1,2,\"{}", "x\n".repeat(2 * LINE_LIMIT));
        match error(&[&text]) {
            DataError::RecordTooLong { line, limit, .. } => {
                assert_eq!((line, limit), (3, LINE_LIMIT))
            }
            other => panic!("{other}"),
        }
    }
}
