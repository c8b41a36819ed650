//! What the programs have counted. They only ever add: here it is summed up over the CPUs and, once a generation is out of
//! force, taken over, so that its buckets can be used again.

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, PerCpuArray, Queue},
};
use bulkhead_common::{COUNTERS, Counter, CounterKey, OTHER, Verdict};

use crate::{DatapathError, tables::take, wire::Wire};

/// Traffic since the start, by what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// It passed.
    pub allowed: Counter,
    /// It was refused.
    pub denied: Counter,
    /// It passed and would have been refused if its environment were enforced.
    pub would_deny: Counter,
    /// Calls that were refused before there was a packet.
    pub refused_calls: u64,
    /// It was judged like the rest, and there was no bucket left to count it in by kind.
    pub other: Counter,
}

impl Traffic {
    fn add(&mut self, key: &CounterKey, counter: &Counter) {
        let verdict = if key.verdict == Verdict::Allowed as u8 {
            &mut self.allowed
        } else if key.verdict == Verdict::WouldDeny as u8 {
            &mut self.would_deny
        } else {
            &mut self.denied
        };
        if key.packets == 1 {
            verdict.add(counter);
        } else {
            self.refused_calls += counter.packets;
        }
    }
}

/// The maps that programs count in.
pub(crate) struct Counters {
    index: HashMap<MapData, Wire<CounterKey>, u32>,
    free: Queue<MapData, u32>,
    buckets: PerCpuArray<MapData, Wire<Counter>>,
    /// Of generations that are out of force.
    past: Traffic,
}

impl Counters {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let mut counters = Self {
            index: take(ebpf, "COUNTER_INDEX")?,
            free: take(ebpf, "FREE_COUNTERS")?,
            buckets: take(ebpf, "COUNTERS")?,
            past: Traffic::default(),
        };
        let buckets = (0..COUNTERS).filter(|bucket| *bucket != OTHER);
        for bucket in buckets {
            counters.free.push(bucket, 0).map_err(DatapathError::map("hand out the counters"))?;
        }
        Ok(counters)
    }

    /// Every kind of traffic that has been judged, with its counts.
    pub(crate) fn read(&self) -> Result<Vec<(CounterKey, Counter)>, DatapathError> {
        self.read_those(|key| key.shadow == 0)
    }

    /// What a generation, compared with the one in force, would have judged otherwise.
    pub(crate) fn differences(&self, shadow: u32) -> Result<Vec<(CounterKey, Counter)>, DatapathError> {
        self.read_those(|key| key.shadow == 1 && key.generation == shadow)
    }

    fn read_those(
        &self,
        wanted: impl Fn(&CounterKey) -> bool,
    ) -> Result<Vec<(CounterKey, Counter)>, DatapathError> {
        self.kinds()
            .filter(|(key, _)| wanted(key))
            .map(|(key, bucket)| Ok((key, self.sum(bucket)?)))
            .collect::<Result<_, _>>()
            .map_err(reading)
    }

    /// All traffic since the start.
    pub(crate) fn traffic(&self) -> Result<Traffic, DatapathError> {
        let mut traffic = self.past;
        for (key, counter) in self.read()? {
            traffic.add(&key, &counter);
        }
        traffic.other = self.sum(OTHER).map_err(reading)?;
        Ok(traffic)
    }

    /// Takes over what past generations have counted, and frees their buckets. They must have been out of force for longer
    /// than a packet takes.
    pub(crate) fn retire(&mut self, is_past: impl Fn(u32) -> bool) -> Result<(), DatapathError> {
        let past: Vec<_> = self.kinds().filter(|(key, _)| is_past(key.generation)).collect();
        for (key, bucket) in past {
            self.free_bucket(&key, bucket)
                .map_err(DatapathError::map("free the counters of a past generation"))?;
        }
        Ok(())
    }

    fn free_bucket(&mut self, key: &CounterKey, bucket: u32) -> Result<(), MapError> {
        let counter = self.sum(bucket)?;
        self.index.remove(&Wire(*key))?;
        if key.shadow == 0 {
            self.past.add(key, &counter);
        }
        let cpus = self.buckets.get(&bucket, 0)?.len();
        let empty = vec![Wire(Counter::default()); cpus].try_into().map_err(MapError::IoError)?;
        self.buckets.set(bucket, empty, 0)?;
        self.free.push(bucket, 0)
    }

    fn kinds(&self) -> impl Iterator<Item = (CounterKey, u32)> {
        // A key that goes while it is read belongs to no generation in force.
        self.index.iter().filter_map(Result::ok).map(|(Wire(key), bucket)| (key, bucket))
    }

    fn sum(&self, bucket: u32) -> Result<Counter, MapError> {
        let mut sum = Counter::default();
        for Wire(counter) in self.buckets.get(&bucket, 0)?.iter() {
            sum.add(counter);
        }
        Ok(sum)
    }
}

fn reading(source: MapError) -> DatapathError {
    DatapathError::Map { action: "read the counters", source }
}
