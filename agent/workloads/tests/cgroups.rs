//! The cgroup tree as the kernel really has it. Needs root and a cgroup v2 hierarchy; every test makes a subtree of
//! its own and removes it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bulkhead_policy::{Identity, Policy, Source, WorkloadId, load};
use bulkhead_workloads::{CgroupId, CgroupRoot, Changes, Edit, Members, Watcher, addresses, list_processes};
use tokio::time::timeout;

/// A subtree of its own, removed with all that is in it.
struct Subtree(PathBuf);

impl Subtree {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let hierarchy = CgroupRoot::find(None).expect("these tests need cgroup v2");
        let name =
            format!("bulkhead-workloads-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = hierarchy.path().join(name);
        fs::create_dir(&path).expect("these tests need root");
        Self(path)
    }

    fn root(&self) -> CgroupRoot {
        CgroupRoot::find(Some(&self.0)).unwrap()
    }

    fn add(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn remove(&self, name: &str) {
        remove(&self.0.join(name));
    }

    fn watch(&self) -> (Watcher, Changes) {
        Watcher::start(self.root()).unwrap()
    }
}

impl Drop for Subtree {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    // A process that has just ended may keep its cgroup for a moment.
    let end = Instant::now() + Duration::from_secs(2);
    while fs::remove_dir(path).is_err() && path.exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Paths of all cgroups that the watcher knows once it has seen `count` of them.
async fn paths(watcher: &mut Watcher, count: usize) -> BTreeSet<String> {
    let known = |watcher: &Watcher| {
        let tree = watcher.tree();
        let tree = tree.read();
        tree.ids().filter_map(|id| tree.path(id)).collect::<BTreeSet<_>>()
    };
    let end = Instant::now() + Duration::from_secs(5);
    while known(watcher).len() != count && Instant::now() < end {
        let _ = timeout(Duration::from_millis(100), watcher.changed()).await;
    }
    known(watcher)
}

fn policy(text: &str) -> Policy {
    load(&[Source::new("test.toml", text)]).unwrap().policy
}

/// A process in a cgroup, and in a network namespace of its own with one address, until it is dropped.
struct Abroad(Child);

impl Abroad {
    fn new(cgroup: &Path, address: &str, unshare: &[&str]) -> Self {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec unshare {} sh -c \
             'ip link set lo up && ip address add {address} dev lo && exec sleep 60'",
            cgroup.display(),
            unshare.join(" ")
        );
        Self(Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Abroad {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn cgroups_are_known_at_start_and_as_they_come_and_go() {
    let subtree = Subtree::new();
    subtree.add("system.slice/nginx.service");
    let (mut watcher, there) = subtree.watch();
    assert_eq!(there.appeared.len(), 3, "the root, the slice, the service");
    assert_eq!(there.appeared[0], subtree.root().id());

    subtree.add("ci.slice/job.scope/nested");
    let all = paths(&mut watcher, 6).await;
    assert!(all.contains("/ci.slice/job.scope/nested"), "{all:?}");

    subtree.remove("ci.slice");
    let left = paths(&mut watcher, 3).await;
    assert_eq!(left, ["/", "/system.slice", "/system.slice/nginx.service"].map(String::from).into());
}

#[tokio::test]
async fn a_restarted_unit_is_another_cgroup_within_20_milliseconds() {
    let subtree = Subtree::new();
    let unit = subtree.add("nginx.service");
    let (mut watcher, there) = subtree.watch();
    let before = there.appeared[1];
    fs::remove_dir(&unit).unwrap();
    subtree.add("nginx.service");
    let since = Instant::now();
    let mut appeared = Vec::new();
    let mut vanished = Vec::new();
    while appeared.is_empty() {
        let changes = timeout(Duration::from_secs(5), watcher.changed()).await.unwrap().unwrap();
        appeared.extend(changes.appeared);
        vanished.extend(changes.vanished);
    }
    let took = since.elapsed();
    assert_eq!(vanished, [before]);
    assert_ne!(appeared, [before]);
    assert!(took < Duration::from_millis(20), "took {took:?}");
}

#[tokio::test]
async fn a_process_that_enters_a_cgroup_is_noticed() {
    let subtree = Subtree::new();
    let job = subtree.add("job");
    let (mut watcher, _) = subtree.watch();
    let script = format!("echo $$ > {}/cgroup.procs; exec sleep 60", job.display());
    let mut process = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    let entered = timeout(Duration::from_secs(5), watcher.changed()).await;
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(entered.unwrap().unwrap(), Changes { occupied: true, ..Changes::default() });
}

#[tokio::test]
async fn a_storm_of_nested_cgroups_leaves_the_tree_as_it_is() {
    let subtree = Subtree::new();
    let (mut watcher, _) = subtree.watch();
    let top = subtree.0.clone();
    let storm = std::thread::spawn(move || {
        for n in 0..300 {
            let deep = top.join(format!("{n}/a/b/c"));
            fs::create_dir_all(&deep).unwrap();
            if n % 3 != 0 {
                remove(&top.join(n.to_string()));
            }
        }
    });
    while !storm.is_finished() {
        let _ = timeout(Duration::from_millis(1), watcher.changed()).await;
    }
    storm.join().unwrap();
    let all = paths(&mut watcher, 1 + 100 * 4).await;
    assert_eq!(all.len(), 1 + 100 * 4);
    assert!(all.contains("/297/a/b/c"));
}

#[tokio::test]
async fn names_below_a_directory_that_a_user_owns_are_delegated() {
    let subtree = Subtree::new();
    let user = subtree.add("user@1000.service");
    let shared = subtree.add("shared.slice");
    chown(&user, Some(1000), None).unwrap();
    chown(&shared, None, Some(1000)).unwrap();
    let (mut watcher, _) = subtree.watch();
    subtree.add("user@1000.service/nginx.service/below");
    subtree.add("shared.slice/of-root");
    paths(&mut watcher, 6).await;
    let tree = watcher.tree();
    let tree = tree.read();
    let delegated = |path: &str| {
        let id = tree.ids().find(|id| tree.path(*id).as_deref() == Some(path)).expect(path);
        tree.lineage(id).last().unwrap().delegated
    };
    assert!(!delegated("/user@1000.service"), "root made the directory that it gave away");
    assert!(delegated("/user@1000.service/nginx.service"));
    assert!(delegated("/user@1000.service/nginx.service/below"));
    assert!(!delegated("/shared.slice/of-root"), "the group cannot write");
}

#[tokio::test]
async fn only_the_top_of_a_workload_needs_an_entry() {
    let subtree = Subtree::new();
    let policy = policy("[workload.ci]\nselect = { cgroup = \"/ci/**\" }\n");
    subtree.add("ci/job/nested");
    subtree.add("other");
    let (mut watcher, there) = subtree.watch();
    let mut members = Members::new(&subtree.root());
    let edits = members.update(&watcher.tree().read(), &policy, &there);
    let ci = CgroupId(inode(&subtree.0.join("ci")));
    let placed: Vec<_> = edits.iter().filter(|edit| matches!(edit, Edit::Place(..))).collect();
    assert_eq!(placed, [&Edit::Place(ci, Identity::Workload(WorkloadId(0)))]);
    assert_eq!(edits.len(), 5, "of every cgroup the kernel must hold the same");
    assert_eq!(members.of_workloads().count(), 3);

    subtree.remove("ci");
    while members.of_workloads().count() > 0 {
        let changes = timeout(Duration::from_secs(5), watcher.changed()).await.unwrap().unwrap();
        let edits = members.update(&watcher.tree().read(), &policy, &changes);
        assert_eq!(edits, [], "the kernel forgets what is gone by itself");
    }
    assert_eq!(members.placed().count(), 0);
}

#[test]
fn an_address_is_that_of_the_workload_that_has_its_namespace_to_itself() {
    let subtree = Subtree::new();
    let cgroups = ["db", "web", "user"].map(|name| subtree.add(name));
    let _db = Abroad::new(&cgroups[0], "198.51.100.1/32", &["--net"]);
    let _web = Abroad::new(&cgroups[1], "198.51.100.2/32", &["--net"]);
    // Both say that they are 198.51.100.3; who it is cannot be told.
    let _twice = Abroad::new(&cgroups[0], "198.51.100.3/32", &["--net"]);
    let _other = Abroad::new(&cgroups[1], "198.51.100.3/32", &["--net"]);
    // What an unprivileged user could do as well.
    let _user = Abroad::new(&cgroups[2], "198.51.100.4/32", &["--user", "--map-root-user", "--net"]);

    let workloads: Vec<_> =
        cgroups.iter().cloned().enumerate().map(|(n, path)| (WorkloadId(n), path)).collect();
    let end = Instant::now() + Duration::from_secs(5);
    let inventory = loop {
        let inventory = addresses(&list_processes(workloads.clone())).unwrap();
        // Both of the last two must have come up before it shows that they contradict each other.
        let contradicted = inventory.addresses.get(&[198, 51, 100, 3].into()) == Some(&None);
        if (inventory.addresses.len() >= 3 && contradicted) || Instant::now() > end {
            break inventory;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let owner = |last: u8| inventory.addresses.get(&[198, 51, 100, last].into()).copied();
    assert_eq!(owner(1), Some(Some(WorkloadId(0))));
    assert_eq!(owner(2), Some(Some(WorkloadId(1))));
    assert_eq!(owner(3), Some(None), "claimed by two");
    assert_eq!(owner(4), None, "a user's own namespace proves nothing");
    assert!(inventory.local.contains(&[198, 51, 100, 3].into()));
    assert!(!inventory.local.contains(&[198, 51, 100, 4].into()));
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}
