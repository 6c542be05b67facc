//! The end of the pod.

use rustix::system::{RebootCommand, reboot};

/// Powers the pod off. Nothing is unmounted: what must be on the host was synced with the container's end.
pub(crate) fn power_off() -> ! {
    loop {
        // It fails only without CAP_SYS_BOOT, which PID 1 has; a PID 1 that returned would be a kernel panic.
        let _ = reboot(RebootCommand::PowerOff);
    }
}
