//! The program of `registers.rs`: it holds vector registers across system calls, signals and a while of running, which
//! only assembly can. It needs no library and no loader, so that a slow guest has two pages of it to load. All `unsafe`
//! of these tests is here.

#![allow(unsafe_code)]

use std::arch::global_asm;

/// Where the program is linked to, as any static one.
const ADDRESS: u64 = 0x40_0000;
/// Sizes of the ELF header and of its one program header (System V ABI, chapters 4 and 5).
const EHDR_BYTES: usize = 64;
const PHDR_BYTES: usize = 56;
/// Where the program has its number of rounds and whether it uses AVX, from its beginning.
const ROUNDS_AT: usize = 8;
const AVX_AT: usize = 16;

// r15: its process ID, r14: rounds that are left, rbx: xorshift64 (Marsaglia), another pattern in each process and round.
global_asm!(
    ".pushsection .rodata.crx_registers, \"a\"",
    ".balign 16",
    "crx_registers:",
    "jmp 1f",
    ".balign 8",
    "90: .quad 0", // rounds
    "91: .quad 0", // AVX
    "1:",
    // rt_sigaction(SIGUSR1, ...)
    "lea rax, [rip + 60f]",
    "mov [rip + 92f], rax",
    "lea rax, [rip + 62f]",
    "mov [rip + 92f + 16], rax",
    "mov eax, 13",
    "mov edi, 10",
    "lea rsi, [rip + 92f]",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "test eax, eax",
    "jnz 51f",
    // getpid()
    "mov eax, 39",
    "syscall",
    "mov r15, rax",
    "movabs rbx, 0x9e3779b97f4a7c15",
    "imul rbx, r15",
    "or rbx, 1",
    "mov r14, [rip + 90b]",
    "2:",
    "lea rdi, [rip + 93f]",
    "mov ecx, 64",
    "3:",
    "mov rax, rbx",
    "shl rax, 13",
    "xor rbx, rax",
    "mov rax, rbx",
    "shr rax, 7",
    "xor rbx, rax",
    "mov rax, rbx",
    "shl rax, 17",
    "xor rbx, rax",
    "mov [rdi], rbx",
    "add rdi, 8",
    "dec ecx",
    "jnz 3b",
    // Fill the registers.
    "lea r12, [rip + 93f]",
    "lea r13, [rip + 94f]",
    "cmp qword ptr [rip + 91b], 0",
    "je 4f",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovups ymm\\n, [r12 + 32 * \\n]",
    ".endr",
    "jmp 5f",
    "4:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "movups xmm\\n, [r12 + 16 * \\n]",
    ".endr",
    "5:",
    // What happens meanwhile: another task, a signal, or the timer.
    "mov rax, r14",
    "xor edx, edx",
    "mov ecx, 3",
    "div rcx",
    "cmp edx, 1",
    "je 6f",
    "ja 7f",
    "mov eax, 24", // sched_yield()
    "syscall",
    "jmp 9f",
    "6:",
    "mov eax, 62", // kill(getpid(), SIGUSR1)
    "mov rdi, r15",
    "mov esi, 10",
    "syscall",
    "jmp 9f",
    "7:",
    "mov ecx, 300000",
    "8:",
    "dec ecx",
    "jnz 8b",
    // Read the registers and compare.
    "9:",
    "mov ecx, 64",
    "cmp qword ptr [rip + 91b], 0",
    "je 4f",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovups [r13 + 32 * \\n], ymm\\n",
    ".endr",
    "jmp 5f",
    "4:",
    "mov ecx, 32",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "movups [r13 + 16 * \\n], xmm\\n",
    ".endr",
    "5:",
    "mov rsi, r12",
    "mov rdi, r13",
    "repe cmpsq",
    "jne 51f",
    "dec r14",
    "jnz 2b",
    "xor edi, edi",
    "jmp 52f",
    "51:",
    "mov edi, 1",
    "52:",
    "mov eax, 231", // exit_group(edi)
    "syscall",
    // The handler clears the registers; the kernel restores them.
    "60:",
    "cmp qword ptr [rip + 91b], 0",
    "je 61f",
    "vzeroall",
    "ret",
    "61:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "xorps xmm\\n, xmm\\n",
    ".endr",
    "ret",
    "62:",
    "mov eax, 15", // rt_sigreturn()
    "syscall",
    ".balign 8",
    "92: .quad 0, 0x04000000, 0, 0", // handler, SA_RESTORER, restorer, mask
    "93: .skip 512",                 // what the registers are filled with
    "94: .skip 512",                 // what they held
    "crx_registers_end:",
    ".popsection",
);

unsafe extern "C" {
    #[link_name = "crx_registers"]
    static BEGIN: u8;
    #[link_name = "crx_registers_end"]
    static END: u8;
}

/// The processor and the kernel offer AVX.
pub(crate) fn has_avx() -> bool {
    std::arch::is_x86_feature_detected!("avx")
}

/// The program as an ELF file. It checks its registers `rounds` times and exits with 0, or with 1 when they changed.
pub(crate) fn program(rounds: u64, avx: bool) -> Vec<u8> {
    // SAFETY: the two symbols are the ends of one object of this program, which nothing changes.
    let code = unsafe {
        let (begin, end) = (&raw const BEGIN, &raw const END);
        std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin))
    };
    let headers = EHDR_BYTES + PHDR_BYTES;
    let mut file = vec![0; headers];
    file.extend_from_slice(code);
    let size = file.len() as u64;
    // ELFCLASS64, ELFDATA2LSB, EV_CURRENT; ET_EXEC, EM_X86_64; one PT_LOAD that may be read, written and executed.
    let fields = [
        (0, u64::from_le_bytes(*b"\x7fELF\x02\x01\x01\0")),
        (16, 2 | 62 << 16 | 1 << 32),
        (24, ADDRESS + headers as u64),
        (32, EHDR_BYTES as u64),
        (52, EHDR_BYTES as u64 | (PHDR_BYTES as u64) << 16 | 1 << 32),
        (EHDR_BYTES, 1 | 7 << 32),
        (EHDR_BYTES + 16, ADDRESS),
        (EHDR_BYTES + 24, ADDRESS),
        (EHDR_BYTES + 32, size),
        (EHDR_BYTES + 40, size),
        (EHDR_BYTES + 48, 4096),
        (headers + ROUNDS_AT, rounds),
        (headers + AVX_AT, u64::from(avx)),
    ];
    for (at, value) in fields {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    file
}
