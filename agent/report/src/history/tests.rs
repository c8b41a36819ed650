use std::{
    fs,
    sync::{Arc, Mutex},
};

use bulkhead_common::{Direction, Reason, Verdict};
use bulkhead_policy::{Source, load};
use tempfile::TempDir;

use super::*;
use crate::{Followed, sinks::testing::denial};
use bulkhead_common::{Counter, CounterKey};

const ROOMY: Limits = Limits { size: 64 << 20, age: Duration::from_hours(24) };

/// Counters that a test sets.
#[derive(Clone, Default)]
struct Counters(Arc<Mutex<Counted>>);

impl Counters {
    fn set(&self, port: u16, packets: u64) {
        let mut all = self.0.lock().unwrap();
        all.origin = "this boot".into();
        let now =
            Counter { packets, bytes: 100 * packets, connections: packets / 10, first_seen: 1, last_seen: 2 };
        match all.counted.iter_mut().find(|(key, _)| *key == kind(port)) {
            Some((_, counter)) => *counter = now,
            None => all.counted.push((kind(port), now)),
        }
    }

    /// The generation is retired, and its counters with it.
    fn end(&self) {
        let mut all = self.0.lock().unwrap();
        let gone = std::mem::take(&mut all.counted);
        all.ended.extend(gone);
    }

    fn read(&self) -> Counted {
        let mut all = self.0.lock().unwrap();
        Counted {
            origin: all.origin.clone(),
            counted: all.counted.clone(),
            ended: std::mem::take(&mut all.ended),
        }
    }
}

fn kind(port: u16) -> CounterKey {
    CounterKey {
        generation: 7,
        subject: 1,
        port,
        protocol: 6,
        direction: Direction::Egress as u8,
        verdict: Verdict::Allowed as u8,
        reason: Reason::Rule as u8,
        packets: 1,
        ..CounterKey::default()
    }
}

struct Kept {
    history: History,
    writing: Writing,
    flows: Feed<Flow>,
}

fn keep(folder: &TempDir, counters: &Counters, limits: Limits) -> Kept {
    keep_under(7, folder, counters, limits)
}

/// Keeps it as an agent does that has put the policy in force under this generation.
fn keep_under(generation: u32, folder: &TempDir, counters: &Counters, limits: Limits) -> Kept {
    let counters = counters.clone();
    keep_counting(generation, folder, Box::new(move || Ok(counters.read())), limits)
}

fn keep_counting(generation: u32, folder: &TempDir, count: Count, limits: Limits) -> Kept {
    let text = "[workload.web]\nselect = { systemd = \"web.service\" }\n[[allow]]\nid = \"all\"\nfrom = \"web\"\nto = \"any\"\n";
    let policy = load(&[Source::new("web.toml", text)]).unwrap().policy;
    let policies = Policies::default();
    policies.note(generation, Arc::new(policy), BTreeMap::new());
    let flows = Feed::default();
    let (history, writing) =
        History::start(folder.path().join("state"), limits, policies, count, flows.clone()).unwrap();
    Kept { history, writing, flows }
}

impl Kept {
    fn write(&self) -> Result<Reached, HistoryError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(self.history.write())
    }

    fn flows(&self, wanted: Wanted) -> Vec<Flow> {
        self.write().unwrap();
        let mut all = Vec::new();
        self.history
            .read(
                wanted,
                |_: &Flow| true,
                |flow| {
                    all.push(flow);
                    true
                },
            )
            .unwrap();
        all
    }

    fn packets(&self) -> u64 {
        self.flows(Wanted::default()).iter().map(|flow| flow.packets).sum()
    }

    fn denials(&self, wanted: Wanted) -> Vec<Denial> {
        self.write().unwrap();
        let mut all = Vec::new();
        self.history
            .read(
                wanted,
                |_: &Denial| true,
                |denial| {
                    all.push(denial);
                    true
                },
            )
            .unwrap();
        all
    }

    fn finish(self) {
        drop(self.history);
        self.writing.finish(Duration::from_secs(10));
    }
}

#[test]
fn flows_are_what_the_counters_have_grown_by() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    counters.set(443, 30);
    let kept = keep(&folder, &counters, ROOMY);
    let mut reader = kept.flows.follow();
    kept.write().unwrap();
    counters.set(443, 42);
    counters.set(80, 10);
    let flows = kept.flows(Wanted::default());
    let told: Vec<_> =
        flows.iter().map(|flow| (&*flow.kind.service, flow.packets, flow.bytes, flow.connections)).collect();
    assert_eq!(told, [("tcp/443", 30, 3000, 3), ("tcp/443", 12, 1200, 1), ("tcp/80", 10, 1000, 1)]);
    let last = &flows[2];
    assert_eq!((last.from().as_str(), last.to().as_str()), ("web", "everybody else"));
    assert!(last.is_from("web") && !last.is_to("web"));
    assert_eq!(last.kind.rule.as_ref().map(|rule| rule.id.as_str()), Some("all"));
    assert_eq!(Flow::from_json(&last.to_json()).unwrap(), *last);
    assert_eq!(kept.flows(Wanted::default()).len(), 3, "nothing has changed");
    let mut followed = 0;
    while reader.next_now().is_some() {
        followed += 1;
    }
    // The first may have been written before it was followed.
    assert!((2..=3).contains(&followed), "{followed}");
    kept.finish();
}

#[test]
fn the_next_agent_goes_on_where_one_has_ended() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    counters.set(443, 30);
    let kept = keep(&folder, &counters, ROOMY);
    assert_eq!(kept.packets(), 30);
    kept.finish();
    counters.set(443, 35);
    let kept = keep(&folder, &counters, ROOMY);
    assert_eq!(kept.packets(), 35);
    kept.finish();
    // The machine has booted: counters begin at zero.
    counters.0.lock().unwrap().origin = "next boot".into();
    counters.0.lock().unwrap().counted[0].1.packets = 5;
    let kept = keep(&folder, &counters, ROOMY);
    assert_eq!(kept.packets(), 40);
    kept.finish();
}

#[test]
fn denials_do_not_wait_for_counters_that_take_long_to_read() {
    const EACH: u64 = 1_000;
    let folder = TempDir::new().unwrap();
    // Not to take more than a hundredth of the time, they are read every 20 s.
    let count: Count = Box::new(|| {
        thread::sleep(Duration::from_millis(200));
        Ok(Counted { origin: "this boot".into(), ..Counted::default() })
    });
    let kept = keep_counting(7, &folder, count, ROOMY);
    kept.write().unwrap();
    let denial = Arc::new(Denial { count: 1, ..denial() });
    for number in 1..=12 * EACH {
        kept.history.add(number, &denial);
        if number % EACH == 0 {
            thread::sleep(Duration::from_millis(250));
        }
    }
    assert_eq!((kept.history.lost(), kept.history.failing()), (0, None));
    assert_eq!(kept.denials(Wanted::default()).len() as u64, 12 * EACH);
    kept.finish();
}

#[test]
fn what_ends_is_written_to_its_end() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    counters.set(443, 30);
    let kept = keep(&folder, &counters, ROOMY);
    kept.write().unwrap();
    counters.set(443, 50);
    counters.set(80, 1);
    counters.end();
    assert_eq!(kept.packets(), 51);
    counters.set(443, 2);
    assert_eq!(kept.packets(), 53, "it has begun again");
    kept.finish();
}

#[test]
fn the_last_so_many_are_told_in_their_order() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    let kept = keep(&folder, &counters, ROOMY);
    for generation in 1..=1000 {
        kept.history.add(generation.into(), &Arc::new(Denial { generation, count: 1, ..denial() }));
    }
    let reached = kept.write().unwrap();
    assert_eq!(reached.denial, 1000);
    kept.history.add(1001, &Arc::new(denial()));
    let told = kept.denials(Wanted { limit: Some(300), until: Some(reached), ..Wanted::default() });
    let generations: Vec<_> = told.iter().map(|denial| denial.generation).collect();
    assert_eq!(generations, (701..=1000).collect::<Vec<_>>());
    assert_eq!(kept.denials(Wanted::default()).len(), 1001);
    let later = Timestamp::now() + Duration::from_hours(1);
    assert!(kept.denials(Wanted { since: Some(later), ..Wanted::default() }).is_empty());
    assert_eq!((kept.history.written(), kept.history.lost()), (1000 + denial().count, 0));
    kept.finish();
}

#[test]
fn the_file_stays_small_and_the_oldest_goes_first() {
    const SIZE: u64 = 8 << 20;
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    let kept = keep(&folder, &counters, Limits { size: SIZE, ..ROOMY });
    let mut number = 0;
    for _ in 0..40 {
        for _ in 0..500 {
            number += 1;
            let generation = u32::try_from(number).unwrap();
            kept.history.add(number, &Arc::new(Denial { generation, ..denial() }));
        }
        kept.write().unwrap();
        let size = fs::metadata(folder.path().join("state/history.redb")).unwrap().len();
        assert!(size <= SIZE, "{size} bytes");
    }
    let generations: Vec<_> =
        kept.denials(Wanted::default()).iter().map(|denial| denial.generation).collect();
    assert!((1_000..20_000).contains(&generations.len()), "{} are left", generations.len());
    let first = u32::try_from(20_001 - generations.len()).unwrap();
    assert_eq!(generations, (first..=20_000).collect::<Vec<_>>());
    kept.finish();
}

#[test]
fn who_is_refused_all_the_time_pushes_out_nobody_else() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    let kept = keep(&folder, &counters, Limits { size: 8 << 20, ..ROOMY });
    let of = |name: &str, generation| {
        let workload = crate::Workload { name: Some(name.to_owned()), ..denial().workload };
        Arc::new(Denial { workload, generation, count: 1, ..denial() })
    };
    counters.set(443, 30);
    let mut number = 0;
    for generation in 1..=300 {
        number += 1;
        kept.history.add(number, &of("quiet", generation));
    }
    for _ in 0..40 {
        for _ in 0..500 {
            number += 1;
            kept.history.add(number, &of("loud", 0));
        }
        kept.write().unwrap();
    }
    let all = kept.denials(Wanted::default());
    let quiet: Vec<_> = all.iter().map(|denial| denial.generation).filter(|n| *n > 0).collect();
    assert_eq!(quiet, (1..=300).collect::<Vec<_>>());
    assert_eq!(kept.packets(), 30, "flows are somebody's, too");
    assert_eq!(all.len() as u64 + kept.history.evicted(), kept.history.written());
    assert!(kept.history.evicted() > 5_000, "{}", kept.history.evicted());
    kept.finish();
}

#[test]
fn what_is_too_old_goes() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    counters.set(443, 30);
    let kept = keep(&folder, &counters, Limits { age: Duration::from_millis(300), ..ROOMY });
    kept.history.add(1, &Arc::new(denial()));
    assert_eq!((kept.packets(), kept.denials(Wanted::default()).len()), (30, 1));
    thread::sleep(Duration::from_millis(400));
    counters.set(80, 7);
    counters.set(443, 31);
    // What is written with it is older as it goes.
    kept.write().unwrap();
    assert_eq!(kept.denials(Wanted::default()).len(), 0);
    assert_eq!(kept.packets(), 8);
    kept.finish();
}

#[test]
fn a_damaged_file_is_put_aside() {
    let damages: [fn(&mut Vec<u8>); 3] =
        [|file| file.fill(0x5a), |file| file.truncate(5000), |file| file[4096..].fill(0xff)];
    for damage in damages {
        let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
        counters.set(443, 30);
        let kept = keep(&folder, &counters, ROOMY);
        kept.write().unwrap();
        kept.finish();
        let path = folder.path().join("state/history.redb");
        let mut file = fs::read(&path).unwrap();
        damage(&mut file);
        fs::write(&path, file).unwrap();
        let kept = keep(&folder, &counters, ROOMY);
        assert_eq!(kept.packets(), 30);
        assert!(folder.path().join("state/history.redb.unreadable").exists());
        kept.finish();
    }
}

#[test]
fn two_agents_do_not_share_a_history() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    let first = keep(&folder, &counters, ROOMY);
    first.write().unwrap();
    let second = keep(&folder, &counters, ROOMY);
    let error = second.write().unwrap_err().to_string();
    assert!(error.contains("in use by another agent"), "{error}");
    assert!(second.history.failing().is_some_and(|why| why.contains("another agent")));
    first.finish();
    second.write().unwrap();
    assert_eq!(second.history.failing(), None);
    second.finish();
}

#[test]
fn a_folder_that_cannot_be_used_holds_nobody_up_and_losses_are_counted() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    let blocked = folder.path().join("state");
    fs::write(&blocked, "no folder").unwrap();
    counters.set(443, 30);
    let kept = keep(&folder, &counters, ROOMY);
    let one = Arc::new(Denial { count: 1, ..denial() });
    let before = std::time::Instant::now();
    for number in 1..=20_000 {
        kept.history.add(number, &one);
    }
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    assert!(kept.write().is_err() && kept.history.failing().is_some());
    fs::remove_file(&blocked).unwrap();
    let there = kept.denials(Wanted::default()).len() as u64;
    assert!(kept.history.lost() > 0);
    assert_eq!((there, there + kept.history.lost()), (kept.history.written(), 20_000));
    assert_eq!(kept.packets(), 30);
    kept.finish();
}

/// What the rule of the tests' policy has allowed: packets, connections, and whether there is a last.
fn hits(kept: &Kept) -> (u64, u64, bool) {
    kept.write().unwrap();
    let hits = kept.history.hits().unwrap();
    assert_eq!(hits.keys().collect::<Vec<_>>(), ["all"]);
    (hits["all"].packets, hits["all"].connections, hits["all"].last.is_some())
}

#[test]
fn a_rule_is_known_before_its_first_hit() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    let before = Timestamp::now();
    let kept = keep(&folder, &counters, ROOMY);
    assert_eq!(hits(&kept), (0, 0, false));
    let since = kept.history.hits().unwrap()["all"].since;
    assert!(since.duration_since(before).as_secs() < 10, "{since}");
    counters.set(443, 30);
    assert_eq!(hits(&kept), (30, 3, true));
    kept.finish();
}

#[test]
fn hits_outlive_agents_boots_and_the_flows_that_they_were() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    let limits = Limits { age: Duration::from_millis(300), ..ROOMY };
    counters.set(443, 30);
    let kept = keep(&folder, &counters, limits);
    assert_eq!(hits(&kept).0, 30);
    kept.finish();
    counters.set(443, 35);
    let kept = keep(&folder, &counters, limits);
    assert_eq!(hits(&kept).0, 35);
    kept.finish();
    thread::sleep(Duration::from_millis(400));
    counters.0.lock().unwrap().origin = "next boot".into();
    counters.0.lock().unwrap().counted[0].1.packets = 5;
    let kept = keep(&folder, &counters, limits);
    assert_eq!(kept.packets(), 5, "the flows of before are too old");
    assert_eq!(hits(&kept).0, 40);
    kept.finish();
}

#[test]
fn what_a_policy_before_has_counted_on_is_told_in_its_words() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    counters.set(443, 30);
    let kept = keep(&folder, &counters, ROOMY);
    assert_eq!(hits(&kept).0, 30);
    kept.finish();
    counters.set(443, 35);
    // This agent knows generation 8 alone.
    let kept = keep_under(8, &folder, &counters, ROOMY);
    let mut reader = kept.flows.follow();
    kept.write().unwrap();
    assert_eq!(hits(&kept).0, 35);
    if let Some(Followed::Report(_, flow)) = reader.next_now() {
        assert_eq!((flow.packets, flow.from().as_str()), (5, "web"));
    }
    kept.finish();
}

#[test]
fn what_a_rule_refuses_that_has_expired_is_no_hit() {
    let (folder, counters) = (TempDir::new().unwrap(), Counters::default());
    let mut refused = kind(443);
    (refused.verdict, refused.reason) = (Verdict::Denied as u8, Reason::Expired as u8);
    counters.set(80, 1);
    counters.0.lock().unwrap().counted[0].0 = refused;
    let kept = keep(&folder, &counters, ROOMY);
    assert_eq!(kept.packets(), 1);
    assert_eq!(hits(&kept), (0, 0, false));
    kept.finish();
}
