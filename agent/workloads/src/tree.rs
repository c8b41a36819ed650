//! The cgroups below the root, as far as they are known.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bulkhead_policy::CgroupDir;

/// Number that the kernel gives a cgroup for its lifetime and to no other after it: the inode of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId(pub u64);

/// How many removed cgroups keep their path, for reports of refusals that outlive them.
const REMEMBERED: usize = 4096;

/// How deep below the root directories are followed. Identity is inherited below, so nothing is lost but the path in
/// reports.
const MAX_DEPTH: usize = 32;

/// How many directories are followed: those that root made, and those that others did. Apart, so that an
/// unprivileged user's flood of directories cannot hide one that root made.
const MAX_OWN: usize = 200_000;
const MAX_DELEGATED: usize = 20_000;

/// The cgroups below the root.
#[derive(Debug)]
pub struct Tree {
    root: CgroupId,
    nodes: HashMap<CgroupId, Node>,
    delegated: usize,
    ignored: u64,
    gone: VecDeque<(CgroupId, String)>,
}

#[derive(Debug)]
struct Node {
    parent: CgroupId,
    name: String,
    delegated: bool,
    depth: usize,
    children: BTreeMap<String, CgroupId>,
}

impl Tree {
    /// Nothing but its root.
    pub fn new(root: CgroupId) -> Self {
        let node =
            Node { parent: root, name: String::new(), delegated: false, depth: 0, children: BTreeMap::new() };
        Self { root, nodes: HashMap::from([(root, node)]), delegated: 0, ignored: 0, gone: VecDeque::new() }
    }

    /// The root.
    pub fn root(&self) -> CgroupId {
        self.root
    }

    /// Is this cgroup there?
    pub fn contains(&self, id: CgroupId) -> bool {
        self.nodes.contains_key(&id)
    }

    /// Every cgroup, the root included, in no order.
    pub fn ids(&self) -> impl Iterator<Item = CgroupId> {
        self.nodes.keys().copied()
    }

    /// Every cgroup, each after the one that holds it.
    pub fn top_down(&self) -> Vec<CgroupId> {
        let mut order = vec![self.root];
        let mut next = 0;
        while let Some(&at) = order.get(next) {
            order.extend(self.children(at).map(|(_, child)| child));
            next += 1;
        }
        order
    }

    /// How many cgroups there are, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A tree has at least a root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Directories that were not followed because there are too many, or too deep.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// The cgroup that holds this one; none for the root.
    pub fn parent(&self, id: CgroupId) -> Option<CgroupId> {
        self.nodes.get(&id).filter(|_| id != self.root).map(|node| node.parent)
    }

    /// How many levels it lies below the root.
    pub fn depth(&self, id: CgroupId) -> Option<usize> {
        self.nodes.get(&id).map(|node| node.depth)
    }

    /// Its path below the root, `/` for the root itself; also of cgroups removed not long ago.
    pub fn path(&self, id: CgroupId) -> Option<String> {
        if !self.contains(id) {
            return self.gone.iter().rev().find(|(gone, _)| *gone == id).map(|(_, path)| path.clone());
        }
        let lineage = self.lineage(id);
        if lineage.is_empty() {
            return Some("/".to_owned());
        }
        Some(lineage.iter().fold(String::new(), |path, dir| path + "/" + dir.name))
    }

    /// The directories from below the root down to this cgroup: what selectors are matched against.
    pub fn lineage(&self, id: CgroupId) -> Vec<CgroupDir<'_>> {
        let mut dirs = Vec::new();
        let mut at = id;
        while at != self.root
            && let Some(node) = self.nodes.get(&at)
        {
            dirs.push(CgroupDir { name: &node.name, delegated: node.delegated });
            at = node.parent;
        }
        dirs.reverse();
        dirs
    }

    /// Names and ids of the cgroups directly in this one.
    pub(crate) fn children(&self, id: CgroupId) -> impl Iterator<Item = (&str, CgroupId)> {
        self.nodes
            .get(&id)
            .into_iter()
            .flat_map(|node| node.children.iter().map(|(name, id)| (name.as_str(), *id)))
    }

    pub(crate) fn child(&self, parent: CgroupId, name: &str) -> Option<CgroupId> {
        self.nodes.get(&parent)?.children.get(name).copied()
    }

    /// May names in this directory be chosen by somebody else than root, because a directory above already was?
    pub(crate) fn is_delegated(&self, id: CgroupId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.delegated)
    }

    /// Adds a cgroup that has appeared; false if it is not followed.
    pub(crate) fn insert(&mut self, parent: CgroupId, name: &str, id: CgroupId, delegated: bool) -> bool {
        let own = self.nodes.len() - self.delegated;
        let full = if delegated { self.delegated >= MAX_DELEGATED } else { own >= MAX_OWN };
        let Some(above) = self.nodes.get_mut(&parent) else { return false };
        if full || above.depth >= MAX_DEPTH {
            self.ignored += 1;
            return false;
        }
        let depth = above.depth + 1;
        above.children.insert(name.to_owned(), id);
        let node = Node { parent, name: name.to_owned(), delegated, depth, children: BTreeMap::new() };
        self.nodes.insert(id, node);
        self.delegated += usize::from(delegated);
        true
    }

    /// Removes a cgroup and all below it; those removed, the lowest first.
    pub(crate) fn remove(&mut self, id: CgroupId) -> Vec<CgroupId> {
        let mut order = vec![id];
        let mut next = 0;
        while let Some(&at) = order.get(next) {
            order.extend(self.children(at).map(|(_, child)| child));
            next += 1;
        }
        order.reverse();
        for at in &order {
            let path = self.path(*at);
            let Some(node) = self.nodes.remove(at) else { continue };
            self.delegated -= usize::from(node.delegated);
            if let Some(parent) = self.nodes.get_mut(&node.parent) {
                parent.children.remove(&node.name);
            }
            if let Some(path) = path {
                self.gone.push_back((*at, path));
            }
        }
        let surplus = self.gone.len().saturating_sub(REMEMBERED);
        self.gone.drain(..surplus);
        order
    }
}

/// A tree that the watcher writes and reports read.
#[derive(Clone, Debug)]
pub struct SharedTree(Arc<RwLock<Tree>>);

impl SharedTree {
    /// Shares a tree.
    pub fn new(tree: Tree) -> Self {
        Self(Arc::new(RwLock::new(tree)))
    }

    /// For reading. Hold it briefly: the watcher waits.
    pub fn read(&self) -> RwLockReadGuard<'_, Tree> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Tree> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> CgroupId {
        CgroupId(n)
    }

    fn tree() -> Tree {
        let mut tree = Tree::new(id(1));
        assert!(tree.insert(id(1), "user.slice", id(2), false));
        assert!(tree.insert(id(2), "user@1000.service", id(3), false));
        assert!(tree.insert(id(3), "app.slice", id(4), true));
        tree
    }

    #[test]
    fn a_path_is_that_of_proc_pid_cgroup() {
        let tree = tree();
        assert_eq!(tree.path(id(1)).as_deref(), Some("/"));
        assert_eq!(tree.path(id(4)).as_deref(), Some("/user.slice/user@1000.service/app.slice"));
        assert_eq!(tree.path(id(9)), None);
    }

    #[test]
    fn the_lineage_tells_which_names_root_chose() {
        let tree = tree();
        let lineage: Vec<_> = tree.lineage(id(4)).iter().map(|dir| (dir.name, dir.delegated)).collect();
        assert_eq!(lineage, [("user.slice", false), ("user@1000.service", false), ("app.slice", true)]);
    }

    #[test]
    fn a_removed_cgroup_takes_all_below_it_along_and_keeps_its_path_for_reports() {
        let mut tree = tree();
        assert_eq!(tree.remove(id(2)), [id(4), id(3), id(2)]);
        assert_eq!(tree.len(), 1);
        assert_eq!(tree.child(id(1), "user.slice"), None);
        assert_eq!(tree.path(id(3)).as_deref(), Some("/user.slice/user@1000.service"));
    }

    #[test]
    fn a_flood_of_delegated_directories_leaves_room_for_those_of_root() {
        let mut tree = tree();
        for n in 0..2 * MAX_DELEGATED as u64 {
            tree.insert(id(4), &n.to_string(), id(100 + n), true);
        }
        assert!(tree.ignored() > 0);
        assert!(tree.insert(id(1), "system.slice", id(5), false));
    }

    #[test]
    fn directories_too_deep_are_counted_not_followed() {
        let mut tree = Tree::new(id(0));
        let followed = (0..100).filter(|&n| tree.insert(id(n), "nested", id(n + 1), false)).count();
        assert_eq!(followed, MAX_DEPTH);
        assert_eq!(tree.ignored(), 1);
    }
}
