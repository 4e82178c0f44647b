//! Captures: writes what crosses the switch in the classic pcap format, and reads it back.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC: u32 = 0xa1b2_c3d4;
const LINKTYPE_ETHERNET: u32 = 1;
const SNAPLEN: u32 = 65535;
const HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;

/// Writes frames to a pcap file, each with one write, so that a reader never sees half of one.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    len: u64,
}

impl Writer {
    /// Creates the file and its header.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend(MAGIC.to_le_bytes());
        header.extend(2u16.to_le_bytes());
        header.extend(4u16.to_le_bytes());
        header.extend([0; 8]);
        header.extend(SNAPLEN.to_le_bytes());
        header.extend(LINKTYPE_ETHERNET.to_le_bytes());
        let mut file = File::create(path)?;
        file.write_all(&header)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            len: HEADER_LEN as u64,
        })
    }

    /// Appends a frame with the time of now.
    pub fn frame(&mut self, frame: &[u8]) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let len = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let mut record = Vec::with_capacity(RECORD_HEADER_LEN + frame.len());
        // The format's seconds have 32 bits.
        record.extend((now.as_secs() as u32).to_le_bytes());
        record.extend(now.subsec_micros().to_le_bytes());
        record.extend(len.to_le_bytes());
        record.extend(len.to_le_bytes());
        record.extend(frame);
        self.file.write_all(&record)?;
        self.len += record.len() as u64;
        Ok(())
    }

    /// Where the next frame will begin.
    pub fn mark(&self) -> u64 {
        self.len
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// An Ethernet frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

/// An IPv4 packet, as far as the tests look at it. No checksum is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Sender.
    pub source: Ipv4Addr,
    /// Receiver.
    pub destination: Ipv4Addr,
    /// Protocol: 6 TCP, 17 UDP.
    pub protocol: u8,
    /// The options, padding included.
    pub options: Vec<u8>,
    /// Everything behind the header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The frame's IPv4 packet, if it carries one.
    pub fn ipv4(&self) -> Option<Ipv4> {
        let packet = self.0.get(14..)?;
        if self.0[12..14] != [8, 0] || packet.first()? >> 4 != 4 {
            return None;
        }
        let header_len = usize::from(packet[0] & 15) * 4;
        let total_len = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
        let addr = |at: usize| {
            Some(Ipv4Addr::from(
                <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?,
            ))
        };
        Some(Ipv4 {
            source: addr(12)?,
            destination: addr(16)?,
            protocol: *packet.get(9)?,
            options: packet.get(20..header_len)?.to_vec(),
            payload: packet.get(header_len..total_len)?.to_vec(),
        })
    }
}

impl Frame {
    /// Where in its datagram the frame's IPv4 packet belongs, in octets, if it is a part of one.
    pub fn ipv4_part(&self) -> Option<u16> {
        const MORE: u16 = 0x2000;
        self.ipv4()?;
        let word = u16::from_be_bytes([*self.0.get(20)?, *self.0.get(21)?]);
        let at = (word & 0x1fff) * 8;
        (at > 0 || word & MORE != 0).then_some(at)
    }
}

/// An IPv6 packet, as far as the tests look at it. No checksum is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// Sender.
    pub source: Ipv6Addr,
    /// Receiver.
    pub destination: Ipv6Addr,
    /// Its extension headers, each behind its number: those that have a length byte, and fragment headers.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Protocol: 6 TCP, 17 UDP.
    pub protocol: u8,
    /// Everything behind the headers.
    pub payload: Vec<u8>,
    /// Octets of the whole packet.
    pub len: usize,
}

impl Frame {
    /// The frame's IPv6 packet, if it carries one.
    pub fn ipv6(&self) -> Option<Ipv6> {
        let packet = self.0.get(14..)?;
        if self.0[12..14] != [0x86, 0xdd] || packet.first()? >> 4 != 6 {
            return None;
        }
        let len = 40 + usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
        let addr = |at: usize| {
            Some(Ipv6Addr::from(
                <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
            ))
        };
        let mut rest = packet.get(40..len)?;
        let mut next = *packet.get(6)?;
        let mut extensions = Vec::new();
        while matches!(next, 0 | 43 | 44 | 60) {
            let size = if next == 44 {
                8
            } else {
                8 * (usize::from(*rest.get(1)?) + 1)
            };
            let header = rest.get(..size)?;
            extensions.push((next, header.to_vec()));
            next = header[0];
            rest = &rest[size..];
        }
        Some(Ipv6 {
            source: addr(8)?,
            destination: addr(24)?,
            extensions,
            protocol: next,
            payload: rest.to_vec(),
            len,
        })
    }
}

impl Ipv6 {
    /// Source and destination port of TCP or UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let [a, b, c, d] = *self.payload.first_chunk::<4>()?;
        matches!(self.protocol, 6 | 17)
            .then_some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }
}

impl Ipv4 {
    /// Source and destination port of TCP or UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let port = |at: usize| {
            Some(u16::from_be_bytes([
                *self.payload.get(at)?,
                *self.payload.get(at + 1)?,
            ]))
        };
        matches!(self.protocol, 6 | 17).then_some((port(0)?, port(2)?))
    }

    /// The first option of this type, with type and length bytes.
    pub fn option(&self, kind: u8) -> Option<&[u8]> {
        let mut rest = &self.options[..];
        loop {
            match rest.first()? {
                0 => return None,
                1 => rest = &rest[1..],
                found => {
                    let len = usize::from(*rest.get(1)?);
                    let option = rest.get(..len.max(2))?;
                    if *found == kind {
                        return Some(option);
                    }
                    rest = &rest[option.len()..];
                }
            }
        }
    }
}

/// The frames of a capture from the byte `from` (a mark of its writer) on.
pub fn read(path: &Path, from: u64) -> io::Result<Vec<Frame>> {
    let content = std::fs::read(path)?;
    let from = usize::try_from(from)
        .map_err(io::Error::other)?
        .max(HEADER_LEN);
    let mut rest = content.get(from..).unwrap_or_default();
    let mut frames = Vec::new();
    while rest.len() >= RECORD_HEADER_LEN {
        let len = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
        let Some(frame) = rest.get(RECORD_HEADER_LEN..RECORD_HEADER_LEN + len) else {
            break;
        };
        frames.push(Frame(frame.to_vec()));
        rest = &rest[RECORD_HEADER_LEN + len..];
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP packet of 4 bytes from 10.77.0.1:1000 to 10.77.0.2:2000 with a NOP and an option 158.
    fn frame() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        frame.extend([
            0x47, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2,
        ]);
        frame.extend([1, 158, 4, 7, 8, 0, 0, 0]);
        frame.extend([3, 232, 7, 208, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    #[test]
    fn frames_are_read_back_from_a_mark() {
        let path = std::env::temp_dir().join(format!("dsi-pcap-{}.pcap", std::process::id()));
        let mut writer = Writer::create(&path).unwrap();
        writer.frame(&[1, 2, 3]).unwrap();
        let mark = writer.mark();
        writer.frame(&frame()).unwrap();
        let frames = read(&path, mark).unwrap();
        assert_eq!(read(&path, 0).unwrap().len(), 2);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(frames.len(), 1);
        let packet = frames[0].ipv4().unwrap();
        assert_eq!(packet.ports(), Some((1000, 2000)));
        assert_eq!(packet.option(158), Some(&[158, 4, 7, 8][..]));
        assert_eq!(packet.option(7), None);
        assert_eq!(packet.payload[8..], [1, 2, 3, 4]);
    }

    #[test]
    fn cut_frames_are_no_packets() {
        let frame = frame();
        for len in 0..frame.len() {
            assert_eq!(Frame(frame[..len].to_vec()).ipv4(), None, "{len}");
        }
    }
}
