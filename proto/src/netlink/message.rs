//! Payloads of the family: a command and its attributes, between typed values and bytes.
//!
//! The framing is that of `netlink-packet-core`; no header is laid out here.

use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, Emitable, NLA_F_NESTED, Nla, NlaBuffer, NlasIterator, Parseable,
    ParseableParametrized, parse_ip, parse_string, parse_u8, parse_u16, parse_u32, parse_u64,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};
use zeroize::Zeroizing;

use super::spec;

/// One attribute. The value is wiped when dropped, as it may be a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    kind: u16,
    value: Zeroizing<Vec<u8>>,
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        self.value.len()
    }
    fn kind(&self) -> u16 {
        self.kind
    }
    fn emit_value(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.value);
    }
}

impl<T: AsRef<[u8]> + ?Sized> Parseable<NlaBuffer<&T>> for Attribute {
    fn parse(buffer: &NlaBuffer<&T>) -> Result<Self, DecodeError> {
        Ok(Self {
            kind: buffer.kind(),
            value: Zeroizing::new(buffer.value().to_vec()),
        })
    }
}

/// Body of a message of the family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) command: u8,
    attributes: Vec<Attribute>,
}

impl Payload {
    pub(super) fn new(command: u8) -> Self {
        Self {
            command,
            attributes: Vec::new(),
        }
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.attributes.push(Attribute {
            kind,
            value: Zeroizing::new(value.to_vec()),
        });
        self
    }

    pub(super) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(super) fn address(self, kind: u16, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(v4) => self.bytes(kind, &v4.octets()),
            IpAddr::V6(v6) => self.bytes(kind, &v6.octets()),
        }
    }

    pub(super) fn attributes(&self) -> Attributes<'_> {
        Attributes(&self.attributes)
    }
}

impl GenlFamily for Payload {
    fn family_name() -> &'static str {
        spec::FAMILY
    }
    fn command(&self) -> u8 {
        self.command
    }
    fn version(&self) -> u8 {
        spec::FAMILY_VERSION
    }
}

impl Emitable for Payload {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }
    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Payload {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self {
            command: header.cmd,
            attributes: parse_attributes(buffer)?,
        })
    }
}

fn parse_attributes(buffer: &[u8]) -> Result<Vec<Attribute>, DecodeError> {
    NlasIterator::new(buffer)
        .map(|nla| Attribute::parse(&nla?))
        .collect()
}

/// Typed reading of a list of attributes; one that is absent is `None`, for a module one step older may lack it.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a>(&'a [Attribute]);

impl<'a> Attributes<'a> {
    fn all(self, kind: u16) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |a| a.kind & !NLA_F_NESTED == kind)
            .map(|a| a.value.as_slice())
    }

    pub(super) fn bytes(self, kind: u16) -> Option<&'a [u8]> {
        self.all(kind).next()
    }

    pub(super) fn u8(self, kind: u16) -> Result<Option<u8>, DecodeError> {
        self.bytes(kind).map(parse_u8).transpose()
    }

    pub(super) fn u16(self, kind: u16) -> Result<Option<u16>, DecodeError> {
        self.bytes(kind).map(parse_u16).transpose()
    }

    pub(super) fn u32(self, kind: u16) -> Result<Option<u32>, DecodeError> {
        self.bytes(kind).map(parse_u32).transpose()
    }

    pub(super) fn u64(self, kind: u16) -> Result<Option<u64>, DecodeError> {
        self.bytes(kind).map(parse_u64).transpose()
    }

    pub(super) fn string(self, kind: u16) -> Result<Option<String>, DecodeError> {
        self.strings(kind).map(|list| list.into_iter().next())
    }

    pub(super) fn strings(self, kind: u16) -> Result<Vec<String>, DecodeError> {
        self.all(kind).map(text).collect()
    }

    pub(super) fn address(self, kind: u16) -> Result<Option<IpAddr>, DecodeError> {
        self.bytes(kind)
            .filter(|raw| !raw.is_empty())
            .map(parse_ip)
            .transpose()
    }

    pub(super) fn addresses(self, kind: u16) -> Result<Vec<IpAddr>, DecodeError> {
        self.all(kind).map(parse_ip).collect()
    }

    pub(super) fn array<const N: usize>(self, kind: u16) -> Result<Option<[u8; N]>, DecodeError> {
        self.bytes(kind)
            .map(|raw| {
                <[u8; N]>::try_from(raw).map_err(|_| DecodeError::invalid_number(N, raw.len()))
            })
            .transpose()
    }

    /// Reads each nest of this kind.
    pub(super) fn nested<R>(
        self,
        kind: u16,
        mut read: impl FnMut(Attributes<'_>) -> Result<R, DecodeError>,
    ) -> Result<Vec<R>, DecodeError> {
        self.all(kind)
            .map(|raw| {
                let inner = parse_attributes(raw)?;
                read(Attributes(&inner))
            })
            .collect()
    }
}

/// A string of the kernel. A process may name itself in any bytes, so what is not UTF-8 is replaced, not refused.
fn text(raw: &[u8]) -> Result<String, DecodeError> {
    parse_string(raw).or_else(|_| {
        let end = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
        Ok(String::from_utf8_lossy(&raw[..end]).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_way_out_and_back() {
        let payload = Payload::new(7)
            .u32(1, 0xDEAD_BEEF)
            .address(2, "192.0.2.1".parse().unwrap())
            .address(2, "2001:db8::1".parse().unwrap())
            .bytes(4, &[9; 16])
            .u8(5, 1);
        let mut wire = vec![0; payload.buffer_len()];
        payload.emit(&mut wire);
        assert_eq!(wire.len() % 4, 0);
        // Kernel's layout: u16 length with header, u16 kind, value, padding.
        assert_eq!(wire[..8], [8, 0, 1, 0, 0xEF, 0xBE, 0xAD, 0xDE]);
        let back = Payload::parse_with_param(&wire, GenlHeader { cmd: 7, version: 1 }).unwrap();
        assert_eq!(back, payload);
        let a = back.attributes();
        assert_eq!(a.u32(1).unwrap(), Some(0xDEAD_BEEF));
        assert_eq!(a.addresses(2).unwrap().len(), 2);
        assert_eq!(a.array::<16>(4).unwrap(), Some([9; 16]));
        assert_eq!(a.u8(5).unwrap(), Some(1));
        assert_eq!(a.u64(6).unwrap(), None);
    }

    #[test]
    fn a_truncated_attribute_is_refused() {
        let payload = Payload::new(1).u32(1, 5).bytes(2, b"abcdef");
        let mut wire = vec![0; payload.buffer_len()];
        payload.emit(&mut wire);
        wire.truncate(wire.len() - 4);
        assert!(Payload::parse_with_param(&wire, GenlHeader { cmd: 1, version: 1 }).is_err());
    }

    #[test]
    fn a_number_of_the_wrong_width_is_refused() {
        let payload = Payload::new(1).u8(1, 5);
        assert!(payload.attributes().u32(1).is_err());
        assert!(payload.attributes().array::<16>(1).is_err());
    }

    #[test]
    fn nests_are_read() {
        let inner = Payload::new(0)
            .bytes(1, b"packets\0")
            .bytes(2, &7u64.to_ne_bytes());
        let mut raw = vec![0; inner.buffer_len()];
        inner.emit(&mut raw);
        let outer = Payload::new(1)
            .bytes(13 | NLA_F_NESTED, &raw)
            .bytes(13, &raw);
        let read = outer
            .attributes()
            .nested(13, |a| Ok((a.string(1)?.unwrap(), a.u64(2)?.unwrap())))
            .unwrap();
        assert_eq!(read, [("packets".to_owned(), 7), ("packets".to_owned(), 7)]);
    }

    #[test]
    fn a_name_that_is_not_utf8_is_still_a_name() {
        let payload = Payload::new(1).bytes(17, b"a\xffb\0");
        assert_eq!(
            payload.attributes().string(17).unwrap().unwrap(),
            "a\u{fffd}b"
        );
    }
}
