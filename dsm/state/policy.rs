// SPDX-License-Identifier: GPL-2.0

//! The policy in force. Readers ask it under RCU, without lock or allocation; a new one takes its
//! place as a whole, after everything about it has been verified, or not at all.

use crate::engine::{Image, Mode, Policy, PolicyMeta};
use crate::netlink::refusal::{errno, Refusal};
use crate::sys::{cms, lock, params, rcu::RcuCell, revoke::Stay};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::{alloc::KVVec, prelude::*};

/// # Invariants
///
/// `meta` is what validation learned of `image`.
struct InForce {
    image: KVVec<u8>,
    meta: PolicyMeta,
    epoch: u64,
}

static IN_FORCE: RcuCell<InForce> = RcuCell::empty();
/// Installations since the module was loaded. Written after the policy that it counts.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// Whether TCP connections are labelled by their handshakes. Not without a policy.
static HANDSHAKE: AtomicBool = AtomicBool::new(false);

/// Whether the label of a TCP connection is in its handshake only; otherwise it is in every segment.
#[inline(always)]
pub(crate) fn handshake() -> bool {
    HANDSHAKE.load(Ordering::Relaxed)
}

/// Shows the policy in force, if there is one, and its epoch to `f`. A verdict may be kept with
/// that epoch for as long as [`epoch`] says the same. Any context; `f` must not sleep.
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(Option<&Policy<'_>>, u64) -> R) -> R {
    IN_FORCE.with(|in_force| match in_force {
        Some(in_force) => {
            let policy = Policy::from_validated(&in_force.image, &in_force.meta);
            f(Some(&policy), in_force.epoch)
        }
        None => f(None, 0),
    })
}

/// The epoch of the policy in force, 0 without one. Any context.
#[inline]
pub(crate) fn epoch() -> u64 {
    EPOCH.load(Ordering::Acquire)
}

/// What this node does with a refusal now. Any context.
#[inline]
pub(crate) fn mode() -> Mode {
    with(|policy, _| match policy {
        Some(policy) => policy.mode(),
        None if params::enrolled() => Mode::Closed,
        None => Mode::NoPolicy,
    })
}

/// Version of the policy in force, 0 without one. Any context.
pub(crate) fn version() -> u64 {
    with(|policy, _| policy.map_or(0, |policy| policy.meta().version()))
}

fn verify(image: &[u8], signature: &[u8]) -> Result<(), Refusal> {
    if !cms::has_anchor() {
        return Err(Refusal::NoAnchor);
    }
    cms::verify(image, signature).map_err(|error| match -error.to_errno() {
        errno::NO_KEY => Refusal::SignatureForeign,
        errno::KEY_REJECTED => Refusal::SignatureWrong,
        errno::NO_MEMORY => Refusal::NoMemory,
        error => Refusal::SignatureUnreadable { error },
    })
}

/// Verifies an image and puts it in force; returns its version. May take seconds on a large one.
pub(crate) fn install(image: KVVec<u8>, signature: &[u8]) -> Result<u64, Refusal> {
    verify(&image, signature)?;
    let meta = Image::validate(&image)
        .map_err(|fault| Refusal::Image {
            offset: fault.offset,
            expected: fault.expected,
            found: fault.found,
        })?
        .meta();
    // From the comparison with what is in force to the swap nobody else may install.
    let mut stay = lock::INSTALL.lock();
    let ours = lock::NODES
        .lock()
        .as_ref()
        .and_then(|map| map.cluster().copied())
        .ok_or(Refusal::NoCluster)?;
    if *meta.cluster() != ours {
        return Err(Refusal::OtherCluster {
            found: *meta.cluster(),
        });
    }
    let in_force = version();
    if meta.version() <= in_force {
        return Err(Refusal::VersionNotRising {
            found: meta.version(),
            in_force,
        });
    }
    let stays = !meta.unload() && !params::unload();
    if stays && stay.is_none() {
        // None if the module is on its way out already: nothing keeps it then.
        *stay = Stay::new();
    }
    let epoch = epoch() + 1;
    // INVARIANT: `meta` is of this very image, which nobody can change any more.
    let next = KBox::new(InForce { image, meta, epoch }, GFP_KERNEL)?;
    IN_FORCE.replace(Some(next));
    EPOCH.store(epoch, Ordering::Release);
    HANDSHAKE.store(!meta.every_packet(), Ordering::Relaxed);
    super::changed();
    if !stays {
        *stay = None;
    }
    pr_notice!(
        "policy {} in force, {}, {} rules, epoch {}\n",
        meta.version(),
        mode().name(),
        meta.rules(),
        epoch
    );
    Ok(meta.version())
}

/// Refuses a cluster that contradicts the policy in force.
pub(crate) fn check_cluster(cluster: &[u8; 16]) -> Result<(), Refusal> {
    let clash = with(|policy, _| policy.is_some_and(|policy| policy.meta().cluster() != cluster));
    if clash {
        Err(Refusal::ClusterInForce)
    } else {
        Ok(())
    }
}

/// Sets the node's cluster.
pub(crate) fn set_cluster(cluster: &[u8; 16]) -> Result<(), Refusal> {
    let _install = lock::INSTALL.lock();
    check_cluster(cluster)?;
    if let Some(map) = lock::NODES.lock().as_mut() {
        map.set_cluster(*cluster);
    }
    Ok(())
}

/// Drops the policy; for unloading, when nothing asks any more.
pub(crate) fn clear() {
    HANDSHAKE.store(false, Ordering::Relaxed);
    IN_FORCE.replace(None);
    EPOCH.store(0, Ordering::Release);
}
