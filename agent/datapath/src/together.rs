//! Calls that spend their time waiting, made together.

use std::{panic::resume_unwind, thread};

/// Does both at once.
///
/// For writes into arrays of maps: the kernel lets each wait until no program runs any more that could use what was there
/// (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c), some 20 ms, and all can wait for the same.
pub(crate) fn both<E: Send>(
    one: impl FnOnce() -> Result<(), E> + Send,
    other: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        one.join().unwrap_or_else(|panic| resume_unwind(panic)).and(other)
    })
}
