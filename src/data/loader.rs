//! The reader thread: decodes rows ahead of the trainer, and holds the stream's tail out.

use std::any::Any;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::batch::{Batch, BatchBuilder, Row, RowSource, Schema};
use super::error::DataError;

/// Full batches that wait for the trainer, at most.
const AHEAD: usize = 4;
/// Rows between two looks at whether the loader is still there.
const STOP_CHECK_ROWS: u64 = 64;

/// Runs a source on a thread of its own and hands out its rows in batches.
///
/// The last `holdout_rows` rows of the stream are never handed out for training. As the length of a stream is not known
/// in advance, rows pass through a queue of that length: a row becomes a training row when it falls out at the other
/// end.
///
/// Dropping the loader stops the thread. It waits for the thread to finish the row in hand.
pub struct Loader {
    schema: Schema,
    batch_rows: usize,
    full: Option<Receiver<Message>>,
    empty: Option<Sender<Batch>>,
    thread: Option<JoinHandle<()>>,
    held_out: Option<Queue>,
    status: Status,
    over: Over,
}

/// Whether there is more to come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    End,
    Failed,
}

/// What the reader thread tells with everything it sends.
#[derive(Clone, Copy, Debug, Default)]
struct Status {
    skipped: u64,
    times: Option<(i64, i64)>,
    /// Bytes of the source's buffers and of the queue.
    reader_bytes: u64,
    /// Bytes of the largest batch, so far.
    batch_bytes: u64,
    /// Batches made so far.
    batches: u64,
}

enum Message {
    Batch(Batch, Status),
    End(Queue, Status),
    Failed(DataError, Status),
}

impl Loader {
    /// Starts the reader thread.
    ///
    /// # Errors
    /// [`DataError::BatchRows`] for a batch of no rows or of more than memory can address, [`DataError::Spawn`].
    pub fn spawn(source: Box<dyn RowSource>, batch_rows: usize, holdout_rows: usize) -> Result<Loader, DataError> {
        let schema = source.schema().clone();
        let widest = schema.dense.len().max(schema.categorical.len()).max(1);
        let limit = isize::MAX as usize / size_of::<u64>() / widest;
        if batch_rows == 0 || batch_rows > limit {
            return Err(DataError::BatchRows { rows: batch_rows, limit });
        }
        let (full_sender, full) = bounded(AHEAD);
        let (empty, empty_receiver) = bounded(AHEAD + 2);
        let reader = ReaderThread {
            source,
            batch_rows,
            queue: Queue::new(holdout_rows, &schema),
            full: full_sender,
            empty: empty_receiver,
            spare: Vec::new(),
            batches: 0,
            batch_bytes: 0,
        };
        let thread = thread::Builder::new()
            .name("dimslab-reader".to_owned())
            .spawn(move || reader.run())
            .map_err(|source| DataError::Spawn { source })?;
        let (full, empty, thread) = (Some(full), Some(empty), Some(thread));
        Ok(Loader {
            schema,
            batch_rows,
            full,
            empty,
            thread,
            held_out: None,
            status: Status::default(),
            over: Over::No,
        })
    }

    /// The columns of every row.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The next training rows, in order: `batch_rows` of them, fewer in the last batch. `Ok(None)` at the end.
    ///
    /// # Errors
    /// What stopped the source, after all full batches before it; [`DataError::NoRows`] and
    /// [`DataError::HoldoutTooLarge`] for a stream with nothing to train on; [`DataError::ReaderPanicked`]. After an
    /// error, [`DataError::Stopped`].
    #[expect(clippy::should_implement_trait, reason = "not an iterator: it can fail, and batches are handed back")]
    pub fn next(&mut self) -> Result<Option<Batch>, DataError> {
        match self.over {
            Over::No => {}
            Over::End => return Ok(None),
            Over::Failed => return Err(DataError::Stopped),
        }
        let message = match &self.full {
            Some(full) => full.recv().ok(),
            None => None,
        };
        match message {
            Some(Message::Batch(batch, status)) => {
                self.status = status;
                Ok(Some(batch))
            }
            Some(Message::End(queue, status)) => {
                self.status = status;
                self.held_out = Some(queue);
                self.over = Over::End;
                self.stop();
                Ok(None)
            }
            Some(Message::Failed(error, status)) => {
                self.status = status;
                self.over = Over::Failed;
                self.stop();
                Err(error)
            }
            // The thread is gone without a last word.
            None => {
                self.over = Over::Failed;
                let message = self.stop().unwrap_or_else(|| "it ended without a report".to_owned());
                Err(DataError::ReaderPanicked { message })
            }
        }
    }

    /// Waits until the next batch, the end or an error is there to be taken: what the reader needs has its memory then.
    pub fn wait_ready(&self) {
        if let Some(full) = &self.full {
            let mut select = crossbeam_channel::Select::new();
            select.recv(full);
            select.ready();
        }
    }

    /// Gives a batch back, so that its buffers serve again.
    pub fn recycle(&mut self, batch: Batch) {
        if let Some(empty) = &self.empty {
            // A full channel has batches enough, and a thread that has ended needs none: either way this one goes.
            let _ = empty.try_send(batch);
        }
    }

    /// After [`next`](Loader::next) returned `None`: the last rows of the stream, in order and in batches like the
    /// others. Empty before that, when nothing was to be held out, and when they have been taken already.
    pub fn holdout(&mut self) -> Vec<Batch> {
        let batch_rows = self.batch_rows;
        self.held_out.take().map_or_else(Vec::new, |queue| queue.into_batches(batch_rows))
    }

    /// Malformed lines skipped so far. The reader is ahead of the batches, but this is as of the batch given last.
    pub fn skipped(&self) -> u64 {
        self.status.skipped
    }

    /// Least and greatest value of the time column, held-out rows read so far included, as of the batch given last.
    /// `None` without such a column.
    pub fn time_range(&self) -> Option<(i64, i64)> {
        self.status.times
    }

    /// Bytes held to read ahead, as of the batch given last: batches that wait, are being filled or were handed out and
    /// may come back, the held-out rows, and the source's own buffers.
    ///
    /// Batches that are kept and never recycled are the caller's.
    pub fn buffer_bytes(&self) -> u64 {
        // One batch is with the caller, one is being filled, and AHEAD wait; recycled ones take the place of these.
        let batches = self.status.batches.min(AHEAD as u64 + 2);
        batches * self.status.batch_bytes + self.status.reader_bytes
    }

    /// Ends the thread. What it panicked with, if it did.
    fn stop(&mut self) -> Option<String> {
        // Without its channels the thread stops by itself, within the row in hand.
        self.full = None;
        self.empty = None;
        let panic = self.thread.take()?.join().err()?;
        Some(panic_message(&*panic))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // A panic that nobody has asked about was printed by the panic hook.
        let _ = self.stop();
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

/// The other side of the loader has gone.
struct Gone;

struct ReaderThread {
    source: Box<dyn RowSource>,
    batch_rows: usize,
    queue: Queue,
    full: Sender<Message>,
    empty: Receiver<Batch>,
    /// Batches that came back while looking whether the loader is still there.
    spare: Vec<Batch>,
    batches: u64,
    batch_bytes: u64,
}

impl ReaderThread {
    fn run(mut self) {
        // Nobody is left to tell once the loader is gone.
        let _ = self.read_all();
    }

    fn read_all(&mut self) -> Result<(), Gone> {
        let mut row = Row::default();
        let mut builder: Option<BatchBuilder> = None;
        let mut rows: u64 = 0;
        loop {
            match self.source.next_row(&mut row) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return self.fail(error),
            }
            rows += 1;
            if let Err(error) = self.queue.check_width(&row) {
                return self.fail(error);
            }
            if rows.is_multiple_of(STOP_CHECK_ROWS) {
                self.check_not_stopped()?;
            }
            if !self.queue.is_full() {
                self.queue.push(&row);
                continue;
            }
            let mut filling = match builder.take() {
                Some(filling) => filling,
                None => self.begin_batch(),
            };
            let (label, dense, keys) = self.queue.exchange(&row);
            filling.push(label, dense, keys);
            if filling.is_full() {
                self.send_batch(filling)?;
            } else {
                builder = Some(filling);
            }
        }
        if rows == 0 {
            return self.fail(DataError::NoRows { skipped: self.source.skipped() });
        }
        let holdout = self.queue.limit;
        if holdout > 0 && rows <= holdout as u64 {
            return self.fail(DataError::HoldoutTooLarge { rows, holdout });
        }
        match builder {
            Some(filling) if !filling.is_empty() => self.send_batch(filling)?,
            _ => {}
        }
        let status = self.status();
        let queue = std::mem::take(&mut self.queue);
        self.full.send(Message::End(queue, status)).map_err(|_| Gone)
    }

    fn begin_batch(&mut self) -> BatchBuilder {
        let used = self.spare.pop().or_else(|| self.empty.try_recv().ok());
        if used.is_none() {
            self.batches += 1;
        }
        let (n_dense, n_features) = (self.queue.n_dense, self.queue.n_features);
        BatchBuilder::new(used.unwrap_or_default(), self.batch_rows, n_dense, n_features)
    }

    fn send_batch(&mut self, filled: BatchBuilder) -> Result<(), Gone> {
        let batch = filled.finish();
        self.batch_bytes = self.batch_bytes.max(batch.bytes());
        let status = self.status();
        self.full.send(Message::Batch(batch, status)).map_err(|_| Gone)
    }

    fn fail(&mut self, error: DataError) -> Result<(), Gone> {
        let status = self.status();
        self.full.send(Message::Failed(error, status)).map_err(|_| Gone)
    }

    /// Looks whether the loader is still there, which shows in the channel of empty batches.
    fn check_not_stopped(&mut self) -> Result<(), Gone> {
        match self.empty.try_recv() {
            Ok(batch) => self.spare.push(batch),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(Gone),
        }
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            skipped: self.source.skipped(),
            times: self.source.time_range(),
            reader_bytes: self.source.buffer_bytes() + self.queue.bytes(),
            batch_bytes: self.batch_bytes,
            batches: self.batches,
        }
    }
}

/// The last rows read, at most `limit` of them, row-major.
#[derive(Default)]
struct Queue {
    limit: usize,
    n_dense: usize,
    n_features: usize,
    labels: Vec<f32>,
    dense: Vec<f32>,
    keys: Vec<u64>,
    /// The oldest row, once the queue is full.
    oldest: usize,
    /// The row that was exchanged last; also what a queue without places hands through.
    out: Row,
}

impl Queue {
    fn new(limit: usize, schema: &Schema) -> Queue {
        let (n_dense, n_features) = (schema.dense.len(), schema.categorical.len());
        Queue { limit, n_dense, n_features, ..Queue::default() }
    }

    fn is_full(&self) -> bool {
        self.labels.len() == self.limit
    }

    /// Holds a source to its schema.
    fn check_width(&self, row: &Row) -> Result<(), DataError> {
        let (dense, categorical) = (row.dense.len(), row.keys.len());
        if (dense, categorical) == (self.n_dense, self.n_features) {
            return Ok(());
        }
        let (n_dense, n_features) = (self.n_dense, self.n_features);
        Err(DataError::RowWidth { dense, categorical, n_dense, n_features })
    }

    /// Adds a row to a queue that is not full.
    fn push(&mut self, row: &Row) {
        self.labels.push(row.label);
        self.dense.extend_from_slice(&row.dense);
        self.keys.extend_from_slice(&row.keys);
    }

    /// Puts a row into a full queue and gives the oldest: label, dense values and keys.
    fn exchange(&mut self, row: &Row) -> (f32, &[f32], &[u64]) {
        self.out.clone_from(row);
        if self.limit > 0 {
            let (r, out) = (self.oldest, &mut self.out);
            std::mem::swap(&mut self.labels[r], &mut out.label);
            self.dense[r * self.n_dense..(r + 1) * self.n_dense].swap_with_slice(&mut out.dense);
            self.keys[r * self.n_features..(r + 1) * self.n_features].swap_with_slice(&mut out.keys);
            self.oldest = (r + 1) % self.limit;
        }
        (self.out.label, &self.out.dense, &self.out.keys)
    }

    fn into_batches(self, batch_rows: usize) -> Vec<Batch> {
        let (n_dense, n_features, rows) = (self.n_dense, self.n_features, self.labels.len());
        let order: Vec<usize> = (self.oldest..rows).chain(0..self.oldest).collect();
        let batch = |order: &[usize]| {
            let mut builder = BatchBuilder::new(Batch::default(), order.len(), n_dense, n_features);
            for &r in order {
                let dense = &self.dense[r * n_dense..(r + 1) * n_dense];
                builder.push(self.labels[r], dense, &self.keys[r * n_features..(r + 1) * n_features]);
            }
            builder.finish()
        };
        order.chunks(batch_rows).map(batch).collect()
    }

    fn bytes(&self) -> u64 {
        let floats = self.labels.capacity() + self.dense.capacity();
        (floats * size_of::<f32>() + self.keys.capacity() * size_of::<u64>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Rows 0.., with the row's number in every column, and something that happens at the end.
    struct Numbers {
        schema: Schema,
        next: u64,
        rows: u64,
        end: End,
        /// Tells when the source is dropped, which is when its thread has ended.
        alive: Option<Sender<()>>,
    }

    #[derive(Clone, Copy)]
    enum End {
        Ends,
        Fails,
        Panics,
        WrongWidth,
    }

    impl RowSource for Numbers {
        fn schema(&self) -> &Schema {
            &self.schema
        }
        fn next_row(&mut self, row: &mut Row) -> Result<bool, DataError> {
            row.dense.clear();
            row.keys.clear();
            if self.next == self.rows {
                match self.end {
                    End::Ends => return Ok(false),
                    End::Fails => return Err(DataError::NoInput),
                    End::Panics => panic!("out of numbers at {}", self.next),
                    End::WrongWidth => return Ok(true),
                }
            }
            row.label = (self.next % 2) as f32;
            row.dense.push(self.next as f32);
            row.keys.extend([self.next, self.next + (1 << 40)]);
            self.next += 1;
            Ok(true)
        }
        fn skipped(&self) -> u64 {
            self.next / 10
        }
        fn time_range(&self) -> Option<(i64, i64)> {
            Some((0, self.next as i64))
        }
        fn buffer_bytes(&self) -> u64 {
            1000
        }
    }

    impl Drop for Numbers {
        fn drop(&mut self) {
            if let Some(alive) = &self.alive {
                alive.send(()).unwrap();
            }
        }
    }

    fn numbers(rows: u64, end: End) -> Numbers {
        let schema = Schema { dense: vec!["d".into()], categorical: vec!["a".into(), "b".into()] };
        Numbers { schema, next: 0, rows, end, alive: None }
    }

    fn spawn(rows: u64, end: End, batch: usize, holdout: usize) -> Loader {
        Loader::spawn(Box::new(numbers(rows, end)), batch, holdout).unwrap()
    }

    /// Checks that a batch has the rows from `first` on, in every column.
    fn check(batch: &Batch, first: u64) {
        for r in 0..batch.rows {
            let n = first + r as u64;
            assert_eq!((batch.labels[r], batch.dense_row(r)), ((n % 2) as f32, &[n as f32][..]));
            assert_eq!((batch.feature_keys(0)[r], batch.feature_keys(1)[r]), (n, n + (1 << 40)));
        }
    }

    #[test]
    fn rows_come_in_order_and_the_tail_is_held_out() {
        for (rows, batch, holdout) in
            [(100, 8, 0), (100, 8, 10), (100, 100, 1), (7, 100, 3), (1000, 1, 999), (64, 16, 16), (1, 4, 0)]
        {
            let mut loader = spawn(rows, End::Ends, batch, holdout);
            assert!(loader.holdout().is_empty(), "nothing before the end");
            let mut first = 0;
            while let Some(got) = loader.next().unwrap() {
                assert!(got.rows == batch || first + got.rows as u64 == rows - holdout as u64);
                check(&got, first);
                first += got.rows as u64;
                loader.recycle(got);
            }
            assert_eq!(first, rows - holdout as u64);
            for got in loader.holdout() {
                check(&got, first);
                first += got.rows as u64;
            }
            assert_eq!((first, loader.skipped(), loader.time_range()), (rows, rows / 10, Some((0, rows as i64))));
            assert!(loader.holdout().is_empty() && loader.next().unwrap().is_none());
        }
    }

    #[test]
    fn a_stream_with_nothing_to_train_on_is_an_error() {
        assert!(matches!(spawn(0, End::Ends, 4, 0).next(), Err(DataError::NoRows { .. })));
        assert!(matches!(spawn(0, End::Ends, 4, 9).next(), Err(DataError::NoRows { .. })));
        for rows in [1, 9, 10] {
            let mut loader = spawn(rows, End::Ends, 4, 10);
            match loader.next() {
                Err(DataError::HoldoutTooLarge { rows: r, holdout: 10 }) => assert_eq!(r, rows),
                other => panic!("{other:?}"),
            }
            assert!(matches!(loader.next(), Err(DataError::Stopped)));
        }
        // An impossible holdout takes no memory of its own.
        assert!(matches!(spawn(50, End::Ends, 4, usize::MAX).next(), Err(DataError::HoldoutTooLarge { .. })));
        let zero = Loader::spawn(Box::new(numbers(5, End::Ends)), 0, 0);
        assert!(matches!(zero, Err(DataError::BatchRows { rows: 0, .. })));
        assert!(Loader::spawn(Box::new(numbers(5, End::Ends)), usize::MAX, 0).is_err());
    }

    #[test]
    fn an_error_and_a_panic_come_after_the_batches_before_them() {
        for end in [End::Fails, End::Panics, End::WrongWidth] {
            let mut loader = spawn(25, end, 10, 0);
            for first in [0, 10] {
                check(&loader.next().unwrap().unwrap(), first);
            }
            match (end, loader.next()) {
                (End::Fails, Err(DataError::NoInput)) => {}
                (End::WrongWidth, Err(DataError::RowWidth { dense: 0, n_dense: 1, .. })) => {}
                (End::Panics, Err(DataError::ReaderPanicked { message })) => {
                    assert_eq!(message, "out of numbers at 25");
                }
                (_, other) => panic!("{other:?}"),
            }
            assert!(matches!(loader.next(), Err(DataError::Stopped)));
            assert!(loader.holdout().is_empty());
        }
    }

    #[test]
    fn dropping_the_loader_ends_the_thread() {
        // While it waits to send, and while it only fills a long queue.
        for holdout in [0, usize::MAX] {
            let (alive, ended) = bounded(1);
            let mut source = numbers(u64::MAX, End::Ends);
            source.alive = Some(alive);
            let mut loader = Loader::spawn(Box::new(source), 16, holdout).unwrap();
            if holdout == 0 {
                check(&loader.next().unwrap().unwrap(), 0);
            }
            let begin = Instant::now();
            drop(loader);
            ended.try_recv().unwrap();
            assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        }
    }

    #[test]
    fn buffers_are_reused_and_counted() {
        let (batch_rows, holdout) = (50, 200);
        let mut loader = spawn(20_000, End::Ends, batch_rows, holdout);
        let row_bytes = 4 + 4 + 2 * 8;
        let mut seen = std::collections::HashSet::new();
        while let Some(batch) = loader.next().unwrap() {
            assert!(loader.buffer_bytes() >= (row_bytes * (batch_rows + holdout) + 1000) as u64);
            let most = row_bytes * (batch_rows * (AHEAD + 2) + 2 * holdout) + 1000;
            assert!(loader.buffer_bytes() <= most as u64, "{} > {most}", loader.buffer_bytes());
            seen.insert(batch.keys.as_ptr());
            loader.recycle(batch);
        }
        assert!(seen.len() <= AHEAD + 2, "{} buffers for 400 batches", seen.len());
    }
}
