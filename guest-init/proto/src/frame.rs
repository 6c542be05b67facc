//! Frames: a little-endian `u32` length, then that many bytes of postcard.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::MAX_FRAME_BYTES;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed the connection between two frames.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed, or ended inside a frame.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The length in front of a frame is over the limit; the connection cannot be used any more.
    #[error("a frame of {length_bytes} bytes is over the limit of {MAX_FRAME_BYTES}")]
    TooLong {
        /// The length that was announced.
        length_bytes: usize,
    },
    /// The bytes are no message of this version.
    #[error("a frame does not decode")]
    Malformed(#[source] postcard::Error),
}

/// Encodes one message with its length in front.
///
/// # Errors
/// [`FrameError::TooLong`] if it is over [`MAX_FRAME_BYTES`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; 4]).map_err(FrameError::Malformed)?;
    let length_bytes = bytes.len() - 4;
    if length_bytes > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong { length_bytes });
    }
    bytes[..4].copy_from_slice(&(length_bytes as u32).to_le_bytes());
    Ok(bytes)
}

/// Writes one message, with a single `write` if the connection takes it whole.
///
/// # Errors
/// Those of [`encode`], and [`FrameError::Io`].
pub fn write<T: Serialize>(mut to: impl Write, message: &T) -> Result<(), FrameError> {
    to.write_all(&encode(message)?).map_err(FrameError::Io)
}

/// Reads one message.
///
/// # Errors
/// [`FrameError::Closed`] at an end of file between frames, the others as their names say.
pub fn read<T: DeserializeOwned>(mut from: impl Read) -> Result<T, FrameError> {
    let mut length = [0; 4];
    match from.read(&mut length) {
        Ok(0) => return Err(FrameError::Closed),
        Ok(got) => from.read_exact(&mut length[got..]).map_err(FrameError::Io)?,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            from.read_exact(&mut length).map_err(FrameError::Io)?;
        }
        Err(error) => return Err(FrameError::Io(error)),
    }
    let length_bytes = u32::from_le_bytes(length) as usize;
    if length_bytes > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong { length_bytes });
    }
    let mut body = vec![0; length_bytes];
    from.read_exact(&mut body).map_err(FrameError::Io)?;
    postcard::from_bytes(&body).map_err(FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ExitStatus, GuestMessage, HostMessage, ProcessId};

    #[test]
    fn a_message_survives_the_way() {
        let status = ExitStatus::Signaled { signal: 9, out_of_memory: true };
        let message = GuestMessage::Exited { process: ProcessId(1), status };
        let bytes = encode(&message).expect("short");
        assert_eq!(read::<GuestMessage>(&bytes[..]).expect("whole"), message);
    }

    #[test]
    fn an_end_between_frames_is_told_from_one_inside() {
        let bytes = encode(&HostMessage::Start(ProcessId(15))).expect("short");
        assert!(matches!(read::<HostMessage>(&bytes[..0]), Err(FrameError::Closed)));
        for cut in 1..bytes.len() {
            assert!(matches!(read::<HostMessage>(&bytes[..cut]), Err(FrameError::Io(_))), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_is_allocated() {
        let bytes = u32::MAX.to_le_bytes();
        assert!(matches!(read::<HostMessage>(&bytes[..]), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        let bytes = [1, 0, 0, 0, 0xff];
        assert!(matches!(read::<HostMessage>(&bytes[..]), Err(FrameError::Malformed(_))));
    }

    #[test]
    fn what_is_too_long_is_not_sent() {
        let message = GuestMessage::Log("x".repeat(MAX_FRAME_BYTES + 1));
        assert!(matches!(encode(&message), Err(FrameError::TooLong { .. })));
    }
}
