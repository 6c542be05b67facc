//! The file that a snapshot is kept in: a header of fixed layout, and the state behind it. The memory is a file of its own.
//!
//! ```text
//! offset  bytes            offset  bytes
//!      0  8  "CRXSNAPS"        40  4  CRC-32 of the memory
//!      8  4  version           44  4  size of the state
//!     12  4  size, 128         48  4  CRC-32 of the state
//!     16  4  memory in MiB     56  8  seconds since the epoch
//!     20  4  processors        64 32  what it was made of and for
//!     24  8  bytes of memory with content
//!     32  8  size of the memory file
//!                             124  4  CRC-32 of the header before it
//! ```
//! All little endian. The state is postcard of [`super::State`]; the structures of KVM in it are their own bytes.

/// First bytes of the file.
const MAGIC: [u8; 8] = *b"CRXSNAPS";

/// Raised by every change of the header or of anything in the state.
pub const FORMAT_VERSION: u32 = 1;

/// Size of the header.
pub const HEADER_BYTES: usize = 128;

/// Most bytes of a state that are read: it has some 12 KiB.
const MAX_STATE_BYTES: u32 = 1 << 20;

/// What can be known of a snapshot without decoding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Guest memory.
    pub memory_mib: u32,
    /// Processors that a pod from it can have.
    pub vcpus: u32,
    /// Bytes of its memory that are not zero, in whole parts.
    pub content_bytes: u64,
    /// Size of the memory file.
    pub memory_file_bytes: u64,
    /// CRC-32 of the content.
    pub memory_checksum: u32,
    /// Size of the state.
    pub state_bytes: u32,
    /// CRC-32 of the state.
    pub state_checksum: u32,
    /// When it was made, in seconds since the epoch.
    pub created_s: u64,
    /// What it was made of and for, as its maker calls it.
    pub label: [u8; 32],
}

/// A file that holds no snapshot that this program can use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It ends too early.
    #[error("it is cut short")]
    Short,
    /// It is something else.
    #[error("it is no snapshot")]
    Magic,
    /// Another version of the format.
    #[error("it has version {0} of the format; this crx reads {FORMAT_VERSION}")]
    Version(u32),
    /// Its bytes are not those that were written.
    #[error("its {0} is damaged")]
    Damaged(&'static str),
}

impl Header {
    /// The header's bytes.
    pub(crate) fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC);
        put(8, &FORMAT_VERSION.to_le_bytes());
        put(12, &(HEADER_BYTES as u32).to_le_bytes());
        put(16, &self.memory_mib.to_le_bytes());
        put(20, &self.vcpus.to_le_bytes());
        put(24, &self.content_bytes.to_le_bytes());
        put(32, &self.memory_file_bytes.to_le_bytes());
        put(40, &self.memory_checksum.to_le_bytes());
        put(44, &self.state_bytes.to_le_bytes());
        put(48, &self.state_checksum.to_le_bytes());
        put(56, &self.created_s.to_le_bytes());
        put(64, &self.label);
        let checksum = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// There is none, or it is not as it was written.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(FormatError::Magic);
        }
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(FormatError::Short)?;
        let u32_at = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let u64_at = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let version = u32_at(8);
        if version != FORMAT_VERSION {
            return Err(FormatError::Version(version));
        }
        if u32_at(HEADER_BYTES - 4) != crc32fast::hash(&header[..HEADER_BYTES - 4]) {
            return Err(FormatError::Damaged("header"));
        }
        let mut label = [0; 32];
        label.copy_from_slice(&header[64..96]);
        Ok(Self {
            memory_mib: u32_at(16),
            vcpus: u32_at(20),
            content_bytes: u64_at(24),
            memory_file_bytes: u64_at(32),
            memory_checksum: u32_at(40),
            state_bytes: u32_at(44),
            state_checksum: u32_at(48),
            created_s: u64_at(56),
            label,
        })
    }

    /// The state behind the header.
    pub(crate) fn state_in<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], FormatError> {
        if self.state_bytes > MAX_STATE_BYTES {
            return Err(FormatError::Damaged("header"));
        }
        let state =
            bytes.get(HEADER_BYTES..HEADER_BYTES + self.state_bytes as usize).ok_or(FormatError::Short)?;
        if crc32fast::hash(state) != self.state_checksum {
            return Err(FormatError::Damaged("state"));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn header() -> Header {
        Header {
            memory_mib: 256,
            vcpus: 8,
            content_bytes: 0x0123_4567,
            memory_file_bytes: 0x0fed_c000,
            memory_checksum: 0xaabb_ccdd,
            state_bytes: 3,
            state_checksum: crc32fast::hash(b"abc"),
            created_s: 1_790_000_000,
            label: [7; 32],
        }
    }

    #[test]
    fn the_layout_of_the_header_is_the_documented_one() {
        let bytes = header().to_bytes();
        assert_eq!(bytes[..16], *b"CRXSNAPS\x01\0\0\0\x80\0\0\0");
        assert_eq!(bytes[16..40], *b"\0\x01\0\0\x08\0\0\0\x67\x45\x23\x01\0\0\0\0\0\xc0\xed\x0f\0\0\0\0");
        assert_eq!(bytes[40..48], *b"\xdd\xcc\xbb\xaa\x03\0\0\0");
        assert_eq!(bytes[64..96], [7; 32]);
        assert_eq!(Header::parse(&bytes).unwrap(), header());
    }

    #[test]
    fn every_flipped_bit_of_header_and_state_is_noticed() {
        let mut bytes = header().to_bytes().to_vec();
        bytes.extend(b"abc");
        let read =
            |bytes: &[u8]| Header::parse(bytes).and_then(|header| header.state_in(bytes).map(<[u8]>::to_vec));
        assert_eq!(read(&bytes).unwrap(), b"abc");
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = header().to_bytes();
        bytes[8] = 9;
        assert_eq!(Header::parse(&bytes), Err(FormatError::Version(9)));
        assert_eq!(Header::parse(b"\x7fELF"), Err(FormatError::Magic));
    }
}
