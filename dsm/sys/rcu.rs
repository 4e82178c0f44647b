// SPDX-License-Identifier: GPL-2.0

//! What is read in every packet and written by commands: a cell and a map whose readers take no
//! lock and allocate nothing. What a writer replaces is freed after a grace period, never sooner.

use core::{
    marker::PhantomData,
    ptr::{null_mut, NonNull},
    sync::atomic::{AtomicBool, AtomicPtr, Ordering},
};
use kernel::{
    alloc::{AllocError, KVVec},
    bindings,
    prelude::*,
    sync::rcu,
};

/// Waits until no reader holds anything that was replaced before.
fn synchronize() {
    // SAFETY: the writers below run in process context and hold no RCU read lock.
    unsafe { bindings::synchronize_rcu() };
}

/// A value that is replaced as a whole, or absent.
///
/// # Invariants
///
/// `value` is null or comes from `KBox::into_raw`, and is freed only a grace period after it has
/// been taken out.
pub(crate) struct RcuCell<T> {
    value: AtomicPtr<T>,
    owns: PhantomData<T>,
}

// SAFETY: readers share `&T` between CPUs, and the writer may drop on another CPU than it
// allocated on.
unsafe impl<T: Send + Sync> Sync for RcuCell<T> {}

impl<T> RcuCell<T> {
    /// A cell without a value.
    pub(crate) const fn empty() -> Self {
        // INVARIANT: null.
        Self {
            value: AtomicPtr::new(null_mut()),
            owns: PhantomData,
        }
    }

    /// Shows the value to `f`. Any context; `f` must not sleep.
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(Option<&T>) -> R) -> R {
        let _guard = rcu::read_lock();
        let value = self.value.load(Ordering::Acquire);
        // SAFETY: by the invariant it lives until the guard, which outlives the call, is gone.
        f(unsafe { value.as_ref() })
    }

    /// Puts another value in its place. Sleeps until nobody sees the old one, then drops it.
    pub(crate) fn replace(&self, new: Option<KBox<T>>) {
        let new = new.map_or(null_mut(), KBox::into_raw);
        // INVARIANT: null or from `KBox::into_raw`.
        let old = self.value.swap(new, Ordering::AcqRel);
        if old.is_null() {
            return;
        }
        synchronize();
        // SAFETY: from `KBox::into_raw`; the swap gave it to this caller alone, and the grace
        // period has passed.
        drop(unsafe { KBox::from_raw(old) });
    }
}

/// What a map finds values by.
pub(crate) trait Key: Copy + Eq + Send + Sync + 'static {
    /// A number whose upper bits differ for keys that do.
    fn hash(self) -> u32;
}

impl Key for u32 {
    #[inline(always)]
    fn hash(self) -> u32 {
        self.wrapping_mul(0x61C8_8647)
    }
}

impl Key for [u64; 2] {
    #[inline(always)]
    fn hash(self) -> u32 {
        let [a, b] = self;
        ((a.rotate_left(29) ^ b).wrapping_mul(0x61C8_8646_80B5_83EB) >> 32) as u32
    }
}

#[repr(C)]
struct Entry<K, V> {
    // First, so that the callback's pointer is the entry's.
    rcu: bindings::callback_head,
    next: AtomicPtr<Entry<K, V>>,
    key: K,
    value: V,
}

/// Frees an entry. Called in softirq.
unsafe extern "C" fn free_entry<K, V>(head: *mut bindings::callback_head) {
    // SAFETY: `retire` handed over an entry from `KBox::into_raw`, whose first field this is.
    drop(unsafe { KBox::from_raw(head.cast::<Entry<K, V>>()) });
}

struct Table<K, V> {
    buckets: KVVec<AtomicPtr<Entry<K, V>>>,
    shift: u32,
}

impl<K: Key, V> Table<K, V> {
    fn new(bits: u32) -> Result<KBox<Self>, AllocError> {
        let mut buckets = KVVec::with_capacity(1 << bits, GFP_KERNEL)?;
        for _ in 0..1_usize << bits {
            buckets.push(AtomicPtr::new(null_mut()), GFP_KERNEL)?;
        }
        KBox::new(
            Self {
                buckets,
                shift: u32::BITS - bits,
            },
            GFP_KERNEL,
        )
    }

    #[inline(always)]
    fn bucket(&self, key: K) -> Option<&AtomicPtr<Entry<K, V>>> {
        let hash = key.hash() >> self.shift;
        self.buckets.get(hash as usize)
    }

    /// Frees all entries.
    ///
    /// # Safety
    ///
    /// Nobody else may see the table any more.
    unsafe fn clear(&mut self) {
        for bucket in self.buckets.iter() {
            let mut at = bucket.swap(null_mut(), Ordering::Relaxed);
            while !at.is_null() {
                // SAFETY: entries in a chain come from `KBox::into_raw`, and nobody else sees
                // them.
                let entry = unsafe { KBox::from_raw(at) };
                at = entry.next.load(Ordering::Relaxed);
            }
        }
    }
}

const FIRST_BITS: u32 = 6;
const MOST_BITS: u32 = 20;

/// Values by key, for one writer and any number of readers.
///
/// # Invariants
///
/// `table`, and each entry in its chains, is null or from `KBox::into_raw`; only the one
/// [`Writer`] changes them, and frees what it took out after a grace period.
pub(crate) struct RcuMap<K, V> {
    table: AtomicPtr<Table<K, V>>,
    taken: AtomicBool,
    owns: PhantomData<(K, V)>,
}

// SAFETY: readers share `&V` between CPUs, and the last owner may be a softirq on any of them.
unsafe impl<K: Send + Sync, V: Send + Sync> Sync for RcuMap<K, V> {}

impl<K: Key, V> RcuMap<K, V> {
    /// A map without entries.
    pub(crate) const fn empty() -> Self {
        // INVARIANT: null.
        Self {
            table: AtomicPtr::new(null_mut()),
            taken: AtomicBool::new(false),
            owns: PhantomData,
        }
    }

    /// Shows the value of a key to `f`. Any context; `f` must not sleep.
    #[inline]
    pub(crate) fn with<R>(&self, key: K, f: impl FnOnce(Option<&V>) -> R) -> R {
        let _guard = rcu::read_lock();
        f(self.find(key).map(|entry| {
            // SAFETY: by the invariant it lives until the guard, which outlives `f`, is gone.
            unsafe { &(*entry.as_ptr()).value }
        }))
    }

    /// The entry of a key; the caller holds the RCU read lock or is the writer.
    #[inline(always)]
    fn find(&self, key: K) -> Option<NonNull<Entry<K, V>>> {
        // SAFETY: by the invariant, and because the caller keeps it from being freed.
        let table = unsafe { self.table.load(Ordering::Acquire).as_ref() }?;
        let mut at = table.bucket(key)?.load(Ordering::Acquire);
        loop {
            // SAFETY: as above.
            let entry = unsafe { at.as_ref() }?;
            if entry.key == key {
                return NonNull::new(at);
            }
            at = entry.next.load(Ordering::Acquire);
        }
    }
}

/// An entry that is allocated and not in the map yet.
pub(crate) struct Prepared<K, V>(KBox<Entry<K, V>>);

// SAFETY: an entry is its value and two pointers that nobody follows yet.
unsafe impl<K: Send, V: Send> Send for Prepared<K, V> {}

impl<K: Key, V> Prepared<K, V> {
    /// Allocates an entry, so that putting it in cannot fail.
    pub(crate) fn new(key: K, value: V) -> Result<Self, AllocError> {
        let entry = Entry {
            rcu: bindings::callback_head::default(),
            next: AtomicPtr::new(null_mut()),
            key,
            value,
        };
        Ok(Self(KBox::new(entry, GFP_KERNEL)?))
    }
}

/// The right to change a map. Whoever has it excludes other writers by owning it.
pub(crate) struct Writer<K: Key, V: Clone + Send + Sync + 'static> {
    map: &'static RcuMap<K, V>,
    len: usize,
    bits: u32,
}

impl<K: Key, V: Clone + Send + Sync + 'static> Writer<K, V> {
    /// Sets up the map; refused while there is a writer.
    pub(crate) fn new(map: &'static RcuMap<K, V>) -> Result<Self> {
        let table = Table::new(FIRST_BITS)?;
        if map.taken.swap(true, Ordering::AcqRel) {
            return Err(EBUSY);
        }
        // INVARIANT: from `KBox::into_raw`, and no other writer.
        map.table.store(KBox::into_raw(table), Ordering::Release);
        Ok(Self {
            map,
            len: 0,
            bits: FIRST_BITS,
        })
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: K) -> Option<&V> {
        // SAFETY: only the writer takes entries out, and it is borrowed here.
        self.map
            .find(key)
            .map(|entry| unsafe { &(*entry.as_ptr()).value })
    }

    fn table(&self) -> Option<&Table<K, V>> {
        // SAFETY: only the writer replaces the table, and it is borrowed here.
        unsafe { self.map.table.load(Ordering::Relaxed).as_ref() }
    }

    /// The link that points at the entry of a key, or the chain's end.
    fn link(&self, key: K) -> Option<&AtomicPtr<Entry<K, V>>> {
        let mut link = self.table()?.bucket(key)?;
        loop {
            // SAFETY: only the writer takes entries out, and it is borrowed here.
            match unsafe { link.load(Ordering::Relaxed).as_ref() } {
                Some(entry) if entry.key != key => link = &entry.next,
                _ => return Some(link),
            }
        }
    }

    /// Frees an entry that has been unlinked, after a grace period.
    fn retire(old: *mut Entry<K, V>) {
        // SAFETY: `old` is from `KBox::into_raw`, no new reader can find it, and it is retired
        // once. The writer's drop waits for the callback, so its code stays.
        unsafe { bindings::call_rcu(&raw mut (*old).rcu, Some(free_entry::<K, V>)) };
    }

    /// Puts an entry in, in place of one with the same key.
    pub(crate) fn put(&mut self, new: Prepared<K, V>) {
        let Some(link) = self.link(new.0.key) else {
            return;
        };
        let old = link.load(Ordering::Relaxed);
        // SAFETY: only the writer takes entries out, and it is borrowed here.
        let after = unsafe { old.as_ref() }.map_or(null_mut(), |e| e.next.load(Ordering::Relaxed));
        new.0.next.store(after, Ordering::Relaxed);
        // INVARIANT: from `KBox::into_raw`.
        link.store(KBox::into_raw(new.0), Ordering::Release);
        if !old.is_null() {
            Self::retire(old);
            return;
        }
        self.len += 1;
        if self.len > 2 << self.bits && self.bits < MOST_BITS {
            self.grow();
        }
    }

    /// Takes an entry out; true if there was one.
    pub(crate) fn remove(&mut self, key: K) -> bool {
        let Some(link) = self.link(key) else {
            return false;
        };
        let old = link.load(Ordering::Relaxed);
        // SAFETY: only the writer takes entries out, and it is borrowed here.
        let Some(entry) = (unsafe { old.as_ref() }) else {
            return false;
        };
        link.store(entry.next.load(Ordering::Relaxed), Ordering::Release);
        Self::retire(old);
        self.len -= 1;
        true
    }

    /// Doubles the buckets. Without memory for it the chains stay longer, and all is well.
    fn grow(&mut self) {
        let Ok(mut table) = Table::new(self.bits + 1) else {
            return;
        };
        if self.copy_into(&table).is_err() {
            // SAFETY: the new table has not been published.
            unsafe { table.clear() };
            return;
        }
        // INVARIANT: from `KBox::into_raw`.
        let old = self.map.table.swap(KBox::into_raw(table), Ordering::AcqRel);
        self.bits += 1;
        synchronize();
        Self::free_table(old);
    }

    fn copy_into(&self, table: &Table<K, V>) -> Result<(), AllocError> {
        let Some(old) = self.table() else {
            return Ok(());
        };
        for bucket in old.buckets.iter() {
            let mut at = bucket.load(Ordering::Relaxed);
            // SAFETY: only the writer takes entries out, and it is borrowed here.
            while let Some(entry) = unsafe { at.as_ref() } {
                let copy = Prepared::new(entry.key, entry.value.clone())?;
                if let Some(to) = table.bucket(entry.key) {
                    copy.0
                        .next
                        .store(to.load(Ordering::Relaxed), Ordering::Relaxed);
                    to.store(KBox::into_raw(copy.0), Ordering::Relaxed);
                }
                at = entry.next.load(Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Frees a table that was taken out a grace period ago.
    fn free_table(old: *mut Table<K, V>) {
        if old.is_null() {
            return;
        }
        // SAFETY: from `KBox::into_raw`, taken out once, and no reader sees it any more.
        let mut old = unsafe { KBox::from_raw(old) };
        // SAFETY: as above.
        unsafe { old.clear() };
    }
}

impl<K: Key, V: Clone + Send + Sync + 'static> Drop for Writer<K, V> {
    fn drop(&mut self) {
        let old = self.map.table.swap(null_mut(), Ordering::AcqRel);
        synchronize();
        Self::free_table(old);
        // SAFETY: process context. The callbacks of `retire` are module code and must have run
        // before the module can go.
        unsafe { bindings::rcu_barrier() };
        self.map.taken.store(false, Ordering::Release);
    }
}
