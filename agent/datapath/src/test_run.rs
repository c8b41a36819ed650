//! A packet program run on one packet, by the kernel, without being attached anywhere (`BPF_PROG_TEST_RUN`).
//!
//! The kernel makes a socket for the packet that no table knows (`bpf_prog_test_run_skb` in net/bpf/test_run.c): its
//! cgroup and network namespace are those of the calling thread, it has no type, no storage and a new cookie.
//! So the programs take the packet for the kernel's own or a datagram that answers nothing.

use aya::programs::{CgroupSkb, Program, TestRun as _, TestRunOptions};
use bulkhead_common::Direction;

use crate::{Datapath, DatapathError};

/// `struct __sk_buff` (include/uapi/linux/bpf.h), up to the last field that is set here.
const CONTEXT: usize = 44;
/// Where `ingress_ifindex` and `ifindex` lie in it.
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

impl Datapath {
    /// Runs `egress` or `ingress`, and what compares a generation with the one in force, on an Ethernet frame, as on the way
    /// out by or in from the device with this index in the caller's network namespace. Does the packet pass?
    ///
    /// Minimum kernel: 5.16, which takes a device for a packet on its way in. Before 5.15 the packet's socket has no
    /// cgroup of the caller's.
    pub fn test_run(&self, way: Direction, frame: &[u8], device: u32) -> Result<bool, DatapathError> {
        let (name, shadow) = match way {
            Direction::Egress => ("egress", "shadow_egress"),
            Direction::Ingress => ("ingress", "shadow_ingress"),
        };
        let mut context = [0; CONTEXT];
        context[IFINDEX..][..4].copy_from_slice(&device.to_ne_bytes());
        if matches!(way, Direction::Ingress) {
            context[INGRESS_IFINDEX..][..4].copy_from_slice(&device.to_ne_bytes());
        }
        let run = |name| {
            let options =
                TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
            self.packet_program(name)?
                .test_run(options)
                .map(|result| result.return_value != 0)
                .map_err(|source| DatapathError::Program { name, source })
        };
        let passes = run(name)?;
        let is_compared = self.packet_program(shadow)?.fd().is_ok();
        Ok(passes & (!is_compared || run(shadow)?))
    }

    fn packet_program(&self, name: &'static str) -> Result<&CgroupSkb, DatapathError> {
        match self.programs.get(name) {
            Some(Program::CgroupSkb(program)) => Ok(program),
            _ => Err(DatapathError::Missing { name }),
        }
    }
}
