//! What the programs have counted. They only ever add: here it is summed up over the CPUs and, once a generation is out of
//! force, taken over, so that its buckets can be used again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf,
    maps::{HashMap, IterableMap as _, MapData, MapError, PerCpuArray, Queue},
};
use bulkhead_common::{COUNTERS, Counter, CounterKey, OTHER, SubjectId, Verdict};

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

/// Traffic by kind, for who follows how it grows.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    /// What is counted now.
    pub counted: Vec<(CounterKey, Counter)>,
    /// What kinds that are no longer counted had come to in the end, since the last call.
    pub ended: Vec<(CounterKey, Counter)>,
}

/// What a generation that was only compared would have judged otherwise than the one in force.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    /// By kind: its verdict and reason, with the rule of whichever of both lets it pass. A kind may be here once for each number
    /// that the generation had.
    pub kinds: Vec<(CounterKey, Counter)>,
    /// Packets and calls that found no bucket of their own meanwhile, judged otherwise or not.
    pub untold: u64,
}

/// Traffic of subjects: whose, which way and what came of it. Of the rest of the key nothing is told.
pub type BySubject = BTreeMap<CounterKey, Counter>;

/// Reads what the programs have counted, on any thread: to go through all kinds of traffic takes a while.
#[derive(Clone)]
pub struct Tally(Arc<Mutex<Counters>>);

impl Tally {
    pub(crate) fn of(counters: Counters) -> Self {
        Self(Arc::new(Mutex::new(counters)))
    }

    pub(crate) fn counters(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All traffic since the start.
    pub fn traffic(&self) -> Result<Traffic, DatapathError> {
        self.counters().traffic()
    }

    /// All traffic since the start, and that of each subject of the generations held and those just replaced.
    pub fn read(&self) -> Result<(Traffic, BySubject), DatapathError> {
        self.counters().traffic_by_subject()
    }

    /// What is counted now, by kind.
    pub fn counted(&self) -> Result<Vec<(CounterKey, Counter)>, DatapathError> {
        self.counters().read()
    }

    /// What subjects of generations that are no longer held had in all, since the last call.
    pub fn take_retired(&self) -> BySubject {
        std::mem::take(&mut self.counters().retired)
    }

    /// All kinds of traffic. From the first call on, kinds that end are kept for the next.
    pub fn kinds(&self) -> Result<Kinds, DatapathError> {
        let mut counters = self.counters();
        let counted = counters.read()?;
        let ended = counters.ended.replace(BTreeMap::new()).unwrap_or_default();
        Ok(Kinds { counted, ended: ended.into_iter().collect() })
    }

    /// What a generation would have judged otherwise since it is compared, or until it was. `since`: its number as that began.
    /// None: another one is compared or in force since.
    pub fn differences(&self, since: u32) -> Result<Option<Differences>, DatapathError> {
        self.counters().differences(since)
    }

    /// Number of the kernel's map of counts: the same as long as counts go on, whichever agent reads them.
    pub fn map_id(&self) -> Result<u32, DatapathError> {
        self.counters().buckets.map().info().map(|info| info.id()).map_err(reading)
    }
}

/// The maps that programs count in.
pub(crate) struct Counters {
    index: HashMap<MapData, Wire<CounterKey>, u32>,
    free: Queue<MapData, u32>,
    buckets: PerCpuArray<MapData, Wire<Counter>>,
    /// Of generations whose buckets have been freed.
    retired: BySubject,
    /// The same by kind, if somebody wants to know.
    ended: Option<BTreeMap<CounterKey, Counter>>,
    compared: Option<Compared>,
}

/// What is known of the last comparison.
struct Compared {
    /// Number of the generation as it began. It may have had others since, all of them greater.
    since: u32,
    /// Of kinds whose buckets have been freed.
    ended: BTreeMap<CounterKey, Counter>,
    /// What had found no bucket as it began and, if it has ended, then.
    untold: (u64, Option<u64>),
}

/// So many kinds that have ended are told apart; those beyond only by subject.
const MOST_ENDED: usize = COUNTERS as usize;

/// Buckets that programs are never given: what generations that are out of force have counted, kept where the rest is, so
/// that it outlives the agent as well.
const PAST_ALLOWED: u32 = 1;
const PAST_DENIED: u32 = 2;
const PAST_WOULD_DENY: u32 = 3;
const PAST_CALLS: u32 = 4;

/// The first bucket that programs are given.
const FIRST: u32 = 5;

impl Counters {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            index: take(ebpf, "COUNTER_INDEX")?,
            free: take(ebpf, "FREE_COUNTERS")?,
            buckets: take(ebpf, "COUNTERS")?,
            retired: BySubject::new(),
            ended: None,
            compared: None,
        })
    }

    /// Gives the programs all buckets, unless an agent before this one has.
    pub(crate) fn hand_out(&mut self) -> Result<(), DatapathError> {
        self.try_hand_out().map_err(DatapathError::map("hand out the counters"))
    }

    fn try_hand_out(&mut self) -> Result<(), MapError> {
        match self.free.pop(0) {
            Ok(bucket) => return self.free.push(bucket, 0),
            Err(MapError::ElementNotFound) => {}
            Err(error) => return Err(error),
        }
        if self.kinds().next().is_some() {
            return Ok(());
        }
        (FIRST..COUNTERS).try_for_each(|bucket| self.free.push(bucket, 0))
    }

    /// Every kind of traffic that has been judged, with its counts.
    pub(crate) fn read(&self) -> Result<Vec<(CounterKey, Counter)>, DatapathError> {
        self.read_those(is_traffic)
    }

    /// A comparison begins with this generation; of those before it nothing is known any more.
    pub(crate) fn begin_comparison(&mut self, since: u32) -> Result<(), DatapathError> {
        let untold = (self.untold()?, None);
        self.compared = Some(Compared { since, ended: BTreeMap::new(), untold });
        Ok(())
    }

    /// It has ended, and what it has come to can be read until the next begins.
    pub(crate) fn end_comparison(&mut self) -> Result<(), DatapathError> {
        let now = self.untold()?;
        if let Some(Compared { untold: (_, end), .. }) = &mut self.compared {
            end.get_or_insert(now);
        }
        Ok(())
    }

    /// Nobody wants to know what it has come to.
    pub(crate) fn forget_comparison(&mut self) {
        self.compared = None;
    }

    /// What would have been judged otherwise in the last comparison, if it began with this generation.
    pub(crate) fn differences(&self, since: u32) -> Result<Option<Differences>, DatapathError> {
        let Some(compared) = self.compared.as_ref().filter(|compared| compared.since == since) else {
            return Ok(None);
        };
        let mut kinds = self.read_those(|key| compared.is_about(key))?;
        kinds.extend(compared.ended.iter().map(|(key, counter)| (*key, *counter)));
        let (before, end) = compared.untold;
        let now = end.map_or_else(|| self.untold(), Ok)?;
        Ok(Some(Differences { kinds, untold: now - before }))
    }

    fn untold(&self) -> Result<u64, DatapathError> {
        self.sum(OTHER).map(|other| other.packets).map_err(reading)
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
        self.traffic_by_subject().map(|(traffic, _)| traffic)
    }

    fn traffic_by_subject(&self) -> Result<(Traffic, BySubject), DatapathError> {
        let past = |bucket| self.sum(bucket).map_err(reading);
        let mut traffic = Traffic {
            allowed: past(PAST_ALLOWED)?,
            denied: past(PAST_DENIED)?,
            would_deny: past(PAST_WOULD_DENY)?,
            refused_calls: past(PAST_CALLS)?.packets,
            other: past(OTHER)?,
        };
        let mut subjects = self.retired.clone();
        for (key, counter) in self.read()? {
            traffic.add(&key, &counter);
            subjects.entry(key.of_subject()).or_default().add(&counter);
        }
        Ok((traffic, subjects))
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
        if is_traffic(key) {
            let past = past_bucket(key);
            let mut sum = self.sum(past)?;
            sum.add(&counter);
            self.write(past, sum)?;
            self.retired.entry(key.of_subject()).or_default().add(&counter);
            if let Some(ended) = &mut self.ended {
                enter(ended, key, &counter);
            }
        } else if let Some(compared) = self.compared.as_mut().filter(|compared| compared.is_about(key)) {
            enter(&mut compared.ended, key, &counter);
        }
        self.write(bucket, Counter::default())?;
        self.free.push(bucket, 0)
    }

    /// Sets a bucket that no program counts in.
    fn write(&mut self, bucket: u32, counter: Counter) -> Result<(), MapError> {
        let cpus = self.buckets.get(&bucket, 0)?.len();
        let mut values = vec![Wire(Counter::default()); cpus];
        values[0] = Wire(counter);
        self.buckets.set(bucket, values.try_into().map_err(MapError::IoError)?, 0)
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

impl Compared {
    fn is_about(&self, key: &CounterKey) -> bool {
        key.verdict_in_force().is_some() && key.generation >= self.since
    }
}

fn enter(ended: &mut BTreeMap<CounterKey, Counter>, key: &CounterKey, counter: &Counter) {
    let key = if ended.len() < MOST_ENDED { *key } else { key.of_subject() };
    ended.entry(key).or_default().add(counter);
}

/// Has it been judged in earnest? What was only compared has not, nor what an agent shows as it starts.
fn is_traffic(key: &CounterKey) -> bool {
    key.verdict_in_force().is_none() && key.subject != SubjectId::CANARY.0
}

/// Where a past kind of traffic is added up, as [`Traffic::add`] does.
fn past_bucket(key: &CounterKey) -> u32 {
    match key.verdict {
        _ if key.packets == 0 => PAST_CALLS,
        verdict if verdict == Verdict::Allowed as u8 => PAST_ALLOWED,
        verdict if verdict == Verdict::WouldDeny as u8 => PAST_WOULD_DENY,
        _ => PAST_DENIED,
    }
}

fn reading(source: MapError) -> DatapathError {
    DatapathError::Map { action: "read the counters", source }
}
