//! The system call filter: what no program of a sandbox needs and some would use against init or the kernel.
//!
//! A filter that lists what is allowed breaks programs nobody thought of; this one lists what is refused, and
//! the kernel lets every system call without a rule pass at the cost of a bit test. Refused with EPERM, or
//! with ENOSYS where programs know how to do without.
//!
//! Deliberately absent:
//! - `mount` and its relatives, `setns`, `pivot_root`, `chroot`: without capabilities the kernel refuses them
//!   first thing, and where nested namespaces are permitted they are the purpose.
//! - `pidfd_open` of init: a pidfd comes from opening /proc/1 just as well, and `pidfd_getfd`, `setns` and
//!   the like ask for ptrace access, which init being not dumpable denies.
//! - `kill(-1)`: it never reaches PID 1. A signal that does, through a pidfd, is ignored by kernel and loop.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use anyhow::{Context, Result};
use nix::libc::{self, c_long};
use nix::unistd::Pid;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use super::Policy;

/// Installs the filter on this thread and all its future children; returns its length.
pub(super) fn install(policy: &Policy, init: Pid) -> Result<usize> {
    let program = program(policy, init)?;
    apply_filter(&program)?;
    Ok(program.len())
}

/// System calls refused whatever their arguments.
const REFUSED: &[c_long] = &[
    // Keys are per user, not per sandbox: another sandbox's, or the person's own.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Parts of the kernel with a history, of no use without privileges.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    // The host's kernel log, open to everyone where dmesg_restrict is 0.
    libc::SYS_syslog,
];

/// System calls this kernel shall seem not to have.
///
/// `io_uring` does its work without passing any filter, and is where most of the last years' exploits were;
/// libraries fall back to epoll.
/// The mode that `openat2` gives to a new file is in memory, out of a filter's sight; its users fall back to openat.
const ABSENT: &[c_long] =
    &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_openat2];

/// System calls that write an attribute of a file, absent where namespaces may be nested: who is root in one of them may
/// give a program capabilities. They count for that namespace alone, but where root started the sandbox its mounts show
/// root's files as the sandbox's own, and on the disk the capabilities are those of the machine.
const WRITES_ATTRIBUTES: &[c_long] =
    &[libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, SETXATTRAT];

/// System calls that name a process, and the arguments that may not name init.
///
/// The first six were found to work against a PID 1 of the same user although it is not dumpable; signals
/// are ignored there, but wake it up; the last ones are refused by the kernel as well.
const AIMED: &[(c_long, &[u8])] = &[
    (libc::SYS_prlimit64, &[0]),
    (libc::SYS_sched_setaffinity, &[0]),
    (libc::SYS_sched_setscheduler, &[0]),
    (libc::SYS_sched_setparam, &[0]),
    (libc::SYS_sched_setattr, &[0]),
    (libc::SYS_migrate_pages, &[0]),
    (libc::SYS_kill, &[0]),
    (libc::SYS_tkill, &[0]),
    (libc::SYS_tgkill, &[0, 1]),
    (libc::SYS_rt_sigqueueinfo, &[0]),
    (libc::SYS_rt_tgsigqueueinfo, &[0, 1]),
    (libc::SYS_move_pages, &[0]),
    (libc::SYS_ptrace, &[1]),
    (libc::SYS_process_vm_readv, &[0]),
    (libc::SYS_process_vm_writev, &[0]),
];

/// System calls that change a mode, and the argument that holds it.
const CHANGES_MODE: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (FCHMODAT2, 2),
];

/// System calls that open files, and the argument that holds their flags; the mode is the next one.
const OPENS: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
    (libc::SYS_openat, 2),
];

/// System calls that make a file, and the argument that holds its mode.
const CREATES: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
    (libc::SYS_mknodat, 2),
];

/// Not in every libc; the number is the same on all architectures.
const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;

/// Not in libc for every target; the numbers are the same on all architectures.
const IOPRIO_WHO_PROCESS: u64 = 1;

fn program(policy: &Policy, init: Pid) -> Result<BpfProgram> {
    let init = u64::try_from(init.as_raw()).context("a pid")?;
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for call in REFUSED {
        // No rule means: always.
        rules.insert(*call, Vec::new());
    }
    for (call, arguments) in AIMED {
        for argument in *arguments {
            rules.entry(*call).or_default().push(rule(is(*argument, init))?);
        }
    }

    // `who` is a process, a group or a user. Groups are refused altogether: which one init is in is nothing
    // that a filter can know for sure, and `renice -g` is all that is lost.
    for (call, process) in
        [(libc::SYS_setpriority, u64::from(libc::PRIO_PROCESS)), (libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS)]
    {
        rules.insert(call, vec![rule(is_not(0, process))?, rule(is(1, init))?]);
    }

    // Typing into a terminal that others read. The kernel looks at 32 bits of the number: so must we, or
    // a number with high bits set passes here and works there.
    let terminal_input = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| rule(is(1, request & 0xffff_ffff)));
    rules.insert(libc::SYS_ioctl, terminal_input.into_iter().collect::<Result<_>>()?);

    // A program that runs with its owner's rights stays on the host's disk, for any user there who gets to it: and
    // where root started the sandbox, its owner is root. Folders may be setgid, so that bit is refused to new files
    // alone.
    let (setuid, both) = (u64::from(libc::S_ISUID), [libc::S_ISUID, libc::S_ISGID]);
    for (call, argument) in CHANGES_MODE {
        rules.insert(*call, vec![rule((*argument, Dword, MaskedEq(setuid), setuid))?]);
    }
    for (call, argument) in CREATES {
        for bit in both.map(u64::from) {
            rules.entry(*call).or_default().push(rule((*argument, Dword, MaskedEq(bit), bit))?);
        }
    }
    for (call, flags) in OPENS {
        // Where no file is made, the mode is whatever the register held.
        for making in [libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY] {
            let making = u64::try_from(making)?;
            for bit in both.map(u64::from) {
                let makes = SeccompCondition::new(*flags, Dword, MaskedEq(making), making)?;
                let mode = SeccompCondition::new(*flags + 1, Dword, MaskedEq(bit), bit)?;
                rules.entry(*call).or_default().push(SeccompRule::new(vec![makes, mode])?);
            }
        }
    }

    // vsock belongs to no network namespace: it reaches the host of the machine, or a microVM's own init.
    rules.insert(libc::SYS_socket, vec![rule(is(0, u64::try_from(libc::AF_VSOCK)?))?]);

    // Details of a signal written by its sender: with the queue full they get lost, and a signal
    // without details looks to init as if it came from the host.
    // The same happens to one for a single thread (a flag), whose details the kernel counts as the sender's own.
    rules.insert(libc::SYS_pidfd_send_signal, vec![rule((2, Qword, Ne, 0))?, rule((3, Dword, Ne, 0))?]);

    let mut absent = ABSENT.to_vec();
    if policy.nested_namespaces {
        absent.extend(WRITES_ATTRIBUTES);
    } else {
        let flag = u64::try_from(libc::CLONE_NEWUSER)?;
        for call in [libc::SYS_unshare, libc::SYS_clone] {
            rules.insert(call, vec![rule((0, Dword, MaskedEq(flag), flag))?]);
        }
        // Its flags are in memory, out of a filter's sight; libc falls back to clone.
        absent.push(libc::SYS_clone3);
    }

    let mut leaves: Vec<(u32, Target)> = Vec::new();
    for (calls, target) in [(rules.keys().copied().collect(), Target::Rules), (absent, Target::Absent)] {
        for call in calls {
            leaves.push((u32::try_from(call)?, target));
        }
    }
    let arch: TargetArch = ARCH.try_into()?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?;
    let mut program = dispatch(leaves);
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

/// Where a system call number leads.
#[derive(Clone, Copy)]
enum Target {
    /// To seccompiler's program, which follows and compares arguments.
    Rules,
    /// To ENOSYS.
    Absent,
}

/// A binary search over the numbers, in front of the rules, which are a linear list.
///
/// At installation the kernel runs the filter once for each number of each interface, to find out which
/// always pass: through the list alone, that takes five times as long. What is in no list passes; on x86-64
/// all of the x32 interface is absent, whose numbers would slip by every rule written for the ordinary ones.
fn dispatch(mut leaves: Vec<(u32, Target)>) -> BpfProgram {
    const NUMBER_OFFSET: u32 = 0; // of `nr` in struct seccomp_data
    const ARCH_OFFSET: u32 = 4; // of `arch`
    const X32: u32 = 0x4000_0000;

    leaves.sort_unstable_by_key(|(number, _)| *number);
    // Where they are is known from the end: each node is followed by a known number of instructions.
    let nodes = 2 * leaves.len() - 1;
    let mut program = vec![
        // First of all: a number means something else in every other interface, in which 32-bit programs
        // would call. They do not run here.
        instruction(LOAD, 0, 0, ARCH_OFFSET),
        instruction(JUMP_IF_EQUAL, 1, 0, AUDIT_ARCH),
        instruction(RETURN, 0, 0, SeccompAction::KillProcess.into()),
        instruction(LOAD, 0, 0, NUMBER_OFFSET),
    ];
    if cfg!(target_arch = "x86_64") {
        program.push(instruction(JUMP_IF_AT_LEAST, nodes + 1, 0, X32));
    }
    search(&leaves, nodes, &mut program);
    program.push(instruction(RETURN, 0, 0, SeccompAction::Allow.into()));
    program.push(instruction(RETURN, 0, 0, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()).into()));
    program
}

/// Appends the search among `leaves`, after which `remaining - (2 * leaves - 1)` nodes follow, then two returns.
fn search(leaves: &[(u32, Target)], remaining: usize, program: &mut BpfProgram) {
    match leaves {
        [] => {}
        [(number, target)] => {
            let allow = remaining - 1;
            let found = match target {
                Target::Absent => allow + 1,
                Target::Rules => allow + 2,
            };
            program.push(instruction(JUMP_IF_EQUAL, found, allow, *number));
        }
        _ => {
            let (low, high) = leaves.split_at(leaves.len() / 2);
            let low_nodes = 2 * low.len() - 1;
            program.push(instruction(JUMP_IF_AT_LEAST, low_nodes, 0, high[0].0));
            search(low, remaining - 1, program);
            search(high, remaining - 1 - low_nodes, program);
        }
    }
}

/// How the kernel names the interface this program itself uses.
const AUDIT_ARCH: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else {
    0xc000_00f3 // riscv64; seccompiler knows no other
};

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Jumps are a byte wide; a program that outgrows them would be refused by the unit tests below.
fn instruction(code: u16, jump_if_true: usize, jump_if_false: usize, k: u32) -> sock_filter {
    let jump = |distance| u8::try_from(distance).unwrap_or(u8::MAX);
    sock_filter { code, jt: jump(jump_if_true), jf: jump(jump_if_false), k }
}

fn rule(condition: Condition) -> Result<SeccompRule> {
    let (argument, length, operator, value) = condition;
    Ok(SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])?)
}

/// Argument, how much of it counts, comparison, value.
type Condition = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

/// The kernel takes these arguments as 32 bits, whatever the register holds above.
fn is(argument: u8, value: u64) -> Condition {
    (argument, Dword, Eq, value)
}

fn is_not(argument: u8, value: u64) -> Condition {
    (argument, Dword, Ne, value)
}

#[cfg(test)]
// Numbers are cut to the size that the kernel reads, which is the point.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
mod tests {
    use super::*;

    const INIT: Pid = Pid::from_raw(1);
    const ALLOW: u32 = 0x7fff_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;
    const EPERM: u32 = 0x0005_0000 | 1;
    const ENOSYS: u32 = 0x0005_0000 | 0x26;

    /// What the kernel would do with the program; knows the instructions that occur.
    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 3]) -> u32 {
        let mut data = vec![number, arch, 0, 0];
        for argument in arguments {
            data.extend([argument as u32, (argument >> 32) as u32]);
        }
        // The kernel passes six.
        data.resize(16, 0);
        let (mut at, mut a) = (0_usize, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            at += 1;
            let holds = match code {
                0x20 => {
                    a = data[k as usize / 4];
                    continue;
                }
                0x54 => {
                    a &= k;
                    continue;
                }
                0x05 => {
                    at += k as usize;
                    continue;
                }
                0x06 => return k,
                0x15 => a == k,
                0x25 => a > k,
                0x35 => a >= k,
                other => panic!("unknown instruction {other:#x}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    fn native(policy: &Policy, call: c_long, arguments: [u64; 3]) -> u32 {
        run(&program(policy, INIT).expect("a program"), AUDIT_ARCH, call as u32, arguments)
    }

    fn strict(call: c_long, arguments: [u64; 3]) -> u32 {
        native(&Policy::default(), call, arguments)
    }

    #[test]
    fn init_cannot_be_aimed_at_and_others_can() {
        for (call, arguments) in AIMED {
            for argument in *arguments {
                let mut at_init = [7; 3];
                at_init[usize::from(*argument)] = 1;
                assert_eq!(strict(*call, at_init), EPERM, "{call} {argument}");
                // The kernel reads 32 bits.
                at_init[usize::from(*argument)] |= 0xdead << 32;
                assert_eq!(strict(*call, at_init), EPERM, "{call} {argument}, high bits set");
            }
            assert_eq!(strict(*call, [7; 3]), ALLOW, "{call}");
            assert_eq!(strict(*call, [0; 3]), ALLOW, "{call} on itself");
        }
        assert_eq!(strict(libc::SYS_kill, [u64::MAX, 15, 0]), ALLOW, "everyone but PID 1");
    }

    #[test]
    fn no_file_runs_with_the_rights_of_its_owner() {
        let making = u64::try_from(libc::O_CREAT | libc::O_WRONLY).unwrap();
        // Where no file is made, the register may hold anything.
        for (flags, mode, expected) in
            [(making, 0o644, ALLOW), (making, 0o4755, EPERM), (making, 0o2755, EPERM), (0, 0o4755, ALLOW)]
        {
            assert_eq!(strict(libc::SYS_open, [0, flags, mode]), expected, "{flags:o} {mode:o}");
        }
        for (mode, expected) in [(0o1777, ALLOW), (0o2775, ALLOW), (0o4755, EPERM), (0o4755 | 1 << 32, EPERM)]
        {
            assert_eq!(strict(libc::SYS_fchmod, [3, mode, 0]), expected, "{mode:o}");
            assert_eq!(strict(libc::SYS_fchmodat, [3, 0, mode]), expected, "{mode:o}");
        }
        assert_eq!(strict(libc::SYS_openat2, [0; 3]), ENOSYS);
    }

    #[test]
    fn a_signal_to_one_thread_could_hide_its_sender() {
        assert_eq!(strict(libc::SYS_pidfd_send_signal, [3, 15, 0]), ALLOW);
        assert_eq!(strict(libc::SYS_pidfd_send_signal, [3, 15, 1]), EPERM);
    }

    #[test]
    fn priorities_are_set_for_processes_only() {
        for (call, process) in [(libc::SYS_setpriority, 0), (libc::SYS_ioprio_set, 1)] {
            assert_eq!(strict(call, [process, 0, 5]), ALLOW);
            assert_eq!(strict(call, [process, 77, 5]), ALLOW);
            assert_eq!(strict(call, [process, 1, 5]), EPERM);
            for group_or_user in [process + 1, process + 2] {
                assert_eq!(strict(call, [group_or_user, 0, 5]), EPERM);
            }
        }
    }

    #[test]
    fn terminals_cannot_be_typed_into_even_with_high_bits_set() {
        for request in [0x5412, 0x541c, 0x5412 | 1 << 32, 0xffff_ffff_0000_541c] {
            assert_eq!(strict(libc::SYS_ioctl, [0, request, 0]), EPERM, "{request:#x}");
        }
        assert_eq!(strict(libc::SYS_ioctl, [0, 0x5413, 0]), ALLOW, "TIOCGWINSZ");
    }

    #[test]
    fn user_namespaces_need_a_permission() {
        let newuser = 0x1000_0000;
        let nested = Policy { nested_namespaces: true, ..Policy::default() };
        for call in [libc::SYS_unshare, libc::SYS_clone] {
            assert_eq!(strict(call, [newuser | 0x11, 0, 0]), EPERM);
            assert_eq!(strict(call, [0x11, 0, 0]), ALLOW);
            assert_eq!(native(&nested, call, [newuser, 0, 0]), ALLOW);
        }
        assert_eq!(strict(libc::SYS_clone3, [0; 3]), ENOSYS);
        assert_eq!(native(&nested, libc::SYS_clone3, [0; 3]), ALLOW);
    }

    #[test]
    fn who_is_root_in_a_namespace_gives_no_program_capabilities() {
        let nested = Policy { nested_namespaces: true, ..Policy::default() };
        for call in WRITES_ATTRIBUTES {
            assert_eq!(native(&nested, *call, [0; 3]), ENOSYS, "{call}");
            assert_eq!(strict(*call, [0; 3]), ALLOW, "{call}");
        }
    }

    #[test]
    fn the_rest_of_the_list() {
        for call in REFUSED {
            assert_eq!(strict(*call, [0; 3]), EPERM, "{call}");
        }
        for call in ABSENT {
            assert_eq!(strict(*call, [0; 3]), ENOSYS, "{call}");
        }
        assert_eq!(strict(libc::SYS_socket, [40, 1, 0]), EPERM, "vsock");
        assert_eq!(strict(libc::SYS_socket, [1, 1, 0]), ALLOW);
        assert_eq!(strict(libc::SYS_pidfd_send_signal, [3, 15, 0]), ALLOW);
        assert_eq!(strict(libc::SYS_pidfd_send_signal, [3, 15, 1 << 40]), EPERM);
        for call in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_mount] {
            assert_eq!(strict(call, [1; 3]), ALLOW, "{call}");
        }
    }

    #[test]
    fn everything_else_passes() {
        let listed: Vec<c_long> = REFUSED.iter().chain(ABSENT).copied().collect();
        let by_argument =
            [libc::SYS_ioprio_set, libc::SYS_setpriority, libc::SYS_clone3, libc::SYS_pidfd_send_signal];
        for call in (0..1024).filter(|call| !listed.contains(call) && !by_argument.contains(call)) {
            assert_eq!(strict(call, [7; 3]), ALLOW, "{call}");
        }
    }

    #[test]
    fn other_interfaces_to_the_kernel_are_closed() {
        let program = program(&Policy::default(), INIT).expect("a program");
        if cfg!(target_arch = "x86_64") {
            let x32 = 0x4000_0000 | libc::SYS_prlimit64 as u32;
            assert_eq!(run(&program, AUDIT_ARCH, x32, [1; 3]), ENOSYS);
        }
        for number in 0..1024 {
            assert_eq!(run(&program, 0x4000_0003, number, [1; 3]), KILL_PROCESS, "i386: {number}");
        }
    }
}
