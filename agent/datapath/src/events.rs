//! Refusals on their way out of the kernel.

use std::os::fd::{AsFd, BorrowedFd};

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray, RingBuf},
};
use bulkhead_common::{Departure, Event, Refusal, RefusalKey, Started};

use crate::{DatapathError, refusals::Refusals, tables::take};

/// The stream of refusals: poll it for reading, then drain it.
pub struct Events {
    ring: RingBuf<MapData>,
    started: RingBuf<MapData>,
    departures: RingBuf<MapData>,
    refusals: Refusals,
    lost: PerCpuArray<MapData, u64>,
    late: PerCpuArray<MapData, u64>,
}

impl Events {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            ring: take(ebpf, "EVENTS")?,
            started: take(ebpf, "STARTED")?,
            departures: take(ebpf, "DEPARTURES")?,
            refusals: Refusals::take(ebpf)?,
            lost: take(ebpf, "LOST")?,
            late: take(ebpf, "LATE")?,
        })
    }

    /// Counts refusals by kind from now on: without that none is reported.
    pub(crate) fn begin(&mut self) -> Result<(), DatapathError> {
        self.refusals.begin()
    }

    /// Hands over what is ready, but no more than `most` records: while refusals go on there may always be another. poll(2)
    /// tells of what is left at once; edge-triggered interfaces do not.
    pub fn drain(&mut self, most: usize, mut each: impl FnMut(Event)) {
        for _ in 0..most {
            let Some(record) = self.ring.next() else { break };
            // A record of another length is another version's; the kernel holds none, since the maps are ours.
            if let Ok(event) = bytemuck::try_pod_read_unaligned(&record) {
                each(event);
            }
        }
    }

    /// Hands over every program that has begun on this machine since the last call.
    pub fn drain_started(&mut self, mut each: impl FnMut(Started)) {
        while let Some(record) = self.started.next() {
            if let Ok(started) = bytemuck::try_pod_read_unaligned(&record) {
                each(started);
            }
        }
    }

    /// Hands over every process that was moved out of its workload since the last call.
    pub fn drain_departures(&mut self, mut each: impl FnMut(Departure)) {
        while let Some(record) = self.departures.next() {
            if let Ok(departure) = bytemuck::try_pod_read_unaligned(&record) {
                each(departure);
            }
        }
    }

    /// What to poll for processes that are moved out of their workloads.
    pub fn departures(&self) -> BorrowedFd<'_> {
        self.departures.as_fd()
    }

    /// What to poll for programs that begin.
    pub fn started(&self) -> BorrowedFd<'_> {
        self.started.as_fd()
    }

    /// What the kernel has counted of one kind of refusals; none if it has no entry.
    pub fn counted(&self, kind: &RefusalKey) -> Result<Option<Refusal>, DatapathError> {
        self.refusals.of(kind)
    }

    /// Makes room for other kinds: all are counted anew from here on. Tells what was counted of them before; the records of
    /// all of that have been made.
    pub fn count_anew(&mut self) -> Result<impl Iterator<Item = (RefusalKey, Refusal)>, DatapathError> {
        self.refusals.renew()
    }

    /// Refusals since the start that are in no record and in no entry: see [`bulkhead_common::Share`].
    pub fn lost(&self) -> Result<u64, DatapathError> {
        sum(&self.lost).map_err(DatapathError::map("read the counter of lost refusals"))
    }

    /// Grows when a record was due and found no room: there may be more in entries than records tell.
    pub fn late(&self) -> Result<u64, DatapathError> {
        sum(&self.late).map_err(DatapathError::map("read the counter of late records"))
    }
}

fn sum(counters: &PerCpuArray<MapData, u64>) -> Result<u64, MapError> {
    Ok(counters.get(&0, 0)?.iter().sum())
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
