//! The system calls that have no safe wrapper, and the process's entry point. All `unsafe` of PID 1 is here;
//! callers see owned descriptors, `io::Result` and plain numbers.

#![allow(unsafe_code)]

use std::arch::asm;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use crx_proto::{Rlimit, SockFilter};

/// Stack of a container's process until it executes its program; only touched pages cost anything.
const CHILD_STACK_BYTES: usize = 512 << 10;

/// The entry point. The standard library's own start-up (a dozen system calls for signal stacks and standard
/// descriptors) is left out: PID 1 has no use for it.
#[cfg(not(test))]
// SAFETY: `main` is the symbol that the C runtime calls, with this signature's return type; it is defined once.
#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    crate::boot()
}

/// CLONE_INTO_CGROUP of linux/sched.h, a flag of clone3(2) alone.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Turns the result of a system call through libc into a `Result`.
fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A cloned process.
pub(crate) struct Child {
    /// Its process ID in the caller's PID namespace.
    pub(crate) pid: u32,
    /// A descriptor of it.
    pub(crate) pidfd: OwnedFd,
}

/// What [`child_entry`] runs: a thin pointer to the closure's fat one.
type ChildBody<'a> = &'a mut dyn FnMut();

/// First function of the cloned process, on its own stack.
extern "C" fn child_entry(body: *mut ChildBody<'_>) -> ! {
    // SAFETY: `spawn` passes a pointer to its own live variable; either it sleeps until this process has gone on
    // to another program or has exited, or this process has a copy: nothing else uses the closure meanwhile.
    let body = unsafe { &mut *body };
    body();
    // SAFETY: ends this process without running the parent's exit handlers.
    unsafe { libc::_exit(1) }
}

/// Whose memory a cloned process has until it executes its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// The caller's, as with `vfork`: the caller sleeps until the process has executed a program or exited. What
    /// the process writes to captured variables is therefore there afterwards, and no page is copied for it.
    Shared,
    /// A copy, as with `fork`: both go on. The caller must be the only thread of its process.
    Own,
}

/// Clones a process with `flags` (CLONE_NEW*) and into `cgroup`, which runs `body`. `body` returns only to exit.
pub(crate) fn spawn(
    flags: u64,
    cgroup: BorrowedFd<'_>,
    memory: Memory,
    mut body: ChildBody<'_>,
) -> io::Result<Child> {
    // SAFETY: a new anonymous mapping touches no other memory.
    let stack = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        libc::mmap(ptr::null_mut(), CHILD_STACK_BYTES, protection, kind, -1, 0)
    };
    if stack == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut pidfd: c_int = -1;
    let shared = if memory == Memory::Shared { libc::CLONE_VM | libc::CLONE_VFORK } else { 0 };
    let arguments = libc::clone_args {
        flags: flags | (shared | libc::CLONE_PIDFD) as u64 | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack as u64,
        stack_size: CHILD_STACK_BYTES as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.as_raw_fd() as u64,
    };
    let entry: extern "C" fn(*mut ChildBody<'_>) -> ! = child_entry;
    let mut pid: i64;
    // SAFETY: the child starts at the instruction after `syscall` with a stack of its own (16-byte aligned, empty),
    // so it cannot disturb this frame; it calls `child_entry`, which never returns. The parent sleeps until the
    // child is done with the shared memory (CLONE_VFORK), or the child has its own copy of all of it; the parent
    // then jumps over the call with every register as it was.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => pid,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") &raw mut body,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    // SAFETY: the mapping of above, which nothing uses any more: the child has left it, or has its own.
    unsafe { libc::munmap(stack, CHILD_STACK_BYTES) };
    if pid < 0 {
        return Err(io::Error::from_raw_os_error(-pid as i32));
    }
    // SAFETY: the kernel stored a new descriptor there (CLONE_PIDFD), and nobody else knows it.
    Ok(Child { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Strings as `execve` takes them: an array of pointers that ends in a null pointer.
pub(crate) struct StringArray {
    /// Owns what `pointers` points to.
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl StringArray {
    /// The array of `strings`.
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Self { strings, pointers }
    }

    /// The first string.
    pub(crate) fn first(&self) -> Option<&CStr> {
        self.strings.first().map(CString::as_c_str)
    }
}

/// Executes `program`; returns only if that fails.
pub(crate) fn execve(program: &CStr, arguments: &StringArray, environment: &StringArray) -> io::Error {
    // SAFETY: all three are nul-terminated and live across the call.
    unsafe { libc::execve(program.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Changes attributes (MOUNT_ATTR_*) and propagation (MS_*) of the mount that `mount` is the root of.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    // SAFETY: the path and the structure live across the call, and the size given is the structure's.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Sets a resource limit of this process.
pub(crate) fn set_rlimit(limit: &Rlimit) -> io::Result<()> {
    let value = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: the structure lives across the call; a null pointer asks for no old value.
    check(unsafe {
        let none = ptr::null_mut::<libc::rlimit64>();
        libc::syscall(libc::SYS_prlimit64, 0, limit.resource, &raw const value, none)
    })?;
    Ok(())
}

/// Raises a hard limit of the process `pid` (0 is this one) to `hard`, unless it is as high; the soft one stays.
pub(crate) fn raise_hard_limit(pid: u32, resource: u32, hard: u64) -> io::Result<()> {
    let mut value = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives across both calls; null pointers ask for no new and no old value.
    unsafe {
        let (set_nothing, get_nothing) = (ptr::null::<libc::rlimit64>(), ptr::null_mut::<libc::rlimit64>());
        check(libc::syscall(libc::SYS_prlimit64, pid, resource, set_nothing, &raw mut value))?;
        if value.rlim_max < hard {
            value.rlim_max = hard;
            check(libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const value, get_nothing))?;
        }
    }
    Ok(())
}

/// ioprio_set(2) on the process `pid`; 0 is this one.
pub(crate) fn set_io_priority(pid: u32, value: u16) -> io::Result<()> {
    /// IOPRIO_WHO_PROCESS of linux/ioprio.h.
    const WHO_PROCESS: c_int = 1;
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, pid, c_int::from(value)) })?;
    Ok(())
}

/// Installs a seccomp filter on this process.
pub(crate) fn install_seccomp(flags: u32, program: &[SockFilter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program =
        libc::sock_fprog { len: length, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: SockFilter is repr(C) with the fields of sock_filter; the kernel only reads `len` of them.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    Ok(())
}

/// The fields of `union bpf_attr` (linux/bpf.h) for BPF_PROG_LOAD, up to the last one used.
#[repr(C)]
struct BpfLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    program_flags: u32,
    program_name: [u8; 16],
    interface_index: u32,
    expected_attach_type: u32,
}

/// The fields of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct BpfAttach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// bpf(2).
fn bpf<T>(command: c_int, attributes: &T) -> io::Result<c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes, which `attributes` has, and what they point to lives in the
    // callers.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) })
}

/// BPF_CGROUP_DEVICE of linux/bpf.h.
const BPF_CGROUP_DEVICE: u32 = 6;

/// Loads a device program (BPF_PROG_TYPE_CGROUP_DEVICE) of encoded instructions.
pub(crate) fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    /// BPF_PROG_LOAD and BPF_PROG_TYPE_CGROUP_DEVICE of linux/bpf.h.
    const LOAD: c_int = 5;
    const CGROUP_DEVICE: u32 = 15;
    let attributes = BpfLoad {
        program_type: CGROUP_DEVICE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        program_flags: 0,
        program_name: *b"crx_devices\0\0\0\0\0",
        interface_index: 0,
        expected_attach_type: BPF_CGROUP_DEVICE,
    };
    let program = bpf(LOAD, &attributes)?;
    // SAFETY: the call returned a new descriptor (the kernel makes it close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(program as c_int) })
}

/// Attaches a device program to a cgroup.
pub(crate) fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    /// BPF_PROG_ATTACH and BPF_F_ALLOW_MULTI of linux/bpf.h.
    const ATTACH: c_int = 8;
    const ALLOW_MULTI: u32 = 2;
    let attributes = BpfAttach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(ATTACH, &attributes)?;
    Ok(())
}

/// Blocks SIGCHLD and returns a descriptor that is readable while one is pending.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: an all-zero signal set is valid, and the calls get pointers to live ones.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(c_long::from(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut())))?;
        let fd =
            check(c_long::from(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)))?;
        Ok(OwnedFd::from_raw_fd(fd as c_int))
    }
}

/// Unblocks every signal.
pub(crate) fn unblock_signals() {
    // SAFETY: an all-zero signal set is valid and empty; setting the mask from a live set cannot fail.
    unsafe {
        let set: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// Sends a signal by number (real-time ones included) to the process of a pidfd.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: u8) -> io::Result<()> {
    // SAFETY: a null pointer for the siginfo asks for the same one as kill(2) has.
    check(unsafe {
        let none = ptr::null::<c_void>();
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), c_int::from(signal), none, 0)
    })?;
    Ok(())
}

/// Sends a signal by number to a process of this PID namespace.
pub(crate) fn kill(pid: u32, signal: u8) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(c_long::from(unsafe { libc::kill(pid as libc::pid_t, c_int::from(signal)) }))?;
    Ok(())
}

/// Closes every descriptor above the standard ones that is not in `keep`.
pub(crate) fn close_others(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    keep.push(u32::MAX);
    let mut first = 3;
    for kept in keep {
        if first < kept {
            let last = if kept == u32::MAX { kept } else { kept - 1 };
            // SAFETY: takes numbers only. It is called in a cloned process with memory of its own, which executes a
            // program or exits: no owner of a closed descriptor is used or dropped there.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        first = kept.saturating_add(1);
    }
    Ok(())
}

/// Opens a stream socket to the host over vsock. Without `wait` the connection is under way when this returns; it
/// is there when the socket polls writable.
pub(crate) fn vsock_connect(port: u32, wait: bool) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | if wait { 0 } else { libc::SOCK_NONBLOCK };
    // SAFETY: socket(2) takes numbers and returns a new descriptor; connect(2) reads the live structure whose size
    // is given, for which all-zero bytes are valid.
    unsafe {
        let socket =
            OwnedFd::from_raw_fd(check(c_long::from(libc::socket(libc::AF_VSOCK, kind, 0)))? as c_int);
        let mut address: libc::sockaddr_vm = std::mem::zeroed();
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_port = port;
        address.svm_cid = libc::VMADDR_CID_HOST;
        let size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        match check(c_long::from(libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size))) {
            Err(error) if !wait && error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
            Err(error) => Err(error),
            Ok(_) => Ok(socket),
        }
    }
}

/// Sets the interface `lo` up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: an all-zero ifreq is valid; the ioctl reads the name and the flags of the live structure.
    unsafe {
        let socket =
            check(c_long::from(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)))?;
        let socket = OwnedFd::from_raw_fd(socket as c_int);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as c_char;
        request.ifr_name[1] = b'o' as c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(c_long::from(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)))?;
    }
    Ok(())
}

/// What is asked of a network device's driver (ETHTOOL_* of linux/ethtool.h), and what its numbers are.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum EthtoolCommand {
    /// The fields of `struct ethtool_channels`; the last two are the numbers of other and of combined queues in use.
    GetChannels = 0x3c,
    /// The same; the first four are ignored.
    SetChannels = 0x3d,
    /// The first is 1 if the device computes checksums of what is sent.
    #[cfg(test)]
    GetTxChecksum = 0x16,
    /// The same.
    SetTxChecksum = 0x17,
    /// The first is 1 if the device cuts what is sent by TCP into segments.
    #[cfg(test)]
    GetTso = 0x1e,
    /// The same.
    SetTso = 0x1f,
}

/// Asks the driver of the network device `name` of the network namespace of `socket`, with `numbers`, and returns the
/// numbers as they are afterwards.
pub(crate) fn ethtool(
    socket: BorrowedFd<'_>,
    name: &str,
    command: EthtoolCommand,
    numbers: [u32; 8],
) -> io::Result<[u32; 8]> {
    /// SIOCETHTOOL of linux/sockios.h.
    const REQUEST: libc::Ioctl = 0x8946;
    /// `struct ethtool_channels` (36 bytes), and longer than `struct ethtool_value` (8 bytes).
    #[repr(C)]
    struct Arguments {
        command: u32,
        numbers: [u32; 8],
    }
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    let mut arguments = Arguments { command: command as u32, numbers };
    // SAFETY: an all-zero ifreq is valid; the ioctl reads the name and the pointer of the live structure, and reads and
    // writes of what that points to at most the bytes of the longest structure that a command of the enumeration has.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut arguments).cast();
        check(c_long::from(libc::ioctl(socket.as_raw_fd(), REQUEST, &raw mut request)))?;
    }
    Ok(arguments.numbers)
}

/// Makes descriptors 0, 1 and 2 exist: a PID 1 without a console starts without them, and what it opened next
/// would be taken for a standard stream. What is missing becomes the kernel log, so that a panic is seen.
pub(crate) fn open_standard_streams() {
    loop {
        // SAFETY: the path is nul-terminated.
        let fd = unsafe { libc::open(c"/dev/kmsg".as_ptr(), libc::O_WRONLY | libc::O_NOCTTY) };
        if fd > 2 {
            // SAFETY: the descriptor was just opened here and nobody else knows it.
            unsafe { libc::close(fd) };
        }
        if !(0..2).contains(&fd) {
            return;
        }
    }
}

/// Gives this process a cgroup namespace whose root is the cgroup that it is in.
pub(crate) fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: takes a number; a cgroup namespace changes what paths look like and no memory or descriptor.
    check(c_long::from(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }))?;
    Ok(())
}

/// Gives the program that this process executes next a time namespace.
pub(crate) fn unshare_time() -> io::Result<()> {
    // SAFETY: takes a number; a time namespace changes no memory before the process executes a program.
    check(c_long::from(unsafe { libc::unshare(libc::CLONE_NEWTIME) }))?;
    Ok(())
}

/// The newest lines of the kernel's log, at most 16 KiB; empty if it cannot be read.
pub(crate) fn kernel_log_tail() -> Vec<u8> {
    const SYSLOG_ACTION_READ_ALL: libc::c_int = 3; // include/linux/syslog.h
    let mut log = vec![0_u8; 16 << 10];
    // SAFETY: klogctl has no safe wrapper; it writes at most the length it is given, which is the buffer's.
    let length =
        unsafe { libc::klogctl(SYSLOG_ACTION_READ_ALL, log.as_mut_ptr().cast(), log.len() as libc::c_int) };
    log.truncate(usize::try_from(length).unwrap_or(0));
    log
}

/// Gives this thread a network namespace of its own.
#[cfg(test)]
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: takes a number; a network namespace changes no memory and no descriptor.
    check(c_long::from(unsafe { libc::unshare(libc::CLONE_NEWNET) }))?;
    Ok(())
}

/// Runs `body` in a forked process, for tests whose process reaps every child.
#[cfg(test)]
pub(crate) fn fork(body: impl FnOnce()) -> u32 {
    // SAFETY: libc's fork readies the allocator for the only thread of the child, which runs `body` and exits.
    match unsafe { libc::fork() } {
        0 => {
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends this process without running the test's exit handlers.
            unsafe { libc::_exit(if ended.is_ok() { 0 } else { 101 }) }
        }
        pid => {
            assert!(pid > 0, "{}", io::Error::last_os_error());
            pid as u32
        }
    }
}
