//! The debug console: a 16450 that only transmits, always ready, so that the guest's kernel can print from
//! its first line on. It exists only when a debug console was asked for.

use std::fs::File;
use std::io::Write;

use vmm_sys_util::eventfd::EventFd;

/// Registers (16550D data sheet, table 2). With the divisor latch open, 0 and 1 are the divisor.
const TRANSMIT: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const INTERRUPT_ID: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const MODEM_STATUS: u16 = 6;
const SCRATCH: u16 = 7;

/// LINE_CONTROL: registers 0 and 1 are the divisor latch.
const DIVISOR_LATCH: u8 = 0x80;
/// INTERRUPT_ENABLE: an interrupt when the transmitter is empty; bits that exist.
const TRANSMITTER_EMPTY_INTERRUPT: u8 = 0x02;
const INTERRUPT_ENABLE_BITS: u8 = 0x0f;
/// INTERRUPT_ID: nothing; the transmitter is empty.
const NO_INTERRUPT: u8 = 0x01;
const TRANSMITTER_EMPTY: u8 = 0x02;
/// LINE_STATUS: transmitter and its holding register are empty, always.
const READY: u8 = 0x60;
/// MODEM_CONTROL: loopback, in which the outputs (low nibble) show up as inputs.
const LOOPBACK: u8 = 0x10;
/// MODEM_STATUS: carrier, data set ready, clear to send.
const CONNECTED: u8 = 0xb0;

/// The port.
pub(crate) struct Serial {
    output: File,
    line: EventFd,
    interrupt_enable: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: [u8; 2],
    empty_pending: bool,
}

impl Serial {
    /// A port that writes to `output` and interrupts through `line`.
    pub(crate) fn new(output: File, line: EventFd) -> Self {
        Self {
            output,
            line,
            interrupt_enable: 0,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            divisor: [0; 2],
            empty_pending: false,
        }
    }

    /// A read of a register.
    pub(crate) fn read(&mut self, register: u16) -> u8 {
        match register {
            TRANSMIT | INTERRUPT_ENABLE if self.latch_open() => self.divisor[usize::from(register)],
            INTERRUPT_ENABLE => self.interrupt_enable,
            INTERRUPT_ID => {
                if std::mem::take(&mut self.empty_pending) {
                    TRANSMITTER_EMPTY
                } else {
                    NO_INTERRUPT
                }
            }
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS => READY,
            MODEM_STATUS if self.modem_control & LOOPBACK != 0 => self.looped_back(),
            MODEM_STATUS => CONNECTED,
            SCRATCH => self.scratch,
            _ => 0,
        }
    }

    /// A write to a register.
    pub(crate) fn write(&mut self, register: u16, value: u8) {
        match register {
            TRANSMIT | INTERRUPT_ENABLE if self.latch_open() => self.divisor[usize::from(register)] = value,
            TRANSMIT => {
                if self.modem_control & LOOPBACK == 0 {
                    // Nobody reads the console any more: the guest goes on without it.
                    let _ = self.output.write_all(&[value]);
                }
                self.transmitted();
            }
            INTERRUPT_ENABLE => {
                self.interrupt_enable = value & INTERRUPT_ENABLE_BITS;
                self.transmitted();
            }
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value,
            SCRATCH => self.scratch = value,
            _ => {}
        }
    }

    fn latch_open(&self) -> bool {
        self.line_control & DIVISOR_LATCH != 0
    }

    /// DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD.
    fn looped_back(&self) -> u8 {
        let out = self.modem_control;
        (out & 0x0c) << 4 | (out & 0x01) << 5 | (out & 0x02) << 3
    }

    /// The transmitter is empty again at once.
    fn transmitted(&mut self) {
        if self.interrupt_enable & TRANSMITTER_EMPTY_INTERRUPT != 0 {
            self.empty_pending = true;
            // A full counter is an interrupt that is still on its way.
            let _ = self.line.write(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Seek};

    use vmm_sys_util::eventfd::EFD_NONBLOCK;
    use vmm_sys_util::tempfile::TempFile;

    use super::*;

    fn serial() -> (Serial, File, EventFd) {
        let file = TempFile::new().unwrap().into_file();
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        (Serial::new(file.try_clone().unwrap(), line.try_clone().unwrap()), file, line)
    }

    #[test]
    fn prints_what_is_transmitted() {
        let (mut serial, mut file, line) = serial();
        serial.write(LINE_CONTROL, DIVISOR_LATCH);
        serial.write(TRANSMIT, 1);
        serial.write(LINE_CONTROL, 3);
        for byte in b"hello\n" {
            assert_eq!(serial.read(LINE_STATUS), READY);
            serial.write(TRANSMIT, *byte);
        }
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
        assert!(line.read().is_err(), "no interrupt unless enabled");
    }

    #[test]
    fn passes_the_tests_of_linux_autoconfig() {
        let (mut serial, ..) = serial();
        serial.write(INTERRUPT_ENABLE, 0);
        assert_eq!(serial.read(INTERRUPT_ENABLE), 0);
        serial.write(INTERRUPT_ENABLE, 0x0f);
        assert_eq!(serial.read(INTERRUPT_ENABLE), 0x0f);
        serial.write(MODEM_CONTROL, LOOPBACK | 0x0a);
        assert_eq!(serial.read(MODEM_STATUS) & 0xf0, 0x90);
        serial.write(SCRATCH, 0xa5);
        assert_eq!(serial.read(SCRATCH), 0xa5);
        assert_eq!(serial.read(INTERRUPT_ID) & 0xc0, 0, "no FIFO");
    }

    #[test]
    fn interrupts_when_the_transmitter_is_empty() {
        let (mut serial, _file, line) = serial();
        serial.write(INTERRUPT_ENABLE, TRANSMITTER_EMPTY_INTERRUPT);
        assert_eq!(line.read().unwrap(), 1);
        assert_eq!(serial.read(INTERRUPT_ID), TRANSMITTER_EMPTY);
        assert_eq!(serial.read(INTERRUPT_ID), NO_INTERRUPT, "reading takes it back");
        serial.write(TRANSMIT, b'x');
        assert_eq!(line.read().unwrap(), 1);
    }
}
