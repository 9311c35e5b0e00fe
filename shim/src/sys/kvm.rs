//! A guest of one instruction, made by KVM: nothing less tells whether it runs guests.
//!
//! The numbers and layouts are those of <linux/kvm.h> for x86-64, which the kernel keeps for all time.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

const CREATE_VM: libc::Ioctl = 0xae01;
const GET_VCPU_MMAP_SIZE: libc::Ioctl = 0xae04;
const GET_SUPPORTED_CPUID: libc::Ioctl = 0xc008_ae05;
const CREATE_VCPU: libc::Ioctl = 0xae41;
const SET_USER_MEMORY_REGION: libc::Ioctl = 0x4020_ae46;
const RUN: libc::Ioctl = 0xae80;
const SET_REGS: libc::Ioctl = 0x4090_ae82;
const GET_SREGS: libc::Ioctl = 0x8138_ae83;
const SET_SREGS: libc::Ioctl = 0x4138_ae84;

/// The guest's memory, all of it.
const PAGE_BYTES: usize = 4096;
/// Where it begins for the guest.
const AT: u64 = 0x1000;
/// Stop until something happens.
const HLT: u8 = 0xf4;

/// Where the kernel says why the guest stopped, and what it says of a processor that halted.
const EXIT_REASON_OFFSET: usize = 8;
const EXIT_HLT: u32 = 5;

/// More entries than any kernel has.
const MAX_CPUID_ENTRIES: usize = 256;

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest_address: u64,
    bytes: u64,
    address: u64,
}

/// One answer of the processor that a guest would get.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct CpuidEntry {
    /// The question.
    pub(crate) function: u32,
    index: u32,
    flags: u32,
    eax: u32,
    ebx: u32,
    /// One register of the answer.
    pub(crate) ecx: u32,
    /// Another one.
    pub(crate) edx: u32,
    padding: [u32; 3],
}

/// `struct kvm_cpuid2` with room for its entries.
#[repr(C)]
struct Cpuid {
    count: u32,
    padding: u32,
    entries: [CpuidEntry; MAX_CPUID_ENTRIES],
}

/// What KVM tells guests of their processor.
pub(crate) fn supported(kvm: &File) -> io::Result<Vec<CpuidEntry>> {
    let count = MAX_CPUID_ENTRIES;
    let mut cpuid = Box::new(Cpuid {
        count: u32::try_from(count).unwrap_or(0),
        padding: 0,
        entries: [CpuidEntry::default(); MAX_CPUID_ENTRIES],
    });
    // SAFETY: the kernel writes at most as many entries as `count` says there is room for.
    check(unsafe { libc::ioctl(kvm.as_raw_fd(), GET_SUPPORTED_CPUID, &raw mut *cpuid) })?;
    let found = usize::try_from(cpuid.count).unwrap_or(0).min(count);
    Ok(cpuid.entries[..found].to_vec())
}

/// Makes a guest that halts at once, and says whether it did. Where guests do not run this may take for ever.
pub(crate) fn a_guest_halts(kvm: &File) -> io::Result<bool> {
    // SAFETY: the argument is the machine's type, a plain number; the result is a descriptor that nobody else has.
    let machine = unsafe { owned(libc::ioctl(kvm.as_raw_fd(), CREATE_VM, 0)) }?;
    let memory = Mapping::new(PAGE_BYTES, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
    // SAFETY: the first byte of a page that is ours and writable.
    unsafe { memory.at.write(HLT) };
    let region = MemoryRegion {
        slot: 0,
        flags: 0,
        guest_address: AT,
        bytes: PAGE_BYTES as u64,
        address: memory.at as u64,
    };
    // SAFETY: the region lives through the call, and the memory it names longer than the guest.
    check(unsafe { libc::ioctl(machine.as_raw_fd(), SET_USER_MEMORY_REGION, &raw const region) })?;
    // SAFETY: plain numbers; the result is a descriptor that nobody else has.
    let processor = unsafe { owned(libc::ioctl(machine.as_raw_fd(), CREATE_VCPU, 0)) }?;
    // SAFETY: no argument.
    let bytes = check(unsafe { libc::ioctl(kvm.as_raw_fd(), GET_VCPU_MMAP_SIZE, 0) })?;
    let bytes = usize::try_from(bytes).unwrap_or(0).max(PAGE_BYTES);
    let state = Mapping::new(bytes, libc::MAP_SHARED, processor.as_raw_fd())?;
    begin_at(&processor, AT)?;
    // SAFETY: no argument; the guest reaches its one page only.
    check(unsafe { libc::ioctl(processor.as_raw_fd(), RUN, 0) })?;
    // SAFETY: within the mapping; the guest has stopped, so nobody writes.
    let reason = unsafe { state.at.add(EXIT_REASON_OFFSET).cast::<[u8; 4]>().read() };
    Ok(u32::from_ne_bytes(reason) == EXIT_HLT)
}

/// Has a processor that was just made, and is in real mode, begin at this address.
fn begin_at(processor: &OwnedFd, at: u64) -> io::Result<()> {
    // `struct kvm_sregs` begins with the code segment: 8 bytes with its base, 4 with its limit, 2 with its selector.
    let mut special = [0_u64; 39];
    let fd = processor.as_raw_fd();
    // SAFETY: the kernel writes 312 bytes, which the array has.
    check(unsafe { libc::ioctl(fd, GET_SREGS, special.as_mut_ptr()) })?;
    special[0] = 0;
    special[1] &= !0xffff_0000_0000;
    // SAFETY: the kernel reads as many.
    check(unsafe { libc::ioctl(fd, SET_SREGS, special.as_ptr()) })?;
    // `struct kvm_regs` ends with where it goes on and with the flags, of which one is always set.
    let mut registers = [0_u64; 18];
    registers[16] = at;
    registers[17] = 2;
    // SAFETY: the kernel reads 144 bytes, which the array has.
    check(unsafe { libc::ioctl(fd, SET_REGS, registers.as_ptr()) }).map(drop)
}

/// Memory that goes with its value.
struct Mapping {
    at: *mut u8,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize, flags: libc::c_int, fd: libc::c_int) -> io::Result<Mapping> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at a place where the kernel finds nothing else.
        let at = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { at: at.cast(), bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length, and nobody keeps an address in it.
        unsafe { libc::munmap(self.at.cast(), self.bytes) };
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
///
/// The number is an error or a descriptor that nobody else has.
unsafe fn owned(number: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: promised by the caller.
    check(number).map(|number| unsafe { OwnedFd::from_raw_fd(number) })
}
