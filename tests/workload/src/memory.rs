//! Anonymous memory: what [`Work::Memory`](crate::Work::Memory) does.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    ptr, slice, thread,
};

use rustix::{
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap},
    param::page_size,
};

/// Allocates and touches `step_bytes` and pauses, again and again until there are `bytes`. Then holds them, or frees them all
/// and begins again.
pub(crate) fn work(bytes: u64, step_bytes: u64, keep: bool, pause: impl Fn()) -> io::Result<Infallible> {
    let too_much = |_| io::Error::new(ErrorKind::OutOfMemory, "more bytes than there are addresses");
    let bytes = usize::try_from(bytes).map_err(too_much)?;
    let step = usize::try_from(step_bytes).map_err(too_much)?.max(1);
    loop {
        let mut held = Vec::new();
        let mut left = bytes;
        while left > 0 {
            let length = left.min(step);
            held.push(Pages::touched(length)?);
            left -= length;
            pause();
        }
        if keep {
            loop {
                thread::park();
            }
        }
    }
}

/// A mapping whose pages are there. Unmapped when dropped.
pub(crate) struct Pages {
    start: *mut u8,
    length: usize,
}

impl Pages {
    #[allow(
        unsafe_code,
        reason = "an allocator would keep, merge and cache what is to be exact"
    )]
    pub(crate) fn touched(length: usize) -> io::Result<Self> {
        // Nothing is reserved: running out of memory is to be met by touching a page, as most programs meet it.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        let pages = Self {
            start: start.cast(),
            length,
        };
        // Huge pages would come in steps of 2 MiB, or not, as the node's fragmentation has it.
        // SAFETY: the mapping is ours, and the advice changes nothing that is in it.
        let _no_huge_pages_here = unsafe { madvise(start, length, Advice::LinuxNoHugepage) };
        for offset in (0..length).step_by(page_size()) {
            // SAFETY: within the mapping, which is writable and nobody else's. Volatile: the write is the work.
            unsafe { pages.start.add(offset).write_volatile(1) };
        }
        Ok(pages)
    }

    #[allow(unsafe_code, reason = "see touched")]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped, initialised by the kernel, and borrowed from this value alone.
        unsafe { slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Pages {
    #[allow(unsafe_code, reason = "see touched")]
    fn drop(&mut self) {
        // SAFETY: made by `touched`, and no reference into it outlives this value.
        let _cannot_fail = unsafe { munmap(self.start.cast(), self.length) };
    }
}
