//! The systemd unit that a cgroup belongs to.

/// Kinds of units that have processes, slices aside (systemd.unit(5)).
const KINDS: [&str; 5] = ["service", "scope", "socket", "mount", "swap"];

/// The system manager's unit that the cgroup with this path belongs to: the first directory below slices if that is a
/// unit (`cg_path_get_unit` in systemd's src/basic/cgroup-util.c), else the innermost of these slices.
pub(crate) fn unit_of(path: &str) -> Option<&str> {
    let mut slice = None;
    for directory in path.split('/').filter(|name| !name.is_empty()) {
        if kind(directory) == Some("slice") {
            slice = Some(directory);
            continue;
        }
        // systemd puts an underscore before names that the kernel could take for its own files.
        let unit = directory.strip_prefix('_').unwrap_or(directory);
        return kind(unit).filter(|kind| KINDS.contains(kind)).map(|_| unit).or(slice);
    }
    slice
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
            ("/ci.slice/ci-nightly.slice", Some("ci-nightly.slice")),
            ("/ci.slice/plain", Some("ci.slice")),
            ("/ci/job", None),
            ("/ci/nginx.service", None),
            ("/.service", None),
            ("/", None),
        ] {
            assert_eq!(unit_of(path), unit, "{path}");
        }
    }
}
