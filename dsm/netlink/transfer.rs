// SPDX-License-Identifier: GPL-2.0

//! Policy images on their way in, piece by piece: one for each netlink socket, a few in all. They
//! are only collected here; nothing is believed before the commit.

use crate::engine::image::MAX_LEN;
use crate::netlink::refusal::Refusal;
use kernel::{alloc::KVVec, prelude::*};

/// Most open transactions on the node.
const MOST: usize = 4;

/// A netlink socket, by what is unique about it while it is open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port {
    /// Its network namespace, as a mere number.
    pub(crate) net: usize,
    /// Its port id in there.
    pub(crate) portid: u32,
}

/// An image that is coming in.
pub(crate) struct Transfer {
    port: Port,
    size: usize,
    image: KVVec<u8>,
}

/// The open transactions.
pub(crate) struct Transfers([Option<Transfer>; MOST]);

impl Transfers {
    /// None.
    pub(crate) const fn none() -> Self {
        Self([const { None }; MOST])
    }

    fn of(&mut self, port: Port) -> Option<&mut Transfer> {
        self.0.iter_mut().flatten().find(|t| t.port == port)
    }

    /// Opens a transaction; one that the socket has open already is dropped.
    pub(crate) fn begin(&mut self, port: Port, size: u32) -> Result<(), Refusal> {
        let wanted = size as usize;
        if wanted == 0 || wanted > MAX_LEN {
            return Err(Refusal::ImageSize {
                found: size,
                most: MAX_LEN,
            });
        }
        self.take(port);
        let place = self.0.iter_mut().find(|place| place.is_none());
        let place = place.ok_or(Refusal::Transfers { most: MOST })?;
        *place = Some(Transfer {
            port,
            size: wanted,
            image: KVVec::with_capacity(wanted, GFP_KERNEL)?,
        });
        Ok(())
    }

    /// Adds the next chunk.
    pub(crate) fn data(&mut self, port: Port, offset: u32, data: &[u8]) -> Result<(), Refusal> {
        let transfer = self.of(port).ok_or(Refusal::NoTransfer)?;
        let next = transfer.image.len();
        if offset as usize != next {
            return Err(Refusal::ChunkOffset {
                found: offset,
                next,
            });
        }
        if data.len() > transfer.size - next {
            return Err(Refusal::ChunkBeyond {
                end: next + data.len(),
                size: transfer.size,
            });
        }
        transfer.image.extend_from_slice(data, GFP_KERNEL)?;
        Ok(())
    }

    /// Takes a socket's transaction out, whatever its state.
    pub(crate) fn take(&mut self, port: Port) -> Option<Transfer> {
        let mine = |place: &&mut Option<Transfer>| {
            place.as_ref().is_some_and(|transfer| transfer.port == port)
        };
        self.0.iter_mut().find(mine).and_then(Option::take)
    }

    /// Drops them all.
    pub(crate) fn clear(&mut self) {
        *self = Self::none();
    }
}

impl Transfer {
    /// The whole image.
    pub(crate) fn complete(self) -> Result<KVVec<u8>, Refusal> {
        if self.image.len() == self.size {
            Ok(self.image)
        } else {
            Err(Refusal::Incomplete {
                have: self.image.len(),
                size: self.size,
            })
        }
    }
}
