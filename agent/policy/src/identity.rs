//! Which workload a cgroup is in.

use crate::language::{Policy, Selector, WorkloadId};

/// One directory on the way from the root of the cgroup tree to a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupDir<'a> {
    /// Its name.
    pub name: &'a str,
    /// May somebody other than root create it?
    pub delegated: bool,
}

/// Who the processes of a cgroup are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// In no workload.
    None,
    /// In this workload.
    Workload(WorkloadId),
    /// In a workload, and it cannot be told in which.
    Unidentified,
}

impl Policy {
    /// Which workload the cgroup at the end of `path` is in; an empty path is the root of the tree.
    ///
    /// Directories are asked from the root down, as the kernel sees them appear. The most specific selector wins; two
    /// workloads with equal right are nobody. Below a match the identity is inherited, and only a directory that
    /// root alone could have made can be matched by something more specific. Directories deeper than
    /// [`bulkhead_common::MAX_CGROUP_LEVEL`] inherit.
    pub fn identify(&self, path: &[CgroupDir<'_>]) -> Identity {
        let names: Vec<_> = path.iter().map(|dir| dir.name).collect();
        let mut best: Option<(usize, Identity)> = None;
        for depth in 0..=path.len().min(crate::language::MAX_DEPTH) {
            let delegated = depth > 0 && path[depth - 1].delegated;
            if delegated && best.is_some() {
                continue;
            }
            for (n, workload) in self.workloads.iter().enumerate() {
                let found = Identity::Workload(WorkloadId(n));
                for (selector, _) in &workload.selectors {
                    let Some(specificity) = selector.matches_cgroup(&names[..depth], delegated) else {
                        continue;
                    };
                    best = Some(weigh(best, (specificity, found)));
                }
            }
        }
        best.map_or(Identity::None, |(_, who)| who)
    }

    /// Does some selector of the workload need facts that a cgroup's path does not tell?
    pub fn needs_container_facts(&self, workload: WorkloadId) -> bool {
        let mut selectors = self.workloads[workload.0].selectors.iter();
        selectors.any(|(s, _)| matches!(s, Selector::Container { .. } | Selector::Kubernetes { .. }))
    }
}

/// The stronger of two matches, each with how specific it is; two workloads with equal right are nobody.
pub(crate) fn weigh(held: Option<(usize, Identity)>, found: (usize, Identity)) -> (usize, Identity) {
    match held {
        Some(held) if held.0 > found.0 => held,
        Some(held) if held.0 == found.0 && held.1 != found.1 => (held.0, Identity::Unidentified),
        _ => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::policy;

    /// The workload of a path, in which a delegated directory starts with `~`.
    #[track_caller]
    fn who(policy: &Policy, path: &str) -> String {
        let dirs: Vec<_> = path
            .split('/')
            .filter(|c| !c.is_empty())
            .map(|c| CgroupDir { name: c.trim_start_matches('~'), delegated: c.starts_with('~') })
            .collect();
        match policy.identify(&dirs) {
            Identity::None => "nobody".into(),
            Identity::Unidentified => "unidentified".into(),
            Identity::Workload(w) => policy.workloads[w.0].name.clone(),
        }
    }

    #[test]
    fn a_unit_is_found_wherever_its_slice_is_and_covers_what_is_below() {
        let p = policy("[workload.web]\nselect = { systemd = \"nginx.service\" }");
        assert_eq!(who(&p, "/system.slice/nginx.service"), "web");
        assert_eq!(who(&p, "/a.slice/a-b.slice/nginx.service/worker"), "web");
        assert_eq!(who(&p, "/nginx.service"), "web");
        assert_eq!(who(&p, "/system.slice"), "nobody");
        assert_eq!(who(&p, "/"), "nobody");
    }

    #[test]
    fn a_users_own_unit_is_not_the_systems() {
        let p = policy("[workload.web]\nselect = { systemd = \"nginx.service\" }");
        let manager = "/user.slice/user-1000.slice/user@1000.service";
        assert_eq!(who(&p, &format!("{manager}/~app.slice/~nginx.service")), "nobody");
        assert_eq!(who(&p, "/user.slice/~nginx.service"), "nobody");
    }

    #[test]
    fn the_most_specific_selector_wins_whatever_the_order() {
        let p = policy(
            "[workload.all]\nselect = { cgroup = \"/system.slice/**\" }\n\
             [workload.web]\nselect = { systemd = \"nginx.service\" }\n\
             [workload.job]\nselect = { cgroup = \"/ci.slice/job-*.scope\" }\n\
             [workload.ci]\nselect = { cgroup = \"/ci.slice\" }",
        );
        assert_eq!(who(&p, "/system.slice/nginx.service"), "web");
        assert_eq!(who(&p, "/system.slice/cron.service"), "all");
        assert_eq!(who(&p, "/ci.slice/job-7.scope/x"), "job");
        assert_eq!(who(&p, "/ci.slice/x"), "ci");
    }

    #[test]
    fn a_delegated_owner_names_no_workload_below_an_identified_one() {
        let p = policy(
            "[workload.user]\nselect = { cgroup = \"/user.slice/**\" }\n\
             [workload.db]\nselect = { cgroup = \"/user.slice/*/very-secret-database\" }",
        );
        assert_eq!(who(&p, "/user.slice/x/very-secret-database"), "db");
        assert_eq!(who(&p, "/user.slice/x/~very-secret-database"), "user");
    }

    #[test]
    fn equal_right_at_run_time_is_nobodys() {
        let p = crate::testing::unchecked(
            "[workload.a]\nselect = { cgroup = \"/x/*b\" }\n[workload.b]\nselect = { cgroup = \"/x/a*\" }",
        );
        assert_eq!(who(&p, "/x/ab"), "unidentified");
        assert_eq!(who(&p, "/x/ab/c"), "unidentified");
        assert_eq!(who(&p, "/x/bb"), "a");
    }
}
