// SPDX-License-Identifier: GPL-2.0

//! Keys by epoch: of each kind the two that are valid during a change. Pure book-keeping; who may
//! change them is asked before, who uses them reads copies made by `nodes`.

use crate::netlink::refusal::Refusal;
use crate::sys::secret::Secret;

/// A key and the epoch that it is of.
pub(crate) struct Key {
    /// The whole epoch; a label carries its low eight bits.
    pub(crate) epoch: u32,
    /// The key.
    pub(crate) secret: Secret,
}

/// At most two keys, of epochs that a label can tell apart.
pub(crate) struct Keys([Option<Key>; 2]);

impl Keys {
    /// None.
    pub(crate) const fn none() -> Self {
        Self([None, None])
    }

    /// The keys that there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().flatten()
    }

    /// The key of an epoch.
    pub(crate) fn of(&self, epoch: u32) -> Option<&Key> {
        self.iter().find(|key| key.epoch == epoch)
    }

    /// The key to use while `active` is the epoch to use: of that epoch, or else the newest, so
    /// that a change of keys that has come half-way does not silence anybody.
    pub(crate) fn best(&self, active: Option<u32>) -> Option<&Key> {
        active
            .and_then(|epoch| self.of(epoch))
            .or_else(|| self.iter().max_by_key(|key| key.epoch))
    }

    /// Where the key of an epoch goes: in place of its predecessor of the same epoch, into a free
    /// place, or in place of the older one that is not `active`. `attr` is told on if it goes
    /// nowhere.
    fn place(&self, epoch: u32, active: Option<u32>, attr: u16) -> Result<usize, Refusal> {
        if epoch == 0 {
            return Err(Refusal::EpochZero { attr });
        }
        let [a, b] = [&self.0[0], &self.0[1]].map(|key| key.as_ref().map(|key| key.epoch));
        let place = match (a, b) {
            (Some(a), _) if a == epoch => 0,
            (_, Some(b)) if b == epoch => 1,
            (None, _) => 0,
            (_, None) => 1,
            (Some(a), Some(b)) => {
                let oldest = a.min(b);
                if epoch < oldest {
                    return Err(Refusal::EpochOld {
                        attr,
                        found: epoch,
                        oldest,
                    });
                }
                let stays_a = active == Some(a) || (active != Some(b) && a > b);
                usize::from(stays_a)
            }
        };
        match if place == 0 { b } else { a } {
            Some(other) if other & 0xFF == epoch & 0xFF => Err(Refusal::EpochClash {
                attr,
                found: epoch,
                other,
            }),
            _ => Ok(place),
        }
    }

    /// Sets the key of an epoch; see `place`.
    pub(crate) fn set(&mut self, key: Key, active: Option<u32>, attr: u16) -> Result<(), Refusal> {
        let place = self.place(key.epoch, active, attr)?;
        if let Some(to) = self.0.get_mut(place) {
            *to = Some(key);
        }
        Ok(())
    }

    /// A second owner of the same keys.
    pub(crate) fn duplicate(&self) -> Self {
        Self([&self.0[0], &self.0[1]].map(|key| {
            key.as_ref().map(|key| Key {
                epoch: key.epoch,
                secret: key.secret.duplicate(),
            })
        }))
    }
}

/// This node's own receive secrets and the epoch that it stamps with.
pub(crate) struct Ring {
    /// Receive secrets.
    pub(crate) secrets: Keys,
    /// Epoch to stamp with; none before the first activation.
    pub(crate) active: Option<u32>,
}

impl Ring {
    /// No keys.
    pub(crate) const fn none() -> Self {
        Self {
            secrets: Keys::none(),
            active: None,
        }
    }
}
