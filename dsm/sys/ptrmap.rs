// SPDX-License-Identifier: GPL-2.0

//! State beside kernel objects, found by the object's address: LSM blobs cannot be had after
//! boot. Readers take no lock; writers hold one lock of many for a few instructions, with
//! interrupts off, because objects are freed in any context.

use super::bindings;
use core::marker::PhantomData;
use core::mem::{needs_drop, size_of};
use core::ptr::{null_mut, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use kernel::prelude::*;

/// Shows that entries seen now are not freed: the RCU read lock is held.
pub(crate) struct Held<'a>(PhantomData<(&'a (), *mut ())>);

impl Held<'_> {
    /// # Safety
    ///
    /// The RCU read lock is held for as long as the value lives.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Self(PhantomData)
    }
}

/// Runs `f` under the RCU read lock; `f` must not sleep.
#[inline(always)]
pub(crate) fn read<R>(f: impl FnOnce(&Held<'_>) -> R) -> R {
    // SAFETY: unlocked below; `f` cannot unwind, as the kernel does not.
    unsafe { bindings::dsm_rcu_lock() };
    let result = f(&Held(PhantomData));
    // SAFETY: locked above.
    unsafe { bindings::dsm_rcu_unlock() };
    result
}

/// Waits until everybody who reads now has done, and all who sleep in a hook. Sleeps.
pub(crate) fn synchronize() {
    // SAFETY: process context, no RCU read lock is held.
    unsafe {
        bindings::dsm_synchronize();
        bindings::dsm_sleepers_wait();
    }
}

/// Waits until everybody who reads now has done. Sleeps.
pub(crate) fn wait_for_readers() {
    // SAFETY: process context, no RCU read lock is held.
    unsafe { bindings::dsm_synchronize() };
}

/// Lets others run, if it is their turn. Sleeps.
pub(crate) fn resched() {
    // SAFETY: process context, no lock is held.
    unsafe { bindings::dsm_resched() };
}

/// An object whose entry is in the map, while its bucket is locked: the object has not been freed,
/// because freeing it takes the entry out first.
pub(crate) struct Object<'a>(usize, PhantomData<&'a ()>);

impl Object<'_> {
    /// Its address.
    pub(super) fn key(&self) -> usize {
        self.0
    }
}

/// Whether the allocation may sleep.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    /// It may.
    Process,
    /// It may not.
    Atomic,
}

#[repr(C)]
struct Node<E> {
    // struct rcu_head; first, where `dsm_free_rcu` expects it.
    rcu: [usize; 2],
    next: AtomicPtr<Node<E>>,
    key: usize,
    value: E,
}

/// Entries by address.
///
/// # Invariants
///
/// Each node in a bucket's chain comes from `dsm_alloc` and, once it has been unlinked under its
/// bucket's lock, is freed after a grace period.
pub(crate) struct PtrMap<E, const BUCKETS: usize> {
    // In the map itself: one load less in each look-up.
    buckets: [AtomicPtr<Node<E>>; BUCKETS],
    count: AtomicU64,
    owns: PhantomData<E>,
}

// SAFETY: readers share `&E` between CPUs; entries are freed without being dropped.
unsafe impl<E: Send + Sync, const BUCKETS: usize> Sync for PtrMap<E, BUCKETS> {}

impl<E: Sync, const BUCKETS: usize> PtrMap<E, BUCKETS> {
    const BITS: u32 = BUCKETS.trailing_zeros();

    /// An empty map.
    pub(crate) const fn new() -> Self {
        const { assert!(!needs_drop::<E>() && BUCKETS.is_power_of_two() && BUCKETS > 1) };
        Self {
            buckets: [const { AtomicPtr::new(null_mut()) }; BUCKETS],
            count: AtomicU64::new(0),
            owns: PhantomData,
        }
    }

    /// How many entries there are.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn index(key: usize) -> usize {
        ((key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - Self::BITS)) as usize
    }

    #[inline(always)]
    fn bucket(&self, index: usize) -> &AtomicPtr<Node<E>> {
        // An index is below their number, which the compiler sees.
        &self.buckets[index % BUCKETS]
    }

    /// The node of a key in a chain.
    ///
    /// # Safety
    ///
    /// The RCU read lock or the bucket's lock is held for as long as the result is used.
    #[inline(always)]
    unsafe fn find(bucket: &AtomicPtr<Node<E>>, key: usize) -> Option<NonNull<Node<E>>> {
        let mut at = bucket.load(Ordering::Acquire);
        loop {
            let node = NonNull::new(at)?;
            // SAFETY: nodes in a chain are valid while the caller's lock is held.
            let seen = unsafe { node.as_ref() };
            if seen.key == key {
                return Some(node);
            }
            at = seen.next.load(Ordering::Acquire);
        }
    }

    /// The entry of an object. Any context.
    #[inline(always)]
    pub(crate) fn get<'a>(&self, object: usize, _held: &'a Held<'_>) -> Option<&'a E> {
        let bucket = self.bucket(Self::index(object));
        // SAFETY: `_held` is the read lock and outlives the result.
        unsafe { Self::find(bucket, object).map(|node| &(*node.as_ptr()).value) }
    }

    /// Puts an entry in, unless the object has one. Its value is made where it stays.
    #[inline(always)]
    pub(crate) fn insert(
        &self,
        object: usize,
        context: Context,
        value: impl FnOnce() -> E,
    ) -> Result {
        let index = Self::index(object);
        let bucket = self.bucket(index);
        // SAFETY: the caller said whether this may sleep.
        let node = unsafe { bindings::dsm_alloc(size_of::<Node<E>>(), context == Context::Atomic) };
        let node = node.cast::<Node<E>>();
        if node.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: fresh memory of the node's size; kmalloc aligns it to at least a pointer's.
        unsafe {
            node.write(Node {
                rcu: [0; 2],
                next: AtomicPtr::new(null_mut()),
                key: object,
                value: value(),
            });
        }
        let taken = locked(index, || {
            // SAFETY: the bucket's lock is held.
            if unsafe { Self::find(bucket, object) }.is_some() {
                return false;
            }
            // SAFETY: nobody else sees the node yet.
            unsafe { &*node }
                .next
                .store(bucket.load(Ordering::Relaxed), Ordering::Relaxed);
            // INVARIANT: a node from `dsm_alloc`.
            bucket.store(node, Ordering::Release);
            true
        });
        if taken {
            self.count.fetch_add(1, Ordering::Relaxed);
        } else {
            // SAFETY: allocated above and never published.
            unsafe { bindings::dsm_free(node.cast()) };
        }
        Ok(())
    }

    /// Takes an object's entry out, if it has one. Any context.
    pub(crate) fn remove(&self, object: usize) {
        let index = Self::index(object);
        let bucket = self.bucket(index);
        // Most objects that go have no entry, or nobody changes it at the same time.
        if bucket.load(Ordering::Relaxed).is_null() {
            return;
        }
        let old = locked(index, || {
            let mut link = bucket;
            loop {
                let at = NonNull::new(link.load(Ordering::Relaxed))?;
                // SAFETY: the bucket's lock is held, so its nodes stay.
                let node: &Node<E> = unsafe { &*at.as_ptr() };
                if node.key == object {
                    link.store(node.next.load(Ordering::Relaxed), Ordering::Release);
                    return Some(at);
                }
                link = &node.next;
            }
        });
        if let Some(node) = old {
            self.count.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: from `dsm_alloc`, unlinked by this caller alone; starts with its rcu_head.
            unsafe { bindings::dsm_free_rcu(node.as_ptr().cast()) };
        }
    }

    /// Calls `f` with each object and entry of one bucket, with the bucket locked: no object of
    /// it can be freed meanwhile. `f` must be short.
    pub(crate) fn with_bucket(&self, index: usize, mut f: impl FnMut(&Object<'_>, &E)) {
        let bucket = self.bucket(index);
        // Whoever walks all buckets need not lock those that have nothing.
        if bucket.load(Ordering::Relaxed).is_null() {
            return;
        }
        locked(index, || {
            let mut at = bucket.load(Ordering::Acquire);
            // SAFETY: the bucket's lock is held, so its nodes stay.
            while let Some(node) = unsafe { at.as_ref() } {
                f(&Object(node.key, PhantomData), &node.value);
                at = node.next.load(Ordering::Acquire);
            }
        });
    }

    /// Frees everything. After the last hook has returned, and a grace period after that.
    pub(crate) fn destroy(&self) {
        for bucket in &self.buckets {
            let mut at = bucket.swap(null_mut(), Ordering::AcqRel);
            while !at.is_null() {
                // SAFETY: a node in a chain, which nobody else sees any more.
                let next = unsafe { &*at }.next.load(Ordering::Relaxed);
                // SAFETY: from `dsm_alloc`.
                unsafe { bindings::dsm_free(at.cast()) };
                at = next;
            }
        }
        self.count.store(0, Ordering::Relaxed);
    }
}

/// Runs `f` with a bucket's lock held and interrupts off.
fn locked<R>(index: usize, f: impl FnOnce() -> R) -> R {
    // SAFETY: unlocked below; `f` takes no other lock and does not sleep.
    let flags = unsafe { bindings::dsm_lock(index as u32) };
    let result = f();
    // SAFETY: locked above, with these flags.
    unsafe { bindings::dsm_unlock(index as u32, flags) };
    result
}
