//! The loop of a vCPU thread: enter the guest, handle the exit, until an end or a stop.

use std::sync::atomic::{AtomicBool, Ordering};

use kvm_ioctls::VcpuFd;

use super::Shared;
use super::exit::{self, Outcome};
use super::failure::{FailedRun, VcpuError, VcpuState};
use crate::{End, HostProfile, sys};

/// `fwait`, which the PVM backend's emulator refuses. Linux uses it to flush pending x87 exceptions, of which
/// kernel code has none.
const FWAIT: u8 = 0x9b;

/// Runs a vCPU. `None` when it was stopped.
pub(super) fn run(index: u8, vcpu: &mut VcpuFd, shared: &Shared, stopping: &AtomicBool) -> Option<End> {
    while !stopping.load(Ordering::SeqCst) {
        let outcome = match vcpu.run() {
            Ok(exit) => exit::handle(exit, &shared.bus),
            Err(error) => match error.errno() {
                // A kick; or a vCPU that waited in the kernel for its start-up IPI and was woken.
                libc::EINTR | libc::EAGAIN => Outcome::Resume,
                _ => Outcome::Failed(FailedRun::Call(error)),
            },
        };
        match outcome {
            Outcome::Resume => {}
            // Real hardware has the instructions; there the ports are not there either.
            Outcome::ExtendedState(_) if shared.profile != HostProfile::Pvm => {}
            Outcome::ExtendedState(request) => {
                if let Err(run) = request.serve(vcpu, &shared.memory) {
                    let state = VcpuState::read(vcpu, &shared.memory, vec![]);
                    return Some(End::Failed(VcpuError { vcpu: index, run, state }));
                }
            }
            Outcome::Moment(page) => match &shared.arrival {
                None => return Some(End::Moment { page: page.0 }),
                Some(arrival) => {
                    if let Err(error) = arrival.tell(&shared.memory, page) {
                        let state = VcpuState::read(vcpu, &shared.memory, vec![]);
                        return Some(End::Failed(VcpuError {
                            vcpu: index,
                            run: FailedRun::Moment(error.kind()),
                            state,
                        }));
                    }
                }
            },
            Outcome::End(end) => return Some(end),
            Outcome::TripleFault => {
                return Some(End::TripleFault {
                    vcpu: index,
                    state: VcpuState::read(vcpu, &shared.memory, vec![]),
                });
            }
            Outcome::InternalError => {
                if let Err(error) = internal_error(index, vcpu, shared) {
                    return Some(End::Failed(error));
                }
            }
            Outcome::Failed(run) => {
                let state = VcpuState::read(vcpu, &shared.memory, vec![]);
                return Some(End::Failed(VcpuError { vcpu: index, run, state }));
            }
        }
    }
    None
}

/// KVM gave up on an instruction: the end, except for the one that is stepped over.
fn internal_error(index: u8, vcpu: &mut VcpuFd, shared: &Shared) -> Result<(), VcpuError> {
    let (run, instruction) = match sys::internal_error(vcpu) {
        Some(error) => (FailedRun::internal(error.suberror, error.data), error.instruction),
        None => (FailedRun::Internal(0, vec![]), vec![]),
    };
    let state = VcpuState::read(vcpu, &shared.memory, instruction);
    let refused = shared.profile == HostProfile::Pvm
        && run == FailedRun::Emulation
        && state.instruction.first() == Some(&FWAIT);
    if refused && step_over(vcpu).is_ok() {
        return Ok(());
    }
    Err(VcpuError { vcpu: index, run, state })
}

/// Goes on behind an instruction of one byte.
fn step_over(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut regs = vcpu.get_regs()?;
    regs.rip = regs.rip.wrapping_add(1);
    vcpu.set_regs(&regs)
}
