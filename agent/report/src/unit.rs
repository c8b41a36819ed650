//! The systemd unit that a cgroup belongs to.

/// Kinds of units that have processes, slices aside (systemd.unit(5)).
const KINDS: [&str; 5] = ["service", "scope", "socket", "mount", "swap"];

/// The system manager's unit that the cgroup with this path belongs to: the first directory below slices
/// (`cg_path_get_unit` in systemd's src/basic/cgroup-util.c).
pub(crate) fn unit_of(path: &str) -> Option<&str> {
    let directory = path.split('/').find(|name| !name.is_empty() && kind(name) != Some("slice"))?;
    // systemd puts an underscore before names that the kernel could take for its own files.
    let unit = directory.strip_prefix('_').unwrap_or(directory);
    kind(unit).is_some_and(|kind| KINDS.contains(&kind)).then_some(unit)
}

/// What follows the last dot of a unit's name.
fn kind(unit: &str) -> Option<&str> {
    unit.rsplit_once('.').filter(|(name, _)| !name.is_empty()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_belongs_to_the_first_unit_below_its_slices() {
        for (path, unit) in [
            ("/ci.slice/job-7.scope", Some("job-7.scope")),
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service/x", Some("getty@tty1.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service",
                Some("user@1000.service"),
            ),
            ("/system.slice/docker-0123.scope/container", Some("docker-0123.scope")),
            ("/init.scope", Some("init.scope")),
            ("/_cgroup.service", Some("cgroup.service")),
            ("/system.slice", None),
            ("/ci/job", None),
            ("/ci/nginx.service", None),
            ("/.service", None),
            ("/", None),
        ] {
            assert_eq!(unit_of(path), unit, "{path}");
        }
    }
}
