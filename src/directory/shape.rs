//! The shape of a directory: its segments without their rows, so that a restored one grows as the saved one would have.

use super::{Directory, NODE, NODE_BITS, NODE_BYTES, Node, ROOT_BITS, ROOT_BYTES, Slot};
use crate::budget::{Budget, OverBudget};
use crate::directory::segment::{MAX_DEPTH, Segment};
use crate::sync::{Atomic, AtomicU64};
use crossbeam_epoch::{Guard, Shared};
use std::sync::Arc;

/// Prefix, depth, buckets and used slots of a segment.
pub(crate) type Shape = [u32; 4];

/// Why a directory of a shape was not made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Misshapen {
    OverBudget(OverBudget),
    /// No directory has that shape.
    Impossible,
}

/// Whether the segments cover all tags once, in order.
fn is_possible(shape: &[Shape]) -> bool {
    let mut end = 0u64;
    for &[prefix, depth, buckets, used] in shape {
        if depth > MAX_DEPTH || u64::from(prefix) != end || used as usize > Segment::limit(buckets as usize) {
            return false;
        }
        let tags = 1u64 << (32 - depth);
        if buckets == 0 || u64::from(prefix) % tags != 0 {
            return false;
        }
        end += tags;
    }
    end == 1 << 32
}

/// The segment that has `tag`: its position.
fn segment_of(shape: &[Shape], tag: u32) -> usize {
    shape.partition_point(|&[prefix, ..]| prefix <= tag) - 1
}

/// Nodes below a slot that `bits` bits of the tag have led to.
fn nodes_below(shape: &[Shape], tag: u32, bits: u32) -> u64 {
    if shape[segment_of(shape, tag)][1] <= bits {
        return 0;
    }
    let below =
        (0..1u32 << NODE_BITS).map(|slot| nodes_below(shape, tag | slot << (32 - bits - NODE_BITS), bits + NODE_BITS));
    1 + below.sum::<u64>()
}

/// What a slot holds that `bits` bits of the tag have led to.
fn fill(shape: &[Shape], segments: &[Shared<'_, Segment>], tag: u32, bits: u32) -> Slot {
    let at = segment_of(shape, tag);
    if shape[at][1] <= bits {
        return Atomic::from(segments[at]);
    }
    let slot = |slot: usize| fill(shape, segments, tag | (slot as u32) << (32 - bits - NODE_BITS), bits + NODE_BITS);
    let node = Box::into_raw(Box::new(Node { slots: std::array::from_fn(slot) }));
    Atomic::from(Shared::from(node.cast::<Segment>().cast_const()).with_tag(NODE))
}

impl Directory {
    /// All segments, in order.
    pub(crate) fn shape(&self, guard: &Guard) -> Vec<Shape> {
        let (mut shape, mut at) = (Vec::new(), Some(0));
        while let Some(tag) = at {
            let segment = self.segment(tag, guard);
            shape.push([segment.prefix, segment.depth, segment.buckets() as u32, segment.used()]);
            at = segment.end();
        }
        shape
    }

    /// A directory of a shape, without rows: nothing is used yet.
    pub(crate) fn of_shape(budget: Arc<Budget>, shape: &[Shape]) -> Result<Directory, Misshapen> {
        if !is_possible(shape) {
            return Err(Misshapen::Impossible);
        }
        let slot_tag = |slot: usize| (slot as u32) << (32 - ROOT_BITS);
        let nodes: u64 = (0..1 << ROOT_BITS).map(|slot| nodes_below(shape, slot_tag(slot), ROOT_BITS)).sum();
        let segments: u64 = shape.iter().map(|&[_, _, buckets, _]| Segment::bytes_for(buckets as usize)).sum();
        let bytes = ROOT_BYTES + nodes * NODE_BYTES + segments;
        // It may have come from there before.
        budget.reserve_urgent(bytes).map_err(Misshapen::OverBudget)?;
        // SAFETY: nothing is shared yet.
        let guard = unsafe { crossbeam_epoch::unprotected() };
        let empty =
            |&[prefix, depth, buckets, _]: &Shape| Segment::empty(prefix, depth, buckets as usize).into_shared(guard);
        let segments: Vec<_> = shape.iter().map(empty).collect();
        let root = std::array::from_fn(|slot| fill(shape, &segments, slot_tag(slot), ROOT_BITS));
        Ok(Directory { root: Box::new(root), budget, bytes: AtomicU64::new(bytes) })
    }

    /// Makes a directory of that shape, whose rows were entered again, count as many used slots as it had.
    pub(crate) fn set_used(&self, shape: &[Shape], guard: &Guard) {
        shape.iter().for_each(|&[prefix, _, _, used]| self.segment(prefix, guard).set_used(used));
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::directory::{Inserted, Probe};
    use crate::id::ChunkIndex;
    use crossbeam_epoch::Collector;

    fn tag(key: u32) -> u32 {
        key.wrapping_mul(0x9E37_79B1)
    }

    fn index(key: u32) -> ChunkIndex {
        ChunkIndex::from_raw(key + 1).unwrap()
    }

    fn insert(directory: &Directory, key: u32, guard: &Guard) {
        let probe = |found| if found == index(key) { Probe::Found } else { Probe::Other };
        assert_eq!(directory.insert(tag(key), index(key), guard, probe), Ok(Inserted::Done));
    }

    /// Two directories, the second made in the first one's shape from its rows, grow in the same way from then on.
    #[test]
    fn a_directory_of_a_shape_grows_as_the_first_one_does() {
        let handle = Collector::new().register();
        let budget = Arc::new(Budget::new(1 << 30));
        for rows in [0u32, 5, 300, 40_000] {
            let first = Directory::new(Arc::clone(&budget)).unwrap();
            (0..rows).for_each(|key| insert(&first, key, &handle.pin()));
            (0..rows).step_by(3).for_each(|key| assert!(first.remove(tag(key), index(key), &handle.pin())));
            let shape = first.shape(&handle.pin());
            let second = Directory::of_shape(Arc::clone(&budget), &shape).unwrap();
            assert_eq!(second.bytes(), first.bytes());
            (0..rows).filter(|key| key % 3 != 0).for_each(|key| insert(&second, key, &handle.pin()));
            second.set_used(&shape, &handle.pin());
            for key in rows..2 * rows + 50 {
                insert(&first, key, &handle.pin());
                insert(&second, key, &handle.pin());
                assert_eq!(first.bytes(), second.bytes(), "after {key} of {rows}");
            }
            assert_eq!(first.shape(&handle.pin()), second.shape(&handle.pin()));
            let guard = &handle.pin();
            for key in (0..rows).filter(|key| key % 3 != 0).chain(rows..2 * rows) {
                let probe = |found| if found == index(key) { Probe::Found } else { Probe::Other };
                assert_eq!(second.find(tag(key), guard, probe), Some(index(key)));
            }
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let budget = Arc::new(Budget::new(1 << 20));
        let whole = [0, 0, 1, 0];
        for shape in [
            vec![],
            vec![[0, 1, 1, 0]],
            vec![whole, whole],
            vec![[0, 0, 0, 0]],
            vec![[0, 0, 1, 100]],
            vec![[1, 0, 1, 0]],
            vec![[0, 40, 1, 0]],
            vec![[0, 1, 1, 0], [0, 1, 1, 0]],
            vec![[0, 2, 1, 0], [1 << 30, 1, 1, 0], [3 << 30, 2, 1, 0]],
        ] {
            assert_eq!(
                Directory::of_shape(Arc::clone(&budget), &shape).err(),
                Some(Misshapen::Impossible),
                "{shape:?}"
            );
        }
        let huge = vec![[0, 0, u32::MAX, 0]];
        assert!(matches!(Directory::of_shape(Arc::clone(&budget), &huge), Err(Misshapen::OverBudget(_))));
        assert_eq!(budget.held(), 0);
        drop(Directory::of_shape(Arc::clone(&budget), &[whole]).unwrap());
        assert_eq!(budget.held(), 0);
    }
}
