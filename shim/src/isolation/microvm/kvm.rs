//! Whether the host's processor can carry out a machine's instructions.
//!
//! That /dev/kvm is there says little: it may be closed to the sandbox's user, or belong to a host that is a guest itself and
//! cannot make further ones, which then hang. So a process of ours, as that user, has KVM run a guest of one instruction.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::Processor;
use crate::programs::{Answer, Question};

/// The subcommand of ours that tries it. It is nobody's to type.
const TRIAL: &str = "microvm-kvm";

/// How processors make machines: Intel's, and AMD's.
pub(super) const VMX: &str = "vmx";
pub(super) const SVM: &str = "svm";

/// The device.
const DEVICE: &str = "/dev/kvm";

/// How long the guest may take. It needs microseconds, and the process around it milliseconds.
const WITHIN: Duration = Duration::from_secs(2);

/// What it can do.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    /// Whether machines can make machines, on a processor of Intel's.
    vmx: bool,
    /// The same on one of AMD's.
    svm: bool,
}

impl Found {
    /// As a part of a plan.
    pub(super) fn processor(&self, no_nested: bool) -> Processor {
        let feature = match self {
            Found { vmx: true, .. } => Some(VMX),
            Found { svm: true, .. } => Some(SVM),
            _ => None,
        };
        Processor::Kvm { without: feature.filter(|_| no_nested), nested: feature.filter(|_| !no_nested) }
    }
}

/// Has it tried as this user; the error is why it cannot be used, in words.
pub(super) fn look(user: Option<u32>) -> Result<Found, String> {
    if !Path::new(DEVICE).exists() {
        return Err(format!("there is no {DEVICE}"));
    }
    let question = Question {
        // Not by its name, which may lie where that user cannot go.
        program: Path::new("/proc/self/exe"),
        args: vec![TRIAL.into()],
        variables: Vec::new(),
        user,
        patience: WITHIN,
    };
    match question.ask() {
        Answer::Ended { stdout, .. } => {
            serde_json::from_str(stdout.trim()).unwrap_or_else(|_| Err("trying it failed".to_owned()))
        }
        Answer::Hangs => Err("guests hang".to_owned()),
        Answer::NotStarted(why) => Err(format!("trying it failed: {why}")),
    }
}

/// Why it cannot be used, for `doctor`.
pub(crate) fn trouble(user: Option<u32>) -> Option<String> {
    look(user).err()
}

/// Whether we were called to try it.
pub fn is_called(args: &[OsString]) -> bool {
    args.len() == 2 && args[1] == TRIAL
}

/// Tries it, and prints what came of that.
pub fn run() -> ExitCode {
    let found = OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => format!("{DEVICE} may not be opened by the sandbox's user"),
            _ => format!("opening {DEVICE}: {error}"),
        })
        .and_then(|device| run_a_guest(&device));
    println!("{}", serde_json::json!(found));
    ExitCode::SUCCESS
}

#[cfg(target_arch = "x86_64")]
fn run_a_guest(device: &File) -> Result<Found, String> {
    use crate::sys::kvm;
    let answers = kvm::supported(device).map_err(|error| format!("asking for its features: {error}"))?;
    let registers = |function| {
        answers.iter().find(|entry| entry.function == function).map_or((0, 0), |entry| (entry.ecx, entry.edx))
    };
    let (basic, extended) = (registers(1), registers(0x8000_0001));
    if let Some(missing) = missing(basic, extended) {
        return Err(format!("its processor lacks {missing}, and kernels hang without"));
    }
    match kvm::a_guest_halts(device) {
        Ok(true) => Ok(Found { vmx: basic.0 & (1 << 5) != 0, svm: extended.0 & (1 << 2) != 0 }),
        Ok(false) => Err("guests do not run".to_owned()),
        Err(error) => Err(format!("making a guest: {error}")),
    }
}

/// What every 64-bit processor has had for twenty years: where KVM leaves one of these out, the host is a guest of something that
/// makes no whole processors.
#[cfg(target_arch = "x86_64")]
fn missing(basic: (u32, u32), extended: (u32, u32)) -> Option<&'static str> {
    let ecx = [(0, "SSE3"), (13, "CMPXCHG16B")];
    let edx =
        [(4, "TSC"), (6, "PAE"), (8, "CMPXCHG8B"), (9, "APIC"), (15, "CMOV"), (24, "FXSR"), (26, "SSE2")];
    let extended_edx = [(11, "SYSCALL"), (20, "NX"), (29, "long mode")];
    let lacks = |register: u32| move |(bit, _): &&(u32, &str)| register & (1 << bit) == 0;
    let first = ecx.iter().find(lacks(basic.0)).or_else(|| edx.iter().find(lacks(basic.1)));
    first.or_else(|| extended_edx.iter().find(lacks(extended.1))).map(|(_, name)| *name)
}

#[cfg(not(target_arch = "x86_64"))]
fn run_a_guest(device: &File) -> Result<Found, String> {
    use std::os::fd::AsFd;
    crate::sys::make_virtual_machine(device.as_fd())
        .map(|()| Found { vmx: false, svm: false })
        .map_err(|error| format!("making a guest: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_within_are_made_where_that_is_possible_and_not_forbidden() {
        let kvm = |without, nested| Processor::Kvm { without, nested };
        let intel = Found { vmx: true, svm: false };
        assert_eq!(intel.processor(false), kvm(None, Some(VMX)));
        assert_eq!(intel.processor(true), kvm(Some(VMX), None));
        assert_eq!(Found { vmx: false, svm: true }.processor(true), kvm(Some(SVM), None));
        let neither = Found { vmx: false, svm: false };
        assert_eq!(neither.processor(false), kvm(None, None));
        assert_eq!(neither.processor(true), kvm(None, None));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn half_a_processor_is_none() {
        let whole = u32::MAX;
        assert_eq!(missing((whole, whole), (whole, whole)), None);
        assert_eq!(missing((whole - 1, whole), (whole, whole)), Some("SSE3"));
        assert_eq!(missing((whole, whole), (whole, whole & !(1 << 20))), Some("NX"));
        assert_eq!(missing((0, 0), (0, 0)), Some("SSE3"));
    }

    #[test]
    fn what_is_printed_is_understood() {
        for found in [Ok(Found { vmx: true, svm: false }), Err("why".to_owned())] {
            let printed = serde_json::json!(found).to_string();
            assert_eq!(serde_json::from_str::<Result<Found, String>>(&printed).unwrap(), found);
        }
    }
}
