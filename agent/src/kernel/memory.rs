//! An eBPF array as the kernel holds it, mapped: read without a system call.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use partywall_abi::{Cpu, Flow, FlowName, Reclaim, Row, Throttle, Unit};

/// What an array may hold: any bytes are a value of it.
///
/// # Safety
/// The type has no padding, no pointers and no invalid bit patterns.
pub(super) unsafe trait Plain: Copy {}
// SAFETY: integers, and structs of integers whose sizes the abi crate asserts to have no padding.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for Row {}
// SAFETY: as above.
unsafe impl Plain for Cpu {}
// SAFETY: as above.
unsafe impl Plain for Throttle {}
// SAFETY: as above.
unsafe impl Plain for Reclaim {}
// SAFETY: as above.
unsafe impl Plain for Flow {}
// SAFETY: as above.
unsafe impl Plain for FlowName {}
// SAFETY: as above.
unsafe impl Plain for Unit {}

/// A mapped array of `T`, written by the kernel side while it is read here.
pub(super) struct Mapped<T: Plain> {
    memory: MmapRaw,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Mapped<T> {
    /// Maps the first `len` elements of the array behind `fd`; its size was checked when it was created from our object.
    pub(super) fn map(fd: impl AsFd, len: usize) -> io::Result<Self> {
        let memory = MmapOptions::new()
            .len(len * size_of::<T>())
            .map_raw(&fd.as_fd())?;
        Ok(Self {
            memory,
            len,
            element: PhantomData,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The element at `index`, read word by word: each word is whole, the element need not be.
    pub(super) fn get(&self, index: usize) -> Option<T> {
        // SAFETY: within the mapping, aligned (the kernel aligns elements to 8 bytes, the mapping to a page), any bytes are a T.
        (index < self.len).then(|| unsafe { self.memory.as_ptr().cast::<T>().add(index).read_volatile() })
    }

    /// Writes the element at `index`; does nothing out of bounds.
    pub(super) fn set(&self, index: usize, value: T) {
        if index < self.len {
            // SAFETY: as above; the mapping is writable and shared with the kernel side alone.
            unsafe {
                self.memory
                    .as_mut_ptr()
                    .cast::<T>()
                    .add(index)
                    .write_volatile(value);
            };
        }
    }
}

impl<T: Plain> Mapped<T> {
    /// The word at `offset` bytes into the element at `index`, which the kernel side changes at the same time.
    fn word(&self, index: usize, offset: usize) -> Option<&AtomicU64> {
        let within =
            index < self.len && offset + size_of::<u64>() <= size_of::<T>() && offset.is_multiple_of(8);
        // SAFETY: within the mapping and aligned; the kernel side changes the word atomically, and nothing else here holds it.
        within.then(|| unsafe {
            let element = self.memory.as_mut_ptr().cast::<T>().add(index);
            AtomicU64::from_ptr(element.cast::<u8>().add(offset).cast())
        })
    }

    /// Writes one word of an element; the rest is left to the kernel side.
    pub(super) fn set_word(&self, index: usize, offset: usize, value: u64) {
        if let Some(word) = self.word(index, offset) {
            word.store(value, Ordering::Release);
        }
    }

    /// Subtracts from a word to which the kernel side adds.
    pub(super) fn subtract(&self, index: usize, offset: usize, less: u64) {
        if let Some(word) = self.word(index, offset) {
            word.fetch_sub(less, Ordering::Relaxed);
        }
    }
}

/// Memory that the kernel accounts to a map: `memlock` of its descriptor's fdinfo.
pub(super) fn locked_bytes(map: &aya::maps::MapData) -> Option<u64> {
    use std::os::fd::AsRawFd as _;
    let fdinfo =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd())).ok()?;
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}
