//! The ports by which a guest ends (rootfs/kernel, driver `crx_platform`, and x86's keyboard controller
//! reset): power-off, reset, and a panic with the last lines of its log.

use crate::End;

/// 0x2000, 16 bits: power-off.
const POWER_OFF_PORT: u16 = 0x604;
const POWER_OFF: [u8; 2] = 0x2000_u16.to_le_bytes();

/// 1, 8 bits: the guest panicked.
const PANIC_PORT: u16 = 0x505;
const PANIC: [u8; 1] = [1];

/// The last lines of the guest's log, before the panic.
const LOG_PORT: u16 = 0x506;

/// The keyboard controller: its command 0xfe pulses the reset line; read, it says what it is busy with.
const KEYBOARD_PORT: u16 = 0x64;
const PULSE_RESET: [u8; 1] = [0xfe];

/// Most bytes of a panic's log that are kept, the last ones: the guest decides how much it sends.
const MAX_LOG_BYTES: usize = 16 * 1024;

/// What the guest said before its panic.
#[derive(Default)]
pub(crate) struct Platform {
    log: Vec<u8>,
}

impl Platform {
    /// The keyboard controller is never busy, so that a reset does not wait for it.
    pub(crate) fn read(port: u16) -> Option<u8> {
        (port == KEYBOARD_PORT).then_some(0)
    }

    /// A write; the end if it is one.
    pub(crate) fn write(&mut self, port: u16, data: &[u8]) -> Option<End> {
        match port {
            POWER_OFF_PORT if data == POWER_OFF => Some(End::PowerOff),
            KEYBOARD_PORT if data == PULSE_RESET => Some(End::Reset),
            PANIC_PORT if data == PANIC => {
                let log = String::from_utf8_lossy(&std::mem::take(&mut self.log)).into_owned();
                Some(End::Panic { log })
            }
            LOG_PORT => {
                self.keep(data);
                None
            }
            _ => None,
        }
    }

    fn keep(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(MAX_LOG_BYTES)..];
        let excess = (self.log.len() + data.len()).saturating_sub(MAX_LOG_BYTES);
        self.log.drain(..excess);
        self.log.extend_from_slice(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_value() {
        let mut platform = Platform::default();
        assert!(matches!(platform.write(0x604, &[0, 0x20]), Some(End::PowerOff)));
        assert!(matches!(platform.write(0x64, &[0xfe]), Some(End::Reset)));
        assert!(matches!(platform.write(0x505, &[1]), Some(End::Panic { log }) if log.is_empty()));
    }

    #[test]
    fn other_values_and_sizes_are_nothing() {
        let mut platform = Platform::default();
        for (port, data) in [
            (0x604, &[0x20][..]),
            (0x604, &[0, 0x24]),
            (0x604, &[0, 0x20, 0, 0]),
            (0x64, &[0xd1]),
            (0x505, &[0]),
            (0x505, &[]),
            (0x80, &[1]),
        ] {
            assert!(platform.write(port, data).is_none(), "{port:#x} {data:?}");
        }
    }

    #[test]
    fn a_panic_keeps_the_last_16_kib() {
        let mut platform = Platform::default();
        for _ in 0..3 {
            assert!(platform.write(0x506, &[b'a'; 10_000]).is_none());
        }
        assert!(platform.write(0x506, b"not syncing\n").is_none());
        let Some(End::Panic { log }) = platform.write(0x505, &[1]) else { panic!("no panic") };
        assert_eq!(log.len(), MAX_LOG_BYTES);
        assert!(log.ends_with("aanot syncing\n"));
        assert!(platform.write(0x506, &[b'b'; 2 * MAX_LOG_BYTES]).is_none());
        assert!(
            matches!(platform.write(0x505, &[1]), Some(End::Panic { log }) if log.len() == MAX_LOG_BYTES)
        );
    }

    #[test]
    fn a_log_that_is_no_text_is_shown_as_far_as_it_is() {
        let mut platform = Platform::default();
        assert!(platform.write(0x506, b"x\xff\xfey").is_none());
        assert!(matches!(platform.write(0x505, &[1]), Some(End::Panic { log }) if log.starts_with('x')));
    }
}
