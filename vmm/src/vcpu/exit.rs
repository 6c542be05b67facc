//! What an exit means, without KVM: device accesses go to the bus, ends are ends, the rest is a failure that
//! `failure.rs` describes.

use kvm_ioctls::VcpuExit;
use vm_memory::GuestAddress;

use crate::bus::Bus;
use crate::{End, moment};

use super::failure::FailedRun;
use super::xsave;

/// What the vCPU does next.
pub(crate) enum Outcome {
    /// It goes on.
    Resume,
    /// The guest's kernel wants its extended registers saved or restored.
    ExtendedState(xsave::Request),
    /// The guest's moment, with its page.
    Moment(GuestAddress),
    /// The guest has ended.
    End(End),
    /// Three faults in a row; the registers say where.
    TripleFault,
    /// KVM could not emulate something; the shared page says what.
    InternalError,
    /// The vCPU cannot go on.
    Failed(FailedRun),
}

/// Handles an exit.
pub(crate) fn handle(exit: VcpuExit<'_>, bus: &Bus) -> Outcome {
    match exit {
        VcpuExit::MmioRead(address, data) => bus.read_memory(address, data),
        VcpuExit::MmioWrite(address, data) => bus.write_memory(address, data),
        VcpuExit::IoIn(port, data) => bus.read_port(port, data),
        VcpuExit::IoOut(port, data) => {
            if let Some(request) = xsave::Request::parse(port, data) {
                return Outcome::ExtendedState(request);
            }
            if let Some(page) = moment::parse(port, data) {
                return Outcome::Moment(page);
            }
            if let Some(end) = bus.write_port(port, data) {
                return Outcome::End(end);
            }
        }
        VcpuExit::Intr => {}
        VcpuExit::Shutdown => return Outcome::TripleFault,
        VcpuExit::InternalError => return Outcome::InternalError,
        VcpuExit::FailEntry(reason, _) => return Outcome::Failed(FailedRun::Entry(reason)),
        VcpuExit::MemoryFault { gpa, .. } => return Outcome::Failed(FailedRun::MemoryFault(gpa)),
        other => return Outcome::Failed(FailedRun::Exit(format!("{other:?}"))),
    }
    Outcome::Resume
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crx_virtio::GuestMem;
    use crx_virtio::rng::Rng;
    use crx_virtio::transport::MmioTransport;

    fn bus() -> Bus {
        let memory = GuestMem::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
        let window = || MmioTransport::new(Box::new(Rng::new()), memory.clone()).unwrap();
        Bus::new(vec![window(), window()], None)
    }

    fn read(bus: &Bus, address: u64) -> u32 {
        let mut data = [0; 4];
        assert!(matches!(handle(VcpuExit::MmioRead(address, &mut data), bus), Outcome::Resume));
        u32::from_le_bytes(data)
    }

    #[test]
    fn each_window_is_its_own_device() {
        let bus = bus();
        let acknowledge = 1_u32.to_le_bytes();
        assert!(matches!(handle(VcpuExit::MmioWrite(0xd000_1070, &acknowledge), &bus), Outcome::Resume));
        assert_eq!((read(&bus, 0xd000_0070), read(&bus, 0xd000_1070)), (0, 1));
        assert_eq!(read(&bus, 0xd000_0000), 0x7472_6976);
    }

    #[test]
    fn where_nothing_is_reads_ones_and_ignores_writes() {
        let bus = bus();
        for address in [0, 0xcfff_fffc, 0xd000_2000, 0xfec0_0000, u64::MAX - 3] {
            assert_eq!(read(&bus, address), u32::MAX, "{address:#x}");
            assert!(matches!(handle(VcpuExit::MmioWrite(address, &[0; 4]), &bus), Outcome::Resume));
        }
        let mut data = [0; 2];
        for port in [0x3f8, 0x60, 0x80, 0xcfc, 0xffff] {
            assert!(matches!(handle(VcpuExit::IoIn(port, &mut data), &bus), Outcome::Resume));
            assert_eq!(data, [0xff; 2], "{port:#x}");
            assert!(matches!(handle(VcpuExit::IoOut(port, &[0; 4]), &bus), Outcome::Resume));
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let bus = bus();
        let out = |port, data: &[u8]| handle(VcpuExit::IoOut(port, data), &bus);
        assert!(matches!(out(0x604, &[0, 0x20]), Outcome::End(End::PowerOff)));
        assert!(matches!(out(0x64, &[0xfe]), Outcome::End(End::Reset)));
        assert!(matches!(out(0x508, &[0; 4]), Outcome::ExtendedState(_)));
        assert!(matches!(out(0x50c, &[1, 0, 0, 0]), Outcome::Moment(GuestAddress(4096))));
        assert!(matches!(out(0x506, b"Oops\n"), Outcome::Resume));
        assert!(matches!(out(0x505, &[1]), Outcome::End(End::Panic { log }) if log == "Oops\n"));
        assert!(matches!(handle(VcpuExit::Shutdown, &bus), Outcome::TripleFault));
        assert!(matches!(handle(VcpuExit::InternalError, &bus), Outcome::InternalError));
    }

    #[test]
    fn what_nobody_expects_is_a_failure_with_its_name() {
        let bus = bus();
        let Outcome::Failed(run) = handle(VcpuExit::Unsupported(99), &bus) else { panic!() };
        assert!(run.to_string().contains("Unsupported(99)"), "{run}");
        let Outcome::Failed(run) = handle(VcpuExit::FailEntry(0x21, 0), &bus) else { panic!() };
        assert!(run.to_string().contains("0x21"), "{run}");
        let fault = VcpuExit::MemoryFault { flags: 0, gpa: 0x1234, size: 4096 };
        let Outcome::Failed(run) = handle(fault, &bus) else { panic!() };
        assert!(run.to_string().contains("0x1234"), "{run}");
    }
}
