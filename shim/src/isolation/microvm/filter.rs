//! What no part of a machine may do on the host, although a machine that was taken over asks for it: make a program that runs with
//! its owner's rights, or a device; look for the person's keys; look into other processes; or use what no part needs and holes of
//! the kernel were found in.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::MaskedEq;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    sock_filter,
};

/// Newer than libc's list.
const FCHMODAT2: c_long = 452;

/// set-user-ID, set-group-ID.
const BITS: [u64; 2] = [0o4000, 0o2000];

/// System calls that give a file its mode, and the argument with it.
const MODES: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, 1),
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (FCHMODAT2, 2),
    (libc::SYS_mkdirat, 2),
];

/// System calls that open a file: the arguments with the flags and the mode.
const OPENS: &[(c_long, u8, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1, 2),
    (libc::SYS_openat, 2, 3),
];

/// System calls that make a file of any kind.
const MAKES: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
    (libc::SYS_mknodat, 2),
];

/// The mode that these give to a new file is in memory, out of a filter's sight. Programs do without.
const ABSENT: &[c_long] =
    &[libc::SYS_openat2, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// What no part uses. Keys are the session's, which the person has started us in, and nothing else keeps parts from them.
const UNUSED: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
];

/// From here on numbers mean what they mean to 32-bit programs, and no rule is written for those.
const X32: u32 = 0x4000_0000;

/// The filters, for the launcher and all that it starts.
pub(super) fn programs() -> Result<[BpfProgram; 3], seccompiler::Error> {
    let condition =
        |argument, operator: SeccompCmpOp, value| SeccompCondition::new(argument, Dword, operator, value);
    let mut refused: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for bit in BITS {
        for &(call, mode) in MODES.iter().chain(MAKES) {
            let rule = SeccompRule::new(vec![condition(mode, MaskedEq(bit), bit)?])?;
            refused.entry(call).or_default().push(rule);
        }
        for &(call, flags, mode) in OPENS {
            for new in [libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY] {
                let new = u64::try_from(new).unwrap_or_default();
                let rule = SeccompRule::new(vec![
                    condition(flags, MaskedEq(new), new)?,
                    condition(mode, MaskedEq(bit), bit)?,
                ])?;
                refused.entry(call).or_default().push(rule);
            }
        }
    }
    let kind = u64::from(libc::S_IFMT);
    for &(call, mode) in MAKES {
        for device in [libc::S_IFCHR, libc::S_IFBLK] {
            let rule = SeccompRule::new(vec![condition(mode, MaskedEq(kind), u64::from(device))?])?;
            refused.entry(call).or_default().push(rule);
        }
    }
    let absent = ABSENT.iter().chain(UNUSED).map(|call| (*call, Vec::new())).collect();
    Ok([compile(refused, libc::EPERM)?, compile(absent, libc::ENOSYS)?, without_x32()])
}

/// Every number of the x32 interface is absent. What comes in as a call of i386 ends in the filters before.
fn without_x32() -> BpfProgram {
    let instruction =
        |code: u32, jt, jf, k| sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k };
    let answer =
        |what, data: i32| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, what | data.cast_unsigned());
    vec![
        // `nr` of struct seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        answer(libc::SECCOMP_RET_ERRNO, libc::ENOSYS),
        answer(libc::SECCOMP_RET_ALLOW, 0),
    ]
}

fn compile(rules: BTreeMap<c_long, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, seccompiler::Error> {
    let answer = SeccompAction::Errno(errno.cast_unsigned());
    let arch = TargetArch::try_from(ARCH)?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// Filters are a thread's own.
    #[test]
    fn no_file_gets_a_mode_that_gives_rights_away() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let checked = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                for program in programs().unwrap() {
                    seccompiler::apply_filter(&program).unwrap();
                }
                let refused = |done: io::Result<()>, what: &str| {
                    let code = done.expect_err(what).raw_os_error();
                    assert_eq!(code, Some(libc::EPERM), "{what}");
                };
                fs::write(at("file"), "").unwrap();
                for bits in [0o4755, 0o2755, 0o6755] {
                    refused(fs::set_permissions(at("file"), Permissions::from_mode(bits)), "chmod");
                    let file = File::open(at("file")).unwrap();
                    refused(file.set_permissions(Permissions::from_mode(bits)), "fchmod");
                    refused(DirBuilder::new().mode(bits).create(at("folder")), "mkdir");
                    let open = OpenOptions::new().write(true).create(true).mode(bits).open(at("new"));
                    refused(open.map(drop), "open");
                    let make = |kind| mknodat(CWD, at("node"), kind, Mode::from_raw_mode(bits), 0);
                    refused(make(FileType::RegularFile).map_err(io::Error::from), "mknod");
                }
                for kind in [FileType::CharacterDevice, FileType::BlockDevice] {
                    let made = mknodat(CWD, at("device"), kind, Mode::from_raw_mode(0o600), 0x103);
                    refused(made.map_err(io::Error::from), "a device");
                }
                // Whatever number a call has in the other interface, it is not there.
                for number in [libc::SYS_chmod, libc::SYS_getpid] {
                    let called = crate::sys::call(c_long::from(X32.cast_signed()) | number);
                    assert_eq!(called.unwrap_err().raw_os_error(), Some(libc::ENOSYS), "{number}");
                }
                for number in ABSENT.iter().chain(UNUSED) {
                    let called = crate::sys::call(*number);
                    assert_eq!(called.unwrap_err().raw_os_error(), Some(libc::ENOSYS), "{number}");
                }
                // All else is as it was. The mode of a file that exists is not made, whatever is said.
                fs::set_permissions(at("file"), Permissions::from_mode(0o1755)).unwrap();
                DirBuilder::new().mode(0o755).create(at("folder")).unwrap();
                OpenOptions::new().write(true).create_new(true).mode(0o755).open(at("new")).unwrap();
                mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            });
            thread.join()
        });
        checked.unwrap();
        let modes: Vec<u32> = ["file", "folder", "new"]
            .map(|name| fs::metadata(at(name)).unwrap().permissions().mode() & 0o6000)
            .to_vec();
        assert_eq!(modes, [0, 0, 0]);
    }
}
