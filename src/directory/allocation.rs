//! The one allocation that a segment is: a header, then its buckets.
//!
//! A pointer to a segment says how many buckets there are, so that a look-up finds the bucket without the header's line.

use super::bucket::Bucket;
use super::segment::{Header, Segment, home};
use crossbeam_epoch::{Owned, Pointable, Pointer, Shared};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr;

/// Leaves seven low bits of a pointer free: one for what is not a segment, six for the number of buckets.
pub(super) const ALIGN: usize = 128;
/// What a pointer's tag can say; with more of them it says 0, and the header is asked.
const MOST_IN_TAG: usize = ALIGN / 2 - 1;

const _: () = assert!(size_of::<Header>().is_multiple_of(align_of::<Bucket>()) && align_of::<Header>() <= ALIGN);

/// The bytes and the alignment of a segment of so many buckets.
fn layout(buckets: usize) -> Layout {
    let size = buckets.checked_mul(size_of::<Bucket>()).and_then(|bytes| bytes.checked_add(size_of::<Header>()));
    // What a directory can have was reserved from a budget first, and a process has no room for more than half of its
    // addresses.
    let layout = size.and_then(|size| Layout::from_size_align(size, ALIGN).ok());
    layout.expect("a segment has fewer bytes than there are addresses")
}

/// The segment at an address.
///
/// # Safety
/// A header is there and may be read, and behind it as many buckets as it says.
unsafe fn whole(address: usize) -> *const Segment {
    let header = ptr::with_exposed_provenance::<Header>(address);
    // SAFETY: the caller's.
    let buckets = unsafe { (*header).buckets };
    ptr::slice_from_raw_parts(header.cast::<Bucket>(), buckets as usize) as *const Segment
}

impl Pointable for Segment {
    const ALIGN: usize = ALIGN;
    type Init = Header;

    unsafe fn init(header: Header) -> usize {
        let buckets = header.buckets as usize;
        let layout = layout(buckets);
        // SAFETY: a header has a size.
        let address = unsafe { alloc(layout) };
        if address.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: of that layout, and nobody else's.
        unsafe { address.cast::<Header>().write(header) };
        let first = address.wrapping_add(size_of::<Header>()).cast::<Bucket>();
        for bucket in 0..buckets {
            // SAFETY: of that layout, and nobody else's.
            unsafe { first.wrapping_add(bucket).write(Bucket::empty()) };
        }
        address.expose_provenance()
    }

    unsafe fn deref<'a>(address: usize) -> &'a Segment {
        // SAFETY: the caller's: made by `init`.
        let segment = unsafe { whole(address) };
        // SAFETY: the caller's.
        unsafe { &*segment }
    }

    unsafe fn deref_mut<'a>(address: usize) -> &'a mut Segment {
        // SAFETY: the caller's: made by `init`.
        let segment = unsafe { whole(address) }.cast_mut();
        // SAFETY: the caller's: nobody else's.
        unsafe { &mut *segment }
    }

    unsafe fn drop(address: usize) {
        // SAFETY: the caller's: made by `init`.
        let segment = unsafe { whole(address) }.cast_mut();
        // SAFETY: as above.
        let layout = layout(unsafe { (*segment).header.buckets } as usize);
        // SAFETY: the caller's: nobody else's, and not used after this.
        unsafe { ptr::drop_in_place(segment) };
        // SAFETY: allocated with that layout in `init`.
        unsafe { dealloc(segment.cast(), layout) };
    }
}

/// A segment with empty buckets, its pointer tagged with their number.
pub(super) fn allocate(header: Header) -> Owned<Segment> {
    let buckets = header.buckets as usize;
    Owned::<Segment>::init(header).with_tag(if buckets > MOST_IN_TAG { 0 } else { buckets << 1 })
}

/// Where the words of a tag begin, in the segment that a pointer leads to.
///
/// # Safety
/// The pointer is to a segment, tagged by [`allocate`], that lives for `'g`.
#[inline]
pub(super) unsafe fn home_bucket<'g>(segment: Shared<'g, Segment>, tag: u32) -> &'g Bucket {
    let buckets = match segment.tag() >> 1 {
        // SAFETY: the caller's.
        0 => unsafe { segment.deref() }.header.buckets as usize,
        buckets => buckets,
    };
    let header = start(segment).cast::<Header>();
    let bucket = header.wrapping_add(1).cast::<Bucket>().wrapping_add(home(tag, buckets));
    // SAFETY: the home is one of the buckets, which are behind the header and only ever shared.
    unsafe { &*bucket }
}

/// The first byte of the segment that a pointer leads to.
pub(super) fn start(segment: Shared<'_, Segment>) -> *const u8 {
    ptr::with_exposed_provenance(segment.into_usize() & !(ALIGN - 1))
}

/// The address of a segment, for whoever is to free it: see [`free`].
pub(super) fn address(segment: &Segment) -> usize {
    (&raw const *segment).cast::<Header>().expose_provenance()
}

/// Frees a segment.
///
/// # Safety
/// The address is that of a segment, which nobody else has.
pub(super) unsafe fn free(address: usize) {
    // SAFETY: the caller's.
    drop(unsafe { Owned::<Segment>::from_usize(address) });
}
