//! The kernel's command line, word by word: what every guest gets, what the host's profile adds
//! (rootfs/README.md says why), the devices, and what the caller adds.

use crx_virtio::transport::WINDOW_BYTES;

use crate::HostProfile;
use crate::layout::{COMMAND_LINE_MAX_BYTES, FIRST_DEVICE_GSI, MMIO_WINDOWS};

/// Every guest (rootfs/README.md, "Command line").
const WORDS: &str = "panic=-1 oops=panic reboot=k noreplace-smp tsc=reliable swiotlb=noforce rootfstype=ramfs \
                     dummy.numdummies=0 rcupdate.rcu_expedited=1 retain_initrd crx_zeroed_ram";

/// Guests on the PVM backend (rootfs/README.md, "Command line").
const PVM_WORDS: &str = "crx_pvm crx_pvm_xsave clocksource=kvm-clock rodata=off mitigations=off";

/// With a debug console: from the first line on.
const CONSOLE_WORDS: &str = "console=ttyS0 earlyprintk=ttyS0";

/// Without one: nothing to print to, no port to look for, and of the boot only warnings and worse are kept.
const QUIET_WORDS: &str = "quiet printk_boot_level=4 8250.nr_uarts=0";

/// A command line that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// Longer than the kernel reads.
    #[error("kernel command line of {0} bytes: the kernel reads {max}", max = COMMAND_LINE_MAX_BYTES - 1)]
    TooLong(usize),
    /// A word that would end the line or is not text that a kernel parses.
    #[error("kernel command line word {0:?}: must be printable ASCII")]
    Word(String),
}

/// A command line within the kernel's limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandLine(Vec<u8>);

impl CommandLine {
    /// Puts the words together.
    pub(crate) fn new(
        profile: HostProfile,
        console: bool,
        devices: usize,
        extra: &[String],
    ) -> Result<Self, CommandLineError> {
        let mut line = String::from(WORDS);
        let mut add = |words: &str| {
            line.push(' ');
            line.push_str(words);
        };
        add(if console { CONSOLE_WORDS } else { QUIET_WORDS });
        if profile == HostProfile::Pvm {
            add(PVM_WORDS);
        }
        for index in 0..devices {
            // Documentation/admin-guide/kernel-parameters.txt, virtio_mmio.device=<size>@<base>:<irq>
            let base = MMIO_WINDOWS + index as u64 * WINDOW_BYTES;
            let gsi = u64::from(FIRST_DEVICE_GSI) + index as u64;
            add(&format!("virtio_mmio.device={WINDOW_BYTES:#x}@{base:#x}:{gsi}"));
        }
        for word in extra {
            if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
                return Err(CommandLineError::Word(word.clone()));
            }
            add(word);
        }
        if line.len() >= COMMAND_LINE_MAX_BYTES {
            return Err(CommandLineError::TooLong(line.len()));
        }
        let mut bytes = line.into_bytes();
        bytes.push(0);
        Ok(Self(bytes))
    }

    /// As the kernel reads it.
    pub(crate) fn with_nul(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn line(profile: HostProfile, console: bool, devices: usize) -> String {
        let line = CommandLine::new(profile, console, devices, &[]).unwrap();
        String::from_utf8(line.with_nul().strip_suffix(&[0]).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_hardware_host_pays_for_nothing() {
        let plain = line(HostProfile::Hardware, false, 0);
        assert!(!plain.contains("crx_pvm") && !plain.contains("mitigations") && !plain.contains("console"));
        assert_eq!(line(HostProfile::Pvm, false, 0), format!("{plain} {PVM_WORDS}"));
    }

    #[test]
    fn a_debug_console_shows_the_whole_boot() {
        for word in QUIET_WORDS.split(' ') {
            assert!(line(HostProfile::Pvm, false, 0).contains(word));
            assert!(!line(HostProfile::Pvm, true, 0).contains(word));
        }
    }

    #[test]
    fn devices_are_named_by_window_and_line() {
        let line = line(HostProfile::Hardware, false, 2);
        assert!(
            line.ends_with(" virtio_mmio.device=0x1000@0xd0000000:5 virtio_mmio.device=0x1000@0xd0001000:6")
        );
    }

    #[test]
    fn all_devices_fit() {
        assert!(line(HostProfile::Pvm, true, crate::layout::MAX_DEVICES).len() < COMMAND_LINE_MAX_BYTES);
    }

    #[test]
    fn a_line_that_the_kernel_would_cut_is_refused() {
        let room = COMMAND_LINE_MAX_BYTES - 1 - line(HostProfile::Hardware, false, 0).len() - 1;
        let extra = |bytes: usize| {
            CommandLine::new(HostProfile::Hardware, false, 0, &["x".repeat(bytes)]).map(|line| line.0.len())
        };
        assert_eq!(extra(room), Ok(COMMAND_LINE_MAX_BYTES));
        assert_eq!(extra(room + 1), Err(CommandLineError::TooLong(COMMAND_LINE_MAX_BYTES)));
    }

    #[test]
    fn words_that_would_break_the_line_are_refused() {
        for word in ["", "a\0b", "a\nb", "\u{e9}"] {
            let error = CommandLine::new(HostProfile::Hardware, false, 0, &[word.to_owned()]).unwrap_err();
            assert_eq!(error, CommandLineError::Word(word.to_owned()));
        }
    }
}
