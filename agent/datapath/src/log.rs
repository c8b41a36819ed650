//! Messages of the programs, for debugging them (feature `log`).

use std::{os::fd::AsFd as _, thread};

use aya::Ebpf;
use aya_log::EbpfLogger;
use rustix::event::{PollFd, PollFlags, poll};

/// Hands the programs' messages to the `log` crate, on a thread of its own until the process ends. A failure costs
/// messages and nothing else, so it is only said.
pub(crate) fn start(ebpf: &mut Ebpf) {
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            log::warn!("no messages from the BPF programs: {error}");
            return;
        }
    };
    let forward = move || {
        loop {
            logger.flush();
            let mut ready = [PollFd::from_borrowed_fd(logger.as_fd(), PollFlags::IN)];
            if poll(&mut ready, None).is_err() {
                return;
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("bpf-log".into()).spawn(forward) {
        log::warn!("no messages from the BPF programs: {error}");
    }
}
