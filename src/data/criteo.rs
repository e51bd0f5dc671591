//! The Criteo display-advertising format: one row a line, tab-separated, no header. A label, 13 integers (may be empty
//! or negative), then 26 categories of up to 8 hex digits (may be empty).

use std::borrow::Cow;
use std::path::Path;
use std::sync::LazyLock;

use super::batch::{Row, RowSource, Schema};
use super::error::{BadLine, DataError, FieldFault, LABEL_EXPECTED, Tolerance, parse_label, quote};
use super::input::{Inputs, LINE_LIMIT, LineRead, Lines};

/// Integer columns of the format.
pub(super) const INTEGERS: usize = 13;
/// Categorical columns of the format.
pub(super) const CATEGORIES: usize = 26;
const FIELDS: usize = 1 + INTEGERS + CATEGORIES;

/// The key of an empty categorical field: one more than the greatest 8-digit hex number, so that no id has it.
pub const CRITEO_MISSING_KEY: u64 = 1 << 32;

const INTEGER_EXPECTED: &str = "an integer of at most 18 digits, or nothing";
const HEX_EXPECTED: &str = "at most 8 hex digits, or nothing";

/// The columns under the names that the format's publishers use: I1..I13 and C1..C26.
pub(super) fn schema() -> Schema {
    Schema {
        dense: (1..=INTEGERS).map(|i| format!("I{i}")).collect(),
        categorical: (1..=CATEGORIES).map(|i| format!("C{i}")).collect(),
    }
}

/// Reads rows in the Criteo format from one or several files.
pub struct CriteoReader {
    schema: Schema,
    inputs: Inputs,
    current: Option<Lines>,
    line: Vec<u8>,
    tolerance: Tolerance,
}

impl CriteoReader {
    /// Reads the files in order as one stream; plain, gzip or zstd.
    ///
    /// # Errors
    /// As [`Inputs::files`].
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<CriteoReader, DataError> {
        Ok(CriteoReader::new(Inputs::files(paths)?))
    }

    /// Reads from inputs that are already there.
    pub fn new(inputs: Inputs) -> CriteoReader {
        CriteoReader { schema: schema(), inputs, current: None, line: Vec::new(), tolerance: Tolerance::default() }
    }

    /// Skips and counts up to `lines` malformed lines; the one after that is the error. Defaults to 0.
    #[must_use]
    pub fn skip_bad_lines(mut self, lines: u64) -> CriteoReader {
        self.tolerance.allowed = lines;
        self
    }

    /// Makes the fault of the line in `self.line` an error, or counts it as skipped.
    #[cold]
    fn absorb(&mut self, path: &Path, line: u64, fault: FieldFault) -> Result<(), DataError> {
        self.tolerance.absorb(BadLine {
            path: path.to_path_buf(),
            line,
            column: fault.field + 1,
            name: column_name(fault.field),
            found: fault.found,
            expected: fault.expected,
            skipped: 0,
        })
    }
}

impl RowSource for CriteoReader {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn next_row(&mut self, row: &mut Row) -> Result<bool, DataError> {
        loop {
            let mut lines = match self.current.take() {
                Some(lines) => lines,
                None => match self.inputs.next_input()? {
                    Some(input) => Lines::new(input),
                    None => return Ok(false),
                },
            };
            let fault = match lines.read(&mut self.line)? {
                LineRead::End => continue,
                LineRead::Line => parse_line(&self.line, row).err(),
                LineRead::TooLong => Some(too_long(&self.line)),
            };
            if let Some(fault) = fault {
                self.absorb(lines.path(), lines.line(), fault)?;
                self.current = Some(lines);
                continue;
            }
            self.current = Some(lines);
            return Ok(true);
        }
    }

    fn skipped(&self) -> u64 {
        self.tolerance.skipped
    }

    fn buffer_bytes(&self) -> u64 {
        self.line.capacity() as u64 + self.current.as_ref().map_or(0, Lines::buffer_bytes)
    }
}

/// The name of the 0-based field.
fn column_name(field: usize) -> String {
    match field {
        0 => "label".to_owned(),
        1..=INTEGERS => format!("I{field}"),
        _ if field < FIELDS => format!("C{}", field - INTEGERS),
        _ => "after the last column".to_owned(),
    }
}

#[cold]
fn too_long(line: &[u8]) -> FieldFault {
    let tabs = line.iter().filter(|&&byte| byte == b'\t').count();
    FieldFault {
        field: tabs.min(FIELDS),
        found: format!("a line of more than {LINE_LIMIT} bytes, beginning with {}", quote(&line[..line.len().min(64)])),
        expected: Cow::Owned(format!("{FIELDS} fields separated by tabs")),
    }
}

/// Parses one line without its line end.
fn parse_line(line: &[u8], row: &mut Row) -> Result<(), FieldFault> {
    row.dense.clear();
    row.keys.clear();
    let mut fields = Fields { line, at: 0, done: false };

    let label = fields.next_or_count(0)?;
    row.label = parse_label(label).ok_or_else(|| FieldFault::bytes(0, label, LABEL_EXPECTED))?;
    let logs = &**SMALL_LOGS;
    for i in 1..=INTEGERS {
        let start = fields.start()?;
        let (value, end) = scan_integer(line, start);
        let value = match value {
            Some(value) if fields.end_at(end) => value,
            _ => {
                let field = fields.next_or_count(i)?;
                return Err(FieldFault::bytes(i, field, INTEGER_EXPECTED));
            }
        };
        row.dense.push(log_with(logs, value));
    }
    for i in 1 + INTEGERS..FIELDS {
        let start = fields.start()?;
        let (key, end) = scan_hex(line, start);
        if !(end - start <= 8 && fields.end_at(end)) {
            let field = fields.next_or_count(i)?;
            return Err(FieldFault::bytes(i, field, HEX_EXPECTED));
        }
        row.keys.push(if end == start { CRITEO_MISSING_KEY } else { key });
    }
    if fields.done { Ok(()) } else { Err(fields.miscount()) }
}

/// The cursor over a line's fields. `done` once the last field of the line has been taken.
struct Fields<'a> {
    line: &'a [u8],
    at: usize,
    done: bool,
}

impl<'a> Fields<'a> {
    /// Where the next field starts; a fault if the line has no further field.
    fn start(&self) -> Result<usize, FieldFault> {
        if self.done { Err(self.miscount()) } else { Ok(self.at) }
    }

    /// Takes the field that began at `self.at`, if `end` is where a field ends: at a tab or at the line's end.
    fn end_at(&mut self, end: usize) -> bool {
        match self.line.get(end) {
            Some(b'\t') => {
                self.at = end + 1;
                true
            }
            Some(_) => false,
            None => {
                self.done = true;
                true
            }
        }
    }

    /// Takes field `i` whatever is in it. A line with a wrong number of fields is blamed for that first, because a
    /// missing or an additional tab moves all fields after it, and the first that does not parse is not the cause.
    fn next_or_count(&mut self, i: usize) -> Result<&'a [u8], FieldFault> {
        let start = self.start()?;
        let rest = &self.line[start..];
        let len = rest.iter().position(|&byte| byte == b'\t').unwrap_or(rest.len());
        if i > 0 && self.count() != FIELDS {
            return Err(self.miscount());
        }
        self.end_at(start + len);
        Ok(&rest[..len])
    }

    fn count(&self) -> usize {
        1 + self.line.iter().filter(|&&byte| byte == b'\t').count()
    }

    #[cold]
    fn miscount(&self) -> FieldFault {
        FieldFault::count(self.count(), FIELDS, "tabs")
    }
}

/// The decimal integer at `start`, up to where it ends: `Some(0)` for no digits and no sign. `None` where it has a
/// sign without digits, or more than 18 digits, which might not fit.
#[inline]
fn scan_integer(line: &[u8], start: usize) -> (Option<i64>, usize) {
    let negative = line.get(start) == Some(&b'-');
    let first = start + usize::from(negative);
    let (mut at, mut value) = (first, 0u64);
    while let Some(&byte) = line.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    let digits = at - first;
    if digits > 18 || (negative && digits == 0) {
        return (None, at);
    }
    // At most 18 digits: fits.
    let value = value as i64;
    (Some(if negative { -value } else { value }), at)
}

/// The value of each hex digit; 0xff for all other bytes.
const HEX: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut i = 0;
    while i < 10 {
        table[b'0' as usize + i] = i as u8;
        i += 1;
    }
    let mut i = 0;
    while i < 6 {
        table[b'a' as usize + i] = 10 + i as u8;
        table[b'A' as usize + i] = 10 + i as u8;
        i += 1;
    }
    table
};

/// The hex number at `start`, up to where it ends or to 9 digits, which are one too many.
#[inline]
fn scan_hex(line: &[u8], start: usize) -> (u64, usize) {
    let (mut at, mut value) = (start, 0u64);
    for &byte in line[start..].iter().take(9) {
        let digit = HEX[usize::from(byte)];
        if digit == 0xff {
            break;
        }
        value = value << 4 | u64::from(digit);
        at += 1;
    }
    (value, at)
}

/// `ln(1 + x)` of small integers, which most of a log's integers are: a look-up instead of a logarithm.
static SMALL_LOGS: LazyLock<Box<[f32; SMALL]>> =
    LazyLock::new(|| Box::new(std::array::from_fn(|x| (x as f32).ln_1p())));
const SMALL: usize = 4096;

fn log_with(logs: &[f32; SMALL], x: i64) -> f32 {
    let x = x.max(0);
    match logs.get(x as usize) {
        Some(&log) => log,
        None => (x as f32).ln_1p(),
    }
}

/// The dense value of a Criteo integer: `ln(1 + max(x, 0))`.
pub(super) fn dense_value(x: i64) -> f32 {
    log_with(&SMALL_LOGS, x)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::Input;
    use super::*;

    fn reader(text: impl Into<Vec<u8>>) -> CriteoReader {
        let input = Input::from_reader("log.tsv", Cursor::new(text.into())).unwrap();
        CriteoReader::new(Inputs::from_inputs(vec![input]))
    }

    fn rows(mut source: CriteoReader) -> Result<Vec<Row>, DataError> {
        let (mut row, mut all) = (Row::default(), Vec::new());
        while source.next_row(&mut row)? {
            all.push(row.clone());
        }
        Ok(all)
    }

    /// A line with the given field replaced.
    fn line(field: usize, text: &str) -> String {
        let mut fields = vec!["1".to_owned()];
        fields.extend((0..13).map(|i| (i * 7).to_string()));
        fields.extend((0..26).map(|i| format!("{:08x}", i * 1000)));
        fields[field] = text.to_owned();
        fields.join("\t")
    }

    fn bad(text: impl Into<Vec<u8>>) -> BadLine {
        match rows(reader(text)) {
            Err(DataError::Malformed(bad)) => *bad,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_and_keys() {
        let text = format!("{}\n{}\n{}\n{}\n", line(1, ""), line(2, "-3"), line(14, ""), line(39, "fFfFfFfF"));
        let rows = rows(reader(text)).unwrap();
        assert_eq!(rows.len(), 4);
        assert_eq!((rows[0].dense.len(), rows[0].keys.len(), rows[0].label), (13, 26, 1.0));
        assert_eq!((rows[0].dense[0], rows[0].dense[1]), (0.0, 7f32.ln_1p()));
        assert_eq!(rows[1].dense[1], 0.0);
        assert_eq!(rows[2].keys[..2], [CRITEO_MISSING_KEY, 1000]);
        assert_eq!(rows[3].keys[25], 0xffff_ffff);
        for (x, want) in [(-5, 0.0), (0, 0.0), (4095, 4096f64.ln()), (4096, 4097f64.ln()), (1 << 50, 50f64 * 2f64.ln())]
        {
            assert!((f64::from(dense_value(x)) - want).abs() < 1e-5, "{x}");
        }
    }

    #[test]
    fn crlf_no_final_newline_and_empty_input() {
        let (a, b) = (line(1, "5"), line(1, "6"));
        let want = rows(reader(format!("{a}\n{b}\n"))).unwrap();
        assert_eq!(rows(reader(format!("{a}\r\n{b}\r\n"))).unwrap(), want);
        assert_eq!(rows(reader(format!("{a}\n{b}"))).unwrap(), want);
        // An empty last category, with and without a line end.
        assert_eq!(rows(reader(line(39, ""))).unwrap()[0].keys[25], CRITEO_MISSING_KEY);
        assert!(rows(reader("")).unwrap().is_empty());
    }

    #[test]
    fn files_are_one_stream_and_lines_do_not_run_across() {
        let input = |text: String| Input::from_reader("x", Cursor::new(text.into_bytes())).unwrap();
        let inputs = vec![input(line(1, "5")), input(String::new()), input(format!("{}\n", line(1, "6")))];
        let rows = rows(CriteoReader::new(Inputs::from_inputs(inputs))).unwrap();
        let first: Vec<f32> = rows.iter().map(|row| row.dense[0]).collect();
        assert_eq!(first, [dense_value(5), dense_value(6)]);
    }

    #[test]
    fn each_kind_of_bad_field_has_its_place() {
        let good = line(1, "1");
        for (field, text, expected) in [
            (0, "2", LABEL_EXPECTED),
            (0, "", LABEL_EXPECTED),
            (0, "NaN", LABEL_EXPECTED),
            (1, "x", INTEGER_EXPECTED),
            (5, "1.5", INTEGER_EXPECTED),
            (5, "-", INTEGER_EXPECTED),
            (5, "--1", INTEGER_EXPECTED),
            (13, "1234567890123456789", INTEGER_EXPECTED),
            (13, " 1", INTEGER_EXPECTED),
            (14, "123456789", HEX_EXPECTED),
            (20, "0x12", HEX_EXPECTED),
            (39, "g", HEX_EXPECTED),
            (39, "12345678 ", HEX_EXPECTED),
        ] {
            let bad = bad(format!("{good}\n{good}\n{}\n{good}\n", line(field, text)));
            assert_eq!((bad.line, bad.column), (3, field + 1), "{text:?}");
            assert_eq!(bad.path, Path::new("log.tsv"));
            assert_eq!((bad.name, bad.found), (column_name(field), quote(text.as_bytes())));
            assert_eq!(bad.expected, expected);
        }
    }

    #[test]
    fn a_wrong_number_of_fields_is_named_as_such() {
        let good = line(1, "1");
        for (text, column, found) in [
            (String::new(), 1, "nothing"),
            ("1".to_owned(), 2, "a line of 1 field"),
            (good.rsplit_once('\t').unwrap().0.to_owned(), 40, "a line of 39 fields"),
            (format!("{good}\t"), 41, "a line of 41 fields"),
            (good.replacen('\t', " ", 1), 1, ""),
            (good.replacen("\t7", "\t7\t7", 1).replace("7\t7", "7\t\t7"), 41, "a line of 42 fields"),
            (format!("{good}\t{good}"), 41, "a line of 80 fields"),
        ] {
            let bad = bad(format!("{good}\n{text}\n"));
            assert_eq!((bad.line, bad.column), (2, column), "{text:?}: {bad}");
            if !found.is_empty() {
                assert_eq!(bad.found, found);
            }
        }
    }

    #[test]
    fn a_tab_too_many_is_not_blamed_on_the_field_it_moves() {
        // C1's eight digits land in I13.
        let moved = line(1, "1").replacen("\t84\t", "\tabcdef12\t84\t", 1);
        assert_eq!(bad(moved).found, "a line of 41 fields");
    }

    #[test]
    fn bad_lines_are_skipped_up_to_the_number_allowed() {
        let good = line(1, "1");
        let text = format!("{good}\nx\n{}\n{good}\n\n{good}", "y".repeat(LINE_LIMIT + 5));
        let mut source = reader(text.clone()).skip_bad_lines(3);
        let (mut row, mut count) = (Row::default(), 0);
        while source.next_row(&mut row).unwrap() {
            count += 1;
        }
        assert_eq!((count, source.skipped()), (3, 3));
        let mut source = reader(text).skip_bad_lines(2);
        let bad = loop {
            match source.next_row(&mut row) {
                Ok(true) => {}
                Err(DataError::Malformed(bad)) => break bad,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((bad.line, bad.skipped, source.skipped()), (5, 2, 2));
    }
}
