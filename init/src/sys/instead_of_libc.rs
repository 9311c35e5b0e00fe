//! What glibc brings along for two things that init never does: for the message of a failed `assert`, translations,
//! converters of text and their loader; for the size of the first thread's stack, which Rust's runtime asks for to tell an
//! overflow from other faults, a reader of numbers in every format. Without them init is 160 kB smaller.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_void};

/// Ends this process as the original does.
#[unsafe(no_mangle)]
extern "C" fn __assert_fail(
    _assertion: *const c_char,
    _file: *const c_char,
    _line: c_uint,
    _function: *const c_char,
) -> ! {
    const TEXT: &[u8] = b"agent-init: an assertion of libc's failed\n";
    // SAFETY: a constant's memory, and a call that never returns.
    unsafe {
        libc::write(2, TEXT.as_ptr().cast(), TEXT.len());
        libc::abort()
    }
}

/// Says that it is not known.
#[unsafe(no_mangle)]
extern "C" fn pthread_getattr_np(_thread: libc::pthread_t, _attributes: *mut c_void) -> c_int {
    libc::ENOSYS
}
