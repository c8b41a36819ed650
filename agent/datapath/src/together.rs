//! What takes its time, done together.

use std::{panic::resume_unwind, thread};

/// [`together`], of writes into arrays of maps: the kernel lets each wait until no program runs any more that could use
/// what was there (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c), some 12 ms, and all can wait for the same.
pub(crate) fn both<E: Send>(
    one: impl FnOnce() -> Result<(), E> + Send,
    other: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let (one, other) = together(one, other);
    one.and(other)
}

/// Does both at once, the latter on this thread.
pub(crate) fn together<T: Send, U>(one: impl FnOnce() -> T + Send, other: impl FnOnce() -> U) -> (T, U) {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join().unwrap_or_else(|panic| resume_unwind(panic)), other)
    })
}
